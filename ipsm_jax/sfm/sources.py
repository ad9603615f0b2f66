"""Posed photos that go into a scene, all brought to one shape.

All pictures of a scene have one size. Photos of the same shape are resized; of a photo of another shape, a portrait
among landscapes or 16:9 among 4:3, the largest middle part of the wanted shape is taken, whose camera is the same one
with another principal point.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ipsm_jax.data.capture import Capture, PosedPhoto
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.extras import mask_files
from ipsm_jax.data.images import largest_within
from ipsm_jax.data.lenses import PINHOLE
from ipsm_jax.data.load import scaled_intrinsics, view_names
from ipsm_jax.data.pictures import fits, open_upright, picture_size, read_mask, read_picture
from ipsm_jax.sfm.mapping import Solution
from ipsm_jax.sfm.photos import Photo

Size = tuple[int, int]
_LEAST_LEFT = 0.25  # of a photo that is cropped; less is a strip


class Box(NamedTuple):
    """Part of a photo in whole pixels: columns left to right - 1, rows top to bottom - 1."""

    left: int
    top: int
    right: int
    bottom: int


@dataclasses.dataclass(frozen=True)
class Source:
    """One posed photo that goes into the scene.

    Attributes:
      photo: its camera, of the part that is taken.
      name: its name in the scene.
      read: gives the upright pixels of the whole photo.
      box: the part of it that is taken.
      whole: its size (width, height).
      mask: gives its object mask, one channel of 0 and 255 at its size; None if it has none.
    """

    photo: PosedPhoto
    name: str
    read: Callable[[], Image.Image]
    box: Box
    whole: Size
    mask: Callable[[], Image.Image] | None = None

    @property
    def cropped(self) -> bool:
        """Whether something is cut off."""
        return self.box != (0, 0, *self.whole)

    def picture(self) -> Image.Image:
        """The upright pixels of the part that is taken."""
        picture = self.read()
        return picture.crop(self.box) if self.cropped else picture


class Sources(NamedTuple):
    """Sources of one shape, a reason for each photo that is left out, by its index, and notes."""

    kept: list[Source]
    lost: dict[int, str]
    notes: tuple[str, ...]


def solved_sources(photos: Sequence[Photo], solution: Solution) -> Sources:
    """Sources of the placed photos; those left out are indices of `photos`."""
    placed = [photos[i] for i in solution.photos]
    sources = []
    for view, photo in enumerate(placed):
        posed = PosedPhoto(
            photo.file.parent,
            photo.name,
            solution.camera_from_world[view],
            photo.width,
            photo.height,
            tuple(solution.intrinsics[view].tolist()),
            solution.lenses[view],
        )
        sources.append(_whole(posed, photo.name, functools.partial(_upright, photo.file)))
    kept, lost = one_shape(sources)
    return Sources(kept, {solution.photos[view]: reason for view, reason in lost.items()}, shape_notes(kept))


def capture_sources(capture: Capture) -> Sources:
    """Sources of a capture that is posed already, from the largest photos it has."""
    files, _ = largest_within(capture, 10**9)
    names = view_names(capture.photos)
    notes: tuple[str, ...] = ()
    try:
        masks = mask_files(capture, names)
    except DataError as error:
        masks, notes = None, (f"masks are not kept: {error}",)
    sources = []
    for i, (photo, name, file) in enumerate(zip(capture.photos, names, files, strict=True)):
        shape = (photo.width, photo.height)
        width, height = picture_size(file)
        if not fits((width, height), shape):
            width, height = height, width  # `read_picture` turns it
        posed = dataclasses.replace(
            photo,
            intrinsics=scaled_intrinsics(photo, width, height),
            width=width,
            height=height,
            lens=PINHOLE if capture.ignore_distortion else photo.lens,
        )
        stem = re.sub(r"\s", "_", Path(name).stem)  # COLMAP's text files are split at spaces
        ending = file.suffix if file.suffix.lower() in (".jpg", ".jpeg") else ".png"
        source = _whole(posed, stem + ending, functools.partial(read_picture, file, shape))
        if masks is not None:
            mask = functools.partial(_mask, masks[i], source.whole)
            source = dataclasses.replace(source, mask=mask)
        sources.append(source)
    kept, lost = one_shape(sources)
    return Sources(kept, lost, (*notes, *shape_notes(kept)))


def _mask(file: Path, size: Size) -> Image.Image:
    return Image.fromarray(np.uint8(255) * read_mask(file, size).astype(np.uint8))


def one_shape(sources: Sequence[Source]) -> tuple[list[Source], dict[int, str]]:
    """The sources, those of another shape than most cropped to that, and a reason for each of which too little is left.

    Args:
      sources: whole photos.
    """
    size = usual_size([source.whole for source in sources])
    kept, lost = [], {}
    for number, source in enumerate(sources):
        box = middle(source.whole, size)
        left = (box.right - box.left) * (box.bottom - box.top) / (source.whole[0] * source.whole[1])
        if left < _LEAST_LEFT:
            lost[number] = (
                f"its camera is known, but of its {source.whole[0]}x{source.whole[1]} pixels only {left:.0%} would be "
                f"left in the shape of most photos, {size[0]}x{size[1]}, and all photos of a scene must have one; crop "
                "it, or leave it out"
            )
            continue
        fx, fy, cx, cy = source.photo.intrinsics
        photo = dataclasses.replace(
            source.photo,
            width=box.right - box.left,
            height=box.bottom - box.top,
            intrinsics=(fx, fy, cx - box.left, cy - box.top),
        )
        kept.append(dataclasses.replace(source, photo=photo, box=box))
    return kept, lost


def middle(whole: Size, shape: Size) -> Box:
    """The largest middle part of a picture that has the shape of another; all of it if that fits already."""
    width, height = whole
    if fits(whole, shape):
        return Box(0, 0, width, height)
    ratio = min(width / shape[0], height / shape[1])
    wide, high = (min(most, max(1, round(ratio * side))) for most, side in zip(whole, shape, strict=True))
    left, top = (width - wide) // 2, (height - high) // 2
    return Box(left, top, left + wide, top + high)


def shape_notes(sources: Sequence[Source]) -> tuple[str, ...]:
    """A sentence about those that were cropped."""
    cropped = [source for source in sources if source.cropped]
    if not cropped:
        return ()
    some = ", ".join(source.name for source in cropped[:5]) + (", ..." if len(cropped) > 5 else "")
    left = np.mean([s.photo.width * s.photo.height / (s.whole[0] * s.whole[1]) for s in cropped])
    return (
        f"{len(cropped)} of {len(sources)} photos have another shape than most and were cropped to it: {some} "
        f"({left:.0%} of them is left)",
    )


def _upright(file: Path) -> Image.Image:
    return open_upright(file)[0]


def _whole(photo: PosedPhoto, name: str, read: Callable[[], Image.Image]) -> Source:
    size = (round(photo.width), round(photo.height))
    return Source(photo, name, read, Box(0, 0, *size), size)


def usual_size(sizes: Sequence[Size]) -> Size:
    """The most frequent size of the most frequent shape; of several the largest."""
    shapes = [sum(fits(size, other) for other in sizes) for size in sizes]
    counts = Counter(sizes)
    return max(zip(shapes, sizes, strict=True), key=lambda pair: (pair[0], counts[pair[1]], pair[1]))[1]
