"""The report opens from the disk alone, shows every view and figure, and executes nothing that it quotes."""

import html.parser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from ipsm_jax.metrics.suite import VARIANTS
from ipsm_jax.reporting import html as report_module
from ipsm_jax.reporting.files import write_png
from ipsm_jax.reporting.html import ViewPictures, format_metric, write_report

HOSTILE = '<script>alert("1")</script>\'"&<img src=x onerror=alert(2)>'


class Page(html.parser.HTMLParser):
    """Elements, attributes and visible text of a page, and that every element is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def make_view(folder: Path, name: str) -> ViewPictures:
    rng = np.random.default_rng(0)
    stem = Path(name).stem.replace("/", "_")
    paths = [folder / "renders" / f"{stem}{suffix}.png" for suffix in ("_gt", "", "_error", "_depth")]
    for path in paths:
        write_png(path, rng.random((12, 16, 3)))
    return ViewPictures(name, *paths)


def make_report(folder: Path, name: str = "a.png", **changes) -> Page:
    values = dict.fromkeys(VARIANTS, 0.5) | {"psnr": 21.234, "lpips_alex": None}
    arguments = {
        "title": "fern",
        "facts": {"Gaussians": "1,234", "Training views": ["x.png", "y.png"]},
        "metrics": {
            "mean": values,
            "views": {name: values},
            "variants": VARIANTS,
            "not_computed": {"lpips_alex": "The weights are not installed."},
        },
        "views": [make_view(folder, name)],
    } | changes
    path = write_report(folder, **arguments)
    assert path == folder / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


def test_the_page_shows_pictures_figures_and_reasons(tmp_path):
    page = make_report(
        tmp_path,
        notes=["Started from 563 points."],
        training_photos={f"{i}.png": np.zeros((40, 60, 3), np.uint8) for i in range(3)},
        history=[{"iteration": i, "loss": 1 / i, "psnr": 10 + i, "gaussians": i} for i in range(1, 9)]
        + [{"iteration": 8, "test_psnr": 15.0, "test_ssim": 0.5}],
        config={"seed": 3, "data": {"scene": "fern"}},
        environment={"jax": "0.10.2"},
    )
    assert len([image for image in page.all("img") if image.get("src")]) == 4 + 3
    for text in (
        "21.23 dB",
        "Started from 563 points.",
        "a.png",
        "data.scene",
        "fern",
        "0.10.2",
        "1,234",
        "x.png, y.png",
    ):
        assert text in page.text
    assert "LPIPS Alex: not computed. The weights are not installed." in page.text
    assert len(page.all("svg")) == 3
    assert len(page.all("circle")) == 1
    assert [video["src"] for video in page.all("video")] == ["video.mp4"]


def test_pictures_of_pseudo_views_are_shown_the_last_one_first(tmp_path):
    assert "Pseudo views" not in make_report(tmp_path).text
    for iteration in (501, 1001, 1501):
        write_png(tmp_path / "diagnostics" / f"iteration_{iteration:06}.png", np.zeros((4, 6, 3)))
    page = make_report(tmp_path)
    shown = [image["src"] for image in page.all("img") if (image.get("src") or "").startswith("diagnostics/")]
    assert shown == [f"diagnostics/iteration_00{n}.png" for n in ("1501", "0501", "1001")]
    assert "2 earlier" in page.text and "iteration 1501" in page.text
    elsewhere = make_report(tmp_path / "again", run_folder=tmp_path)
    assert "../diagnostics/iteration_000501.png" in [image.get("src") for image in elsewhere.all("img")]


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    page = make_report(tmp_path)
    for _, attributes in page.elements:
        for key in ("src", "href", "poster", "data"):
            address = attributes.get(key)
            assert (
                address is None
                or address.startswith("data:image/jpeg;base64,")
                or not address.startswith(("http", "//", "/", "file", "data"))
            )
    assert "url(" not in report_module.CSS and "@import" not in report_module.CSS


def test_every_text_from_outside_is_escaped(tmp_path):
    page = make_report(
        tmp_path,
        title=HOSTILE,
        heading=HOSTILE,
        facts={HOSTILE: HOSTILE, "list": [HOSTILE]},
        metrics={
            "mean": {"psnr": 1.0, HOSTILE: 2.0},
            "views": {HOSTILE: {"psnr": 1.0}},
            "variants": {"psnr": HOSTILE},
            "not_computed": {HOSTILE: HOSTILE},
        },
        views=[make_view(tmp_path, "plain.png")._replace(name=HOSTILE)],
        notes=[HOSTILE],
        training_photos={HOSTILE: np.zeros((4, 4, 3), np.uint8)},
        config={HOSTILE: {HOSTILE: HOSTILE}},
        environment={HOSTILE: HOSTILE},
        run_folder=tmp_path / "<script>x",
    )
    assert len(page.all("script")) == 1
    assert not any("onerror" in attributes for attributes in page.all("img"))
    assert page.text.count('<script>alert("1")</script>') >= 12  # seen as text instead


def test_big_pictures_stay_files_beside_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(report_module, "INLINE_LIMIT", 1000)
    page = make_report(tmp_path, "a b#1.png")
    sources = [image["src"] for image in page.all("img") if image.get("src")]
    assert len(sources) == 4
    for source in sources:
        assert "data:" not in source and "#" not in source  # a bare # would cut the address
        assert (tmp_path / unquote(source)).is_file()


def test_of_many_training_photos_some_are_shown(tmp_path):
    page = make_report(tmp_path, training_photos={f"{i}.png": np.zeros((8, 8, 3), np.uint8) for i in range(50)})
    assert len([image for image in page.all("img") if image.get("src")]) == 4 + 12
    assert "12 of 50 photos" in page.text


def test_an_empty_report_is_a_page_too(tmp_path):
    page = Page(write_report(tmp_path, title="t", facts={}, metrics={}, views=[]).read_text(encoding="utf-8"))
    assert page.open == [] and "t" in page.text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("psnr", 20.456, "20.46 dB"), ("ssim", 0.70249, "0.702"), ("other", 0.123456, "0.1235"), ("psnr", None, "\u2013")],
)
def test_metrics_have_their_digits(name, value, text):
    assert format_metric(name, value, unit=True) == text
