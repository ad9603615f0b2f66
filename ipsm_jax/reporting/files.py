"""Files that are either whole or not there: written beside their place, then renamed into it.

A process that dies at any moment leaves the old file (or none) and at worst a temporary one whose name starts with a
dot and ends in ``.tmp`` before the real ending; it is never mistaken for a result.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp(\.[^.]+)?")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it takes the place of `path`, on an error it vanishes.

    The folder is made if it is missing. The temporary name keeps the file's ending, because writers of pictures and
    video choose their format by it. Its content is flushed to the disk before the rename, so that a power cut cannot
    leave an empty file under the final name either.

    Raises:
      FileNotFoundError: if the body of the ``with`` ended without writing the file it was given.
      OSError: what the system says about the file, with its name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:12]}.tmp{path.suffix}")
    try:
        yield temporary
        if not temporary.exists():
            raise FileNotFoundError(f"nothing was written for {path}")
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # as when the disk is full
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    _flush_to_disk(path.parent)


def leftovers(folder: Path) -> list[Path]:
    """Temporary files that `atomic_write` left in a folder when its process was killed (or is writing just now)."""
    return [path for path in folder.glob(".*") if _TEMPORARY.fullmatch(path.name) and path.is_file()]


def _flush_to_disk(path: Path) -> None:
    """Flush a file or, where the system allows it, a folder (whose entries are what a rename changes)."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | os.PathLike, obj: Any) -> None:
    """Write `obj` as indented JSON; numpy and jax numbers become numbers, their arrays lists, paths strings.

    Raises:
      TypeError: if something in `obj` has no JSON form.
      ValueError: if it holds NaN or infinity, which JSON cannot express.
    """
    text = json.dumps(obj, indent=2, default=_plain, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """What `json` cannot write by itself, as something that it can."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays, jax arrays
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON: {value!r}")


def to_uint8(image: Any) -> np.ndarray:
    """Any float image in [0, 1] as uint8, clipped and rounded to nearest; a uint8 image as it is.

    Raises:
      ValueError: for other dtypes and for values that are not numbers.
    """
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"an image is float in [0, 1] or uint8, got {image.dtype}")
    if np.isnan(image).any():
        raise ValueError(f"the image has {int(np.isnan(image).sum())} values that are not a number (NaN)")
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def write_png(path: str | os.PathLike, image: Any) -> None:
    """Write a picture (H, W), (H, W, 3) or (H, W, 4), float in [0, 1] or uint8, as 8-bit PNG.

    Raises:
      ValueError: for other shapes or dtypes, or NaN.
    """
    pixels = to_uint8(image)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise ValueError(f"an image has shape (H, W), (H, W, 3) or (H, W, 4), got {pixels.shape}")
    with atomic_write(path) as temporary:
        iio.imwrite(temporary, pixels, extension=".png")
