"""Photos of different sizes brought to one, with their cameras: portrait beside landscape, two phones, uneven edges.

Every photo is made to cover the smallest width and the smallest height that any has, and what sticks out is cut off
evenly to both sides. Cutting moves the principal point and changes nothing else, so no pixel is invented. A photo is
only resized where it is clearly larger than that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ipsm_jax.data.capture import PosedPhoto
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.pictures import resize

_NEARLY = 0.9  # a photo that had to shrink by less than this is cut and not resized: resizing blurs
_LEAST = 0.5  # of a photo's area, that has to be left


def one_size(
    pictures: Sequence[Image.Image], photos: Sequence[PosedPhoto], files: Sequence[Path]
) -> tuple[list[Image.Image], tuple[PosedPhoto, ...], tuple[str, ...]]:
    """Pictures of one size, the cameras that they then have, and a note where anything was done.

    Args:
      pictures: V of them, each at any resolution of its photo.
      photos: their cameras.
      files: where they come from, for messages.

    Raises:
      DataError: if more than half of some photo would be cut off.
    """
    width, height = min(p.width for p in pictures), min(p.height for p in pictures)
    if all(picture.size == (width, height) for picture in pictures):
        return list(pictures), tuple(photos), ()
    results, changed, kept = [], [], 1.0
    for picture, photo, file in zip(pictures, photos, files, strict=True):
        scale = max(width / picture.width, height / picture.height)
        size = picture.size if scale > _NEARLY else (round(picture.width * scale), round(picture.height * scale))
        share = width * height / (size[0] * size[1])
        if share < _LEAST:
            raise DataError(
                f"{file}: {picture.width}x{picture.height} pixels, and cut to the {width}x{height} that all photos of "
                f"the scene have in common, {share:.0%} of it would be left. Leave the odd ones out of the scene, or "
                "bring all to one size before posing them"
            )
        kept = min(kept, share)
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        results.append(resize(picture, size).crop((left, top, left + width, top + height)))
        x, y = photo.width / size[0], photo.height / size[1]  # pixels of the camera for one of the picture
        fx, fy, cx, cy = photo.intrinsics
        intrinsics = (fx, fy, cx - left * x, cy - top * y)
        changed.append(dataclasses.replace(photo, width=width * x, height=height * y, intrinsics=intrinsics))
    note = f"the photos have different sizes: all were cut to {width}x{height}, which leaves {kept:.0%} of each or more"
    return results, tuple(changed), (note,)
