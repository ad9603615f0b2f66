"""report.html: what a run did, to be looked at. One file that opens from the disk, offline.

Pictures are stored inside the page as JPEG while they are small; past `INLINE_LIMIT` bytes the page points to the files
in renders/ instead. The video is always a file beside the page. Every text that comes from outside is escaped.
"""

from __future__ import annotations

import base64
import html
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import imageio.v3 as iio
import numpy as np
from PIL import Image

from ipsm_jax.reporting.curves import Series, line_chart
from ipsm_jax.reporting.files import atomic_write
from ipsm_jax.reporting.html_style import CSS, SCRIPT
from ipsm_jax.reporting.pictures import COLOR_STOPS, ERROR_RANGE

INLINE_LIMIT = 12_000_000  # bytes of all pictures together
_JPEG_QUALITY = 90
MOST_THUMBNAILS = 12
THUMBNAIL_HEIGHT = 120  # as the style sheet draws them; stored at twice that for dense screens

# How each metric is written: heading, number format, unit; in the order of the table's columns.
METRIC_STYLE: dict[str, tuple[str, str, str]] = {
    "psnr": ("PSNR", ".2f", " dB"),
    "ssim": ("SSIM", ".3f", ""),
    "lpips_vgg": ("LPIPS VGG", ".3f", ""),
    "lpips_vgg_unscaled": ("LPIPS VGG, unscaled", ".3f", ""),
    "lpips_alex": ("LPIPS Alex", ".3f", ""),
    "avge": ("AVGE", ".3f", ""),
    "avge_unscaled": ("AVGE, unscaled", ".3f", ""),
}


class ViewPictures(NamedTuple):
    """Pictures of one view, as PNG files in or below the report's folder."""

    name: str
    ground_truth: Path
    render: Path
    error: Path
    depth: Path


def write_report(
    folder: Path,
    *,
    title: str,
    facts: Mapping[str, Any],
    metrics: Mapping[str, Any],
    views: Sequence[ViewPictures],
    notes: Iterable[str] = (),
    training_photos: Mapping[str, np.ndarray] | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    heading: str = "Views it was not trained on",
    run_folder: Path | None = None,
) -> Path:
    """Write ``folder/report.html`` and return its path.

    Args:
      folder: the run's folder.
      title: heading, usually the scene's name.
      facts: short facts about the scene and the run, shown as a table (value by name).
      metrics: what metrics.json holds: "mean", "views", "variants", "not_computed" (see `ipsm_jax.evaluate`).
      views: the evaluated views in order.
      notes: sentences for the reader.
      training_photos: (H, W, 3) uint8 by name, shown small.
      history: records of log.jsonl; keys iteration, loss, psnr, gaussians, test_psnr are drawn where present.
      config, environment: shown folded, as they are.
      heading: what the views are.
      run_folder: folder of video.mp4, which the page shows as soon as it is there, and of diagnostics/; default:
        `folder`.
    """
    variants = metrics.get("variants", {})
    sections = [
        _cards(metrics.get("mean", {}), variants),
        *(f'<p class="soft">{html.escape(note)}</p>' for note in notes),
        _training_photos(training_photos or {}),
        f"<h2>{html.escape(heading)}</h2>" if views else "",
        _views(views, metrics.get("views", {}), folder),
        _video(folder, folder if run_folder is None else run_folder),
        _curves(history),
        _pseudo_views(folder, folder if run_folder is None else run_folder),
        "<h2>Metrics</h2>",
        _metrics_table(metrics),
        "<h2>Run</h2>",
        plain_table(facts),
        _folded("Settings", config),
        _folded("Environment", environment),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head>\n<body><main>"
        f"<h1>{html.escape(title)}</h1>" + "\n".join(filter(None, sections)) + f"</main><script>{SCRIPT}</script>"
        "</body></html>\n"
    )
    path = Path(folder) / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def format_metric(name: str, value: float | None, *, unit: bool = False) -> str:
    """A metric's value as text; a dash where it was not computed."""
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    _, form, suffix = METRIC_STYLE.get(name, (name, ".4g", ""))
    return format(value, form) + (suffix if unit else "")


def _cards(mean: Mapping[str, float | None], variants: Mapping[str, str]) -> str:
    """The four figures that people look for first."""
    cards = []
    for name in ("psnr", "ssim", "lpips_vgg", "avge"):
        if name in mean:
            heading = METRIC_STYLE[name][0]
            tip = html.escape(variants.get(name, ""))
            value = format_metric(name, mean[name], unit=True)
            label = html.escape(heading if mean[name] is not None else f"{heading}, not computed")
            cards.append(f'<div class="card" title="{tip}"><b>{value}</b><span>{label}</span></div>')
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _training_photos(photos: Mapping[str, np.ndarray]) -> str:
    """What the training has seen, as thumbnails; of many photos only some, evenly chosen."""
    names = list(photos)
    chosen = sorted({round(i) for i in np.linspace(0, len(names) - 1, min(len(names), MOST_THUMBNAILS))})
    figures = []
    for name in (names[i] for i in chosen):
        photo = Image.fromarray(photos[name])
        photo.thumbnail((480, 2 * THUMBNAIL_HEIGHT))
        source, label = data_address(np.asarray(photo)), html.escape(name)
        figures.append(f'<figure><img src="{source}" alt="{label}"><figcaption>{label}</figcaption></figure>')
    more = f'<p class="soft">{len(chosen)} of {len(names)} photos.</p>' if len(chosen) < len(names) else ""
    return f'<h2>Trained on</h2><div class="photos">{"".join(figures)}</div>{more}' if figures else ""


def _views(views: Sequence[ViewPictures], metrics: Mapping[str, Any], folder: Path) -> str:
    """All views; two of upright pictures stand side by side."""
    if not views:
        return ""
    inline = _inline_pictures(views)
    height, width = iio.improps(views[0].render).shape[:2]
    cards = "".join(_view(view, metrics.get(view.name, {}), folder, inline) for view in views)
    return f'<div class="views{" tall" if height > width else ""}">{cards}</div>'


def _view(view: ViewPictures, metrics: Mapping[str, float | None], folder: Path, inline: Mapping[Path, str]) -> str:
    """One view: slider on the left, the four pictures on the right."""
    numbers = " ".join(
        f"<span>{html.escape(heading)} {format_metric(name, metrics[name], unit=True)}</span>"
        for name, (heading, _, _) in METRIC_STYLE.items()
        if name in ("psnr", "ssim", "lpips_vgg") and metrics.get(name) is not None
    )
    scale = _color_scale()

    def tile(path: Path, what: str, caption: str) -> str:
        file = _address(path, folder)
        return (
            f'<figure><a href="{file}"><img src="{inline.get(path) or file}" alt="{what} of {html.escape(view.name)}">'
            f"</a><figcaption>{caption}</figcaption></figure>"
        )

    # the slider's two pictures are the first two tiles' again: the script sets them, so that the page holds them once
    return (
        f'<section class="view"><header><h3>{html.escape(view.name)}</h3>{numbers}</header><div class="panels">'
        '<div class="compare"><div class="frame"><img class="under" alt="Render"><img class="over" alt="Photo"></div>'
        '<span class="tag left">photo</span><span class="tag right">render</span>'
        '<input type="range" min="0" max="100" step="0.1" value="50" aria-label="Compare photo and render">'
        '<div class="bar"></div></div><div class="tiles">'
        + tile(view.ground_truth, "Photo", "Photo")
        + tile(view.render, "Render", "Render")
        + tile(view.error, "Error", f"Error: 0 {scale} {ERROR_RANGE:g} and more")
        + tile(view.depth, "Depth", f"Depth: far {scale} near")
        + "</div></div></section>"
    )


def _video(folder: Path, run_folder: Path) -> str:
    """The run's video; the script puts the hint in its place while there is none."""
    source = _address(run_folder / "video.mp4", folder)
    command = html.escape(f"python -m ipsm_jax.render {run_folder}")
    return (
        f'<h2>Video</h2><video src="{source}" controls autoplay loop muted playsinline></video>'
        f'<p class="soft" hidden>No video yet: <code>{command}</code></p>'
    )


def _pseudo_views(folder: Path, run_folder: Path) -> str:
    """What the terms on pseudo views saw: the last picture of diagnostics/, and the earlier ones folded."""
    figures = [
        f'<figure><img src="{_address(path, folder)}" loading="lazy" alt="pseudo view" style="width: 100%">'
        f"<figcaption>iteration {int(path.stem.rpartition('_')[2])}</figcaption></figure>"
        for path in sorted((run_folder / "diagnostics").glob("iteration_*.png"))
    ]
    if not figures:
        return ""
    *earlier, last = figures
    folded = f"<details><summary>{len(earlier)} earlier</summary>{''.join(earlier)}</details>" if earlier else ""
    return f"<h2>Pseudo views</h2>{last}{folded}"


def _color_scale() -> str:
    stops = ", ".join(f"#{stop}" for stop in COLOR_STOPS)
    return f"<span class='scale' style='background: linear-gradient(90deg, {stops})'></span>"


def _curves(history: Sequence[Mapping[str, Any]]) -> str:
    def series(label: str, key: str, marks: bool = False) -> Series:
        records = [record for record in history if isinstance(record.get(key), int | float)]
        return Series(label, [record["iteration"] for record in records], [record[key] for record in records], marks)

    charts = [
        line_chart("PSNR, dB", [series("training view", "psnr"), series("test views", "test_psnr", marks=True)]),
        line_chart("Loss", [series("", "loss")]),
        line_chart("Gaussians", [series("", "gaussians")]),
    ]
    drawn = "".join(charts)
    return f'<h2>Training</h2><div class="charts">{drawn}</div>' if drawn else ""


def _metrics_table(metrics: Mapping[str, Any]) -> str:
    views, mean = metrics.get("views", {}), metrics.get("mean", {})
    columns = [name for name in METRIC_STYLE if name in mean or any(name in row for row in views.values())]
    columns += sorted(set(mean) - set(columns))
    variants = metrics.get("variants", {})
    headings = "".join(
        f'<th title="{html.escape(variants.get(name, ""))}">{html.escape(METRIC_STYLE.get(name, (name,))[0])}</th>'
        for name in columns
    )

    def row(label: str, values: Mapping[str, float | None], style: str = "") -> str:
        cells = "".join(f"<td>{format_metric(name, values.get(name))}</td>" for name in columns)
        return f"<tr{style}><td>{html.escape(label)}</td>{cells}</tr>"

    rows = "".join(row(name, values) for name, values in views.items()) + row("mean", mean, ' class="mean"')
    explained = "".join(
        f"<p class='soft'>{html.escape(METRIC_STYLE.get(name, (name,))[0])}: {html.escape(variants[name])}</p>"
        for name in columns
        if name in variants
    )
    missing = "".join(
        f"<p>{html.escape(METRIC_STYLE.get(name, (name,))[0])}: not computed. {html.escape(reason)}</p>"
        for name, reason in metrics.get("not_computed", {}).items()
    )
    table = (
        f'<div class="table"><table><thead><tr><th>View</th>{headings}</tr></thead><tbody>{rows}</tbody></table></div>'
    )
    return (
        table
        + missing
        + (f"<details><summary>How they are computed</summary>{explained}</details>" if explained else "")
    )


def plain_table(facts: Mapping[str, Any]) -> str:
    """Facts by name as a table of two columns; nothing if there are none."""
    rows = "".join(
        f"<tr><td>{html.escape(str(name))}</td><td>{html.escape(_as_text(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f'<div class="table plain"><table><tbody>{rows}</tbody></table></div>' if rows else ""


def _folded(title: str, values: Mapping[str, Any] | None) -> str:
    return f"<details><summary>{title}</summary>{plain_table(_flat(values))}</details>" if values else ""


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _as_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "not set" if value is None else str(value)


def _address(path: Path, folder: Path) -> str:
    """A file as a link from a page in `folder`, escaped for HTML."""
    return html.escape(quote(Path(os.path.relpath(path, folder)).as_posix()))


def _inline_pictures(views: Sequence[ViewPictures]) -> dict[Path, str]:
    """data: addresses of all pictures, or nothing if together they are too big for one page."""
    inline: dict[Path, str] = {}
    total = 0
    for path in (path for view in views for path in view[1:]):
        inline[path] = data_address(np.asarray(iio.imread(path))[..., :3])
        total += len(inline[path])
        if total > INLINE_LIMIT:
            return {}
    return inline


def data_address(picture: np.ndarray) -> str:
    """A uint8 picture as a data: address that holds it as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
