"""report.html of the command `prepare`: which photos became views, where they stand, and what stereo sees in them."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ipsm_jax.reporting.files import atomic_write
from ipsm_jax.reporting.html import data_address, plain_table
from ipsm_jax.reporting.html_style import CSS

_CSS = """
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px; }
.sheet figure { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 8px;
  border-top: 4px solid var(--soft); }
.sheet figure.train { border-top-color: #b4472e; } .sheet figure.test { border-top-color: #2f6f9f; }
.sheet figure.out { border-style: dashed; }
.sheet b { display: block; font-size: 12.5px; font-weight: 600; overflow-wrap: anywhere; color: var(--ink); }
.depths { display: grid; gap: 14px; } .depths img { border-radius: 10px; }
.top img { max-width: 720px; margin: 0 auto; border-radius: 10px; }
"""


class Tile(NamedTuple):
    """One photo on the contact sheet.

    Attributes:
      name: of the photo.
      picture: (H, W, 3) uint8, small; None if it could not be read.
      role: "train", "test", "spare" (a view that is neither) or "out" (no view).
      text: what it is for, or why it is no view.
    """

    name: str
    picture: np.ndarray | None
    role: str
    text: str


def write_prepare_report(
    folder: Path,
    *,
    title: str,
    cards: Mapping[str, str],
    sentences: Iterable[str],
    command: str,
    tiles: Sequence[Tile],
    above: np.ndarray | None,
    depths: Sequence[np.ndarray],
    facts: Mapping[str, Any],
) -> Path:
    """Write ``folder/report.html``, one file that opens from the disk, and return its path.

    Args:
      folder: of the scene.
      title: heading.
      cards: a few large figures by what they are.
      sentences: what was done.
      command: what to type next.
      tiles: all photos.
      above: the scene from above, uint8.
      depths: pictures of photo and depth side by side, uint8, one for each training view.
      facts: short facts by name.
    """
    figures = "".join(
        f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>'
        for name, value in cards.items()
    )
    sections = [
        f"<h1>{html.escape(title)}</h1>",
        f'<div class="cards">{figures}</div>',
        *(f'<p class="soft">{html.escape(sentence)}</p>' for sentence in sentences),
        f"<p>Train on it:<br><code>{html.escape(command)}</code></p>",
        "<h2>Photos</h2>",
        f'<div class="sheet">{"".join(map(_tile, tiles))}</div>',
    ]
    if above is not None:
        sections += [
            "<h2>From above</h2>",
            '<p class="soft">Cameras are wedges that open to where they look; the dots are points of the scene.</p>',
            f'<div class="top">{_picture(above, "cameras and points from above")}</div>',
        ]
    if depths:
        pictures = "".join(_picture(picture, "photo and depth") for picture in depths)
        sections += [
            "<h2>Depth of the training views</h2>",
            '<p class="soft">Bright is near, dark is far; where two views do not agree nothing is known (gray).</p>',
            f'<div class="depths">{pictures}</div>',
        ]
    sections += ["<h2>Facts</h2>", plain_table(facts)]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{CSS}{_CSS}</style></head>\n<body><main>"
        + "\n".join(sections)
        + "</main></body></html>\n"
    )
    path = Path(folder) / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _picture(picture: np.ndarray, what: str) -> str:
    return f'<img src="{data_address(picture)}" alt="{html.escape(what)}">'


def _tile(tile: Tile) -> str:
    picture = "" if tile.picture is None else _picture(tile.picture, tile.name)
    text = f"<b>{html.escape(tile.name)}</b>{html.escape(tile.text)}"
    return f'<figure class="{html.escape(tile.role)}">{picture}<figcaption>{text}</figcaption></figure>'
