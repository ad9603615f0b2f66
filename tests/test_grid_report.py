"""Tables and the page of a ledger: means over seeds, equal weight for scenes, nothing averaged over what is missing."""

import csv
import io
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
from grid.ledger import Entry, Ledger
from grid.page import write_page
from grid.plan import expand
from grid.tables import ALL, comma_separated, latex, markdown, mixed_versions, rows_of, told_apart

from ipsm_jax.reporting.files import write_png

sys.path.pop(0)


def entry(
    scene,
    method,
    seed,
    psnr=None,
    *,
    state="finished",
    lpips=0.2,
    folder="nowhere",
    error=None,
    config=None,
    environment=None,
):
    metrics = None if psnr is None else {"psnr": psnr, "ssim": 0.5, "lpips_vgg": lpips, "avge": 0.1}
    facts = {"gaussians": 40, "seconds_of_batch": 1.5}
    name = f"{scene}{method}{seed}"
    return Entry(
        name, scene, method, seed, str(folder), config or {}, state, environment, metrics, facts, error, "2026-01-01"
    )


GRID = [
    entry("fern", "base", 0, 20.0),
    entry("fern", "base", 1, 21.0),
    entry("fern", "best_one", 0, 23.0),
    entry("fern", "best_one", 1, 24.0, lpips=None),
    entry("horns", "base", 0, 18.0),
    entry("horns", "base", 1, 19.5),
    entry("horns", "best_one", 1, 22.0),
    entry("horns", "best_one", 0, state="planned"),
]


def test_rows_are_means_over_what_is_finished_and_say_what_is_not():
    rows = {(row.scene, row.method): row for row in rows_of(GRID)}
    assert rows["fern", "base"].values["psnr"] == [20.0, 21.0]
    assert "lpips_vgg" not in rows["fern", "best_one"].values  # one seed lacks it
    assert "lpips_vgg_unscaled" not in rows["fern", "base"].values
    assert (rows["horns", "best_one"].seeds, rows["horns", "best_one"].unfinished) == ([1], 1)
    assert rows[ALL, "base"].values["psnr"] == [19.0, 20.25]
    assert rows[ALL, "best_one"].seeds == [1]  # the seed that both scenes have
    assert rows[ALL, "best_one"].values["psnr"] == [23.0]
    only = [entry("fern", "base", 0, 20.0), entry("horns", "best_one", 0, 22.0)]
    assert [row.values for row in rows_of(only) if row.scene == ALL] == [{}, {}]  # no method has both scenes
    assert not [row for row in rows_of(GRID[:4]) if row.scene == ALL]


def test_markdown_latex_and_csv_hold_the_same_figures():
    rows = rows_of(GRID)
    lines = markdown(rows).splitlines()
    same = [
        "**0.500 ± 0.000**",
        "0.200 ± 0.000",
        "-",
        "**0.100 ± 0.000**",
    ]  # no other has LPIPS; the others are as good
    assert lines[2] == f"| fern | base | 2 | 20.50 ± 0.71 | {' | '.join(same)} |"
    assert "| horns | best_one | 1 (1 runs unfinished) | **22.00** |" in lines[5]
    text = latex(rows)
    assert r"fern & base & 20.50 $\pm$ 0.71 &" in text and r" & best\_one & \textbf{23.50 $\pm$ 0.71} &" in text
    assert text.count(r"\midrule") == 3 and r"PSNR $\uparrow$" in text and r"LPIPS (VGG) $\downarrow$" in text
    table = list(csv.DictReader(io.StringIO(comma_separated(GRID))))
    assert [row["psnr"] for row in table] == ["20.0", "21.0", "23.0", "24.0", "18.0", "19.5", "22.0", ""]
    assert table[-1]["state"] == "planned" and table[3]["lpips_vgg"] == ""


def test_a_row_is_not_the_mean_of_different_settings():
    def settings(iterations, prior=None):
        digest = {} if prior is None else {"prior_digest": prior}
        folders = {"output": {"out": str(iterations)}, "data": {"scene": "x", "data_root": str(prior), "views": 3}}
        return folders | {"seed": iterations, "optimization": {"iterations": iterations}} | digest

    entries = [
        entry("fern", "base", 0, 20.0, config=settings(100)),
        entry("fern", "base", 0, 22.0, config=settings(200)),
        entry("horns", "base", 0, 18.0, config=settings(200)),
        entry("fern", "g1", 0, 24.0, config=settings(100)),
        entry("fern", "g1", 0, 25.0, config=settings(100, "ab")),
        entry("fern", "g1", 1, 26.0, config=settings(100, "ab")),
        entry("fern", "sds", 0, 1.0, config=settings(100)),
        entry("horns", "sds", 0, 2.0, config=settings(200)),  # a scene may have a preset of its own
    ]
    rows = {(row.scene, row.method): row.values.get("psnr") for row in rows_of(told_apart(entries))}
    assert rows == {
        ("fern", "base (iterations=100)"): [20.0],
        ("fern", "base (iterations=200)"): [22.0],
        ("fern", "g1 (prior_digest=unknown)"): [24.0],
        ("fern", "g1 (prior_digest=ab)"): [25.0, 26.0],
        ("fern", "sds"): [1.0],
        ("horns", "base (iterations=200)"): [18.0],
        ("horns", "sds"): [2.0],
        (ALL, "base (iterations=100)"): None,
        (ALL, "base (iterations=200)"): [20.0],
        (ALL, "g1 (prior_digest=unknown)"): None,
        (ALL, "g1 (prior_digest=ab)"): None,
        (ALL, "sds"): [1.5],
    }


def test_a_row_of_several_versions_of_the_program_is_named(tmp_path):
    def trained(scene, seed, git, version="1.0"):
        environment = {"ipsm_jax": version, "git": git}
        return entry(scene, "base", seed, 20.0 + seed, environment=environment, folder=tmp_path)

    one, other = "a" * 40, "b" * 40 + "+"
    assert (
        mixed_versions(rows_of([trained("fern", 0, one), trained("fern", 1, one), entry("fern", "base", 2, 1.0)]))
        is None
    )
    entries = [trained("fern", 0, other), trained("fern", 1, one), trained("horns", 0, None, "2.0")]
    rows = rows_of(entries)
    line = mixed_versions(rows)
    assert line == (
        "Runs of different versions of ipsm_jax are averaged here: fern base: 1.0 (aaaaaaaa), 1.0 (bbbbbbbb+); "
        "all scenes base: 1.0 (aaaaaaaa), 1.0 (bbbbbbbb+), 2.0."
    )
    assert line in Page(write_page(tmp_path, entries, rows).read_text()).data


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.data, self.options = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.data.append(data)


def test_the_page_compares_pictures_of_what_is_finished(tmp_path):
    entries = []
    for method, shade in (("base", 0.2), ("best </script>", 0.6)):
        folder = tmp_path / method[:4] / "run"
        for view in ("0000", "0008"):
            write_png(folder / "renders" / f"{view}.png", np.full((4, 6, 3), shade))
            write_png(folder / "renders" / f"{view}_gt.png", np.full((4, 6, 3), 0.5))
        lines = [{"iteration": i, "psnr": 10.0 + i} for i in (1, 2)] + [{"iteration": 2, "test_psnr": 9.0}]
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        entries.append(entry("fern", method, 0, 20.0, folder=folder))
    entries.append(entry("fern", "sds", 0, state="failed", error="the loss <b> is not a number"))
    text = write_page(tmp_path, entries, rows_of(entries)).read_text()
    page = Page(text)
    pictures = json.loads(next(data for data in page.data if data.startswith('{"0000"')))
    assert pictures["0008"] == {
        "photo": "base/run/renders/0008_gt.png",
        "base": "base/run/renders/0008.png",
        "best </script>": "best/run/renders/0008.png",
    }
    assert all((tmp_path / address).is_file() for view in pictures.values() for address in view.values())
    assert "nowhere: the loss <b> is not a number" in "".join(page.data) and "<b> is not" not in text
    assert "2 finished, 1 failed" in text
    assert {a["src"] for t, a in page.tags if t == "img" and "src" in a} == {"figures.png", "curves.png"}
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("figures.png", "curves.png"))


def test_a_grid_can_be_moved_and_one_without_runs_has_no_report(tmp_path):
    (run,) = expand(["demo"], {"base": []}, [0], [], None, tmp_path / "here")
    ledger = Ledger(tmp_path / "here")
    with ledger.locked():
        script = [sys.executable, Path(__file__).parents[1] / "experiments" / "report.py", tmp_path / "here"]
        done = subprocess.run(script, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "no run is in the ledger" in done.stderr
        ledger.plan(run)
    assert ledger.entries()[0].folder == str(run.folder)
    (tmp_path / "here").rename(tmp_path / "there")
    assert Ledger(tmp_path / "there").entries()[0].folder == str(tmp_path / "there" / run.name)


def test_the_report_tells_settings_and_versions_apart(tmp_path):
    runs = expand(["demo"], {"base": []}, [0, 1], [], None, tmp_path)
    runs += expand(["demo"], {"base": []}, [0], ["--dropout", "0.1"], None, tmp_path)
    ledger = Ledger(tmp_path)
    with ledger.locked():
        for run, revision in zip(runs, "aba", strict=True):
            ledger.plan(run)
            environment = {"ipsm_jax": "1.0", "git": revision * 40}
            ledger.change(run, "finished", environment=environment, metrics={"psnr": 20.0})
    script = [sys.executable, Path(__file__).parents[1] / "experiments" / "report.py", tmp_path]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *_, same, other, empty, line = (tmp_path / "table.md").read_text().splitlines()
    assert same.startswith("| demo | base (dropout=0.0) | 2 | ") and other.startswith(
        "| demo | base (dropout=0.1) | 1 "
    )
    assert (empty, line.split(": ")[1:]) == ("", ["demo base (dropout=0.0)", "1.0 (aaaaaaaa), 1.0 (bbbbbbbb)."])
    assert line in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("spoil", [False, True])
def test_a_folder_without_a_ledger_is_refused(tmp_path, spoil):
    if spoil:
        (tmp_path / "ledger.sqlite").write_bytes(b"nonsense" * 1000)
    script = Path(__file__).parents[1] / "experiments" / "report.py"
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and ("not a database" if spoil else "there is no ledger in") in done.stderr
