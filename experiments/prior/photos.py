"""Photos as training data: a folder of pictures becomes squares of 256 pixels, two of each photo, as bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

SIDE = 256
SMALLEST = 192
"""Photos with a shorter side than this would be blurred by enlarging, and are left out."""

_ENDINGS = (".jpg", ".jpeg", ".png")


def list_photos(folder: Path) -> list[Path]:
    """Pictures of a folder by name.

    Raises:
      SystemExit: there are none.
    """
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in _ENDINGS)
    if not found:
        raise SystemExit(f"{folder} has no pictures ({', '.join(_ENDINGS)})")
    return found


def read_squares(paths: list[Path]) -> tuple[UInt8[np.ndarray, "n 2 256 256 3"], list[str]]:
    """Two squares of each photo, from the two ends of its longer side, and the names of the photos taken."""
    squares, names = [], []
    for path in paths:
        with Image.open(path) as opened:
            photo = opened.convert("RGB")
        width, height = photo.size
        short = min(width, height)
        if short < SMALLEST:
            continue
        ends = ((0, 0), (width - short, height - short))
        boxes = [(x, y, x + short, y + short) for x, y in ends]
        squares.append([np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box)) for box in boxes])
        names.append(path.name)
    return np.array(squares, np.uint8), names
