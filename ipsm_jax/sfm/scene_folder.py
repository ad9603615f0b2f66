"""A scene folder from posed photos: photos without distortion, a COLMAP model of them, and their depth bounds.

images/            the photos through a pinhole, upright, all of one size
masks/             object masks, where the photos came with them
sparse/0/          cameras, poses and points (COLMAP, text)
poses_bounds.npy   the same poses with nearest and farthest depth (LLFF); written by `write_bounds`
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from ipsm_jax.data.capture import rigid_inverse
from ipsm_jax.data.colmap_write import NO_POINTS, SparsePoints, write_colmap_text
from ipsm_jax.data.images import working
from ipsm_jax.data.lenses import undistort
from ipsm_jax.data.llff import FILE as POSES_BOUNDS
from ipsm_jax.data.load import scaled_intrinsics
from ipsm_jax.data.pictures import resize
from ipsm_jax.data.undistort import Undistortion, plan_undistortion, undistort_image
from ipsm_jax.sfm.mapping import Solution
from ipsm_jax.sfm.sources import Source, usual_size

Intrinsics = tuple[float, float, float, float]
_QUALITY = 97  # of JPEG: photos are compressed a second time, which must not show


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
      names: of the V views, in their order.
      order: (V,) positions of their sources.
      camera_from_world: (V, 4, 4).
      intrinsics: (V, 4) of the pinholes, at the common size.
      size: (width, height) of all.
      notes: sentences for the person.
    """

    names: tuple[str, ...]
    order: tuple[int, ...]
    camera_from_world: np.ndarray
    intrinsics: np.ndarray
    size: tuple[int, int]
    notes: tuple[str, ...]


def write_scene(folder: Path, sources: Sequence[Source], points: SparsePoints = NO_POINTS) -> Written:
    """Write images/, sparse/0 and, where there are any, masks/ of V >= 1 photos.

    Args:
      folder: of the scene; it exists.
      sources: the photos, of one shape.
      points: seen by them; its views are positions in `sources`, its pixels are those of the whole photos as they are.

    Raises:
      DataError: for a photo that cannot be read any more.
    """
    order = sorted(range(len(sources)), key=lambda i: sources[i].name)
    size = usual_size([(round(s.photo.width), round(s.photo.height)) for s in sources])
    cameras = [scaled_intrinsics(source.photo, *size) for source in sources]
    (folder / "images").mkdir()
    if any(source.mask is not None for source in sources):
        (folder / "masks").mkdir()
    # A plan has 16 bytes per pixel: as many are kept as there are threads, though each photo may have its own camera.
    plan_for = functools.lru_cache(maxsize=os.cpu_count())(lambda camera, lens: plan_undistortion(camera, lens, *size))

    def write(i: int) -> tuple[Intrinsics, bool]:
        source, lens = sources[i], sources[i].photo.lens
        plan = None if lens.ideal else plan_for(cameras[i], lens)
        _save(_straight(resize(source.picture(), size), plan), folder / "images" / source.name)
        if source.mask is not None:
            mask = source.mask().crop(source.box).resize(size, Image.Resampling.NEAREST)
            _save(_straight(mask, plan), folder / "masks" / f"{Path(source.name).stem}.png")
        return (cameras[i], True) if plan is None else (plan.intrinsics, plan.covered)

    written = working(order, write, "writing photos")
    intrinsics = np.array([camera for camera, _ in written])
    matrices = np.stack([sources[i].photo.camera_from_world for i in order])
    rank = np.argsort(order)
    moved = _straight_pixels(points, sources, intrinsics[rank])
    names = tuple(sources[i].name for i in order)
    write_colmap_text(
        folder / "sparse" / "0", names, matrices, intrinsics, size, moved._replace(views=rank[moved.views])
    )
    notes = _notes(sources, size, covered=all(covered for _, covered in written))
    return Written(names, tuple(order), matrices, intrinsics, size, notes)


def _straight(picture: Image.Image, plan: Undistortion | None) -> Image.Image:
    if plan is None:
        return picture
    pixels = np.asarray(picture)
    straight = undistort_image(pixels.reshape(*pixels.shape[:2], -1), plan)
    return Image.fromarray(straight.reshape(pixels.shape))


def _save(picture: Image.Image, path: Path) -> None:
    if path.suffix == ".png":
        picture.save(path)
    else:
        picture.save(path, "JPEG", quality=_QUALITY, subsampling=0)


def _notes(sources: Sequence[Source], size: tuple[int, int], *, covered: bool) -> tuple[str, ...]:
    notes = []
    resized = sum(not s.cropped and s.whole != size for s in sources)
    if resized:
        notes.append(f"{resized} photos of other sizes were resized to {size[0]}x{size[1]}")
    bent = sum(not s.photo.lens.ideal for s in sources)
    if bent:
        notes.append(f"{bent} photos were undistorted")
    if not covered:
        notes.append("the lens does not cover the corners of the undistorted photos; they are black there")
    masks = sum(s.mask is not None for s in sources)
    if masks:
        notes.append(f"{masks} object masks are kept in masks/")
    return tuple(notes)


def _straight_pixels(points: SparsePoints, sources: Sequence[Source], straight: np.ndarray) -> SparsePoints:
    """The same observations in pixels of the undistorted photos, without those in parts that were cropped away."""
    pixels = points.pixels.astype(np.float64, copy=True)
    seen = np.ones(len(pixels), bool)
    for view, source in enumerate(sources):
        mine = points.views == view
        left, top, right, bottom = source.box
        seen[mine] = ((pixels[mine] >= (left, top)) & (pixels[mine] <= (right, bottom))).all(axis=1)
        fx, fy, cx, cy = source.photo.intrinsics
        rays = undistort(source.photo.lens, (pixels[mine] - (left + cx, top + cy)) / (fx, fy))
        pixels[mine] = rays * straight[view, :2] + straight[view, 2:]
    return _seen_twice(points._replace(pixels=pixels), seen)


def kept_points(solution: Solution, lost: dict[int, str]) -> SparsePoints:
    """The solution's points that at least two of the kept photos see, with the views counted among these."""
    kept = [view for view, index in enumerate(solution.photos) if index not in lost]
    position = np.full(len(solution.photos), -1)
    position[kept] = np.arange(len(kept))
    points = solution.points._replace(views=position[solution.points.views])
    return _seen_twice(points, points.views >= 0)


def _seen_twice(points: SparsePoints, seen: np.ndarray) -> SparsePoints:
    """Of the T observations those that are `seen`, (T,) bool, and of the points those that two of these belong to."""
    good = np.bincount(points.points[seen], minlength=len(points.positions)) >= 2
    seen = seen & good[points.points]
    number = np.cumsum(good) - 1
    return SparsePoints(
        points.positions[good],
        points.colors[good],
        points.errors[good],
        points.views[seen],
        number[points.points[seen]],
        points.pixels[seen],
    )


def write_bounds(folder: Path, written: Written, bounds: Float[np.ndarray, "v 2"]) -> None:
    """Write poses_bounds.npy: poses, size and focal length, nearest and farthest depth of each view (see llff.py)."""
    rows = []
    for matrix, (fx, *_), near_far in zip(written.camera_from_world, written.intrinsics, bounds, strict=True):
        right, down, forward, position = rigid_inverse(matrix)[:3].T
        hwf = np.array([written.size[1], written.size[0], fx])
        table = np.stack([down, right, -forward, position, hwf], axis=1)
        rows.append(np.concatenate([table.ravel(), near_far]))
    np.save(folder / POSES_BOUNDS, np.array(rows))
