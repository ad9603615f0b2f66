"""A scene folder from posed photos: photos without distortion, a COLMAP model of them, and their depth bounds.

images/            the photos through a pinhole, upright, all of one size
sparse/0/          cameras, poses and points (COLMAP, text)
poses_bounds.npy   the same poses with nearest and farthest depth (LLFF); written by `write_bounds`
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from ipsm_jax.data.capture import Capture, PosedPhoto, rigid_inverse
from ipsm_jax.data.colmap_write import NO_POINTS, SparsePoints, write_colmap_text
from ipsm_jax.data.images import largest_within, working
from ipsm_jax.data.lenses import PINHOLE, Lens, undistort
from ipsm_jax.data.llff import FILE as POSES_BOUNDS
from ipsm_jax.data.load import scaled_intrinsics, view_names
from ipsm_jax.data.pictures import as_array, fits, open_upright, picture_size, read_picture, resize
from ipsm_jax.data.undistort import Undistortion, plan_undistortion, undistort_image
from ipsm_jax.sfm.mapping import Solution
from ipsm_jax.sfm.photos import Photo

Intrinsics = tuple[float, float, float, float]
_QUALITY = 97  # of JPEG: photos are compressed a second time, which must not show


@dataclasses.dataclass(frozen=True)
class Source:
    """One posed photo that goes into the scene: its camera, its name there, and how to read its upright pixels."""

    photo: PosedPhoto
    name: str
    read: Callable[[], Image.Image]


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written: V names in their order, the positions of their sources, their cameras, the common size
    (width, height), and notes.
    """

    names: tuple[str, ...]
    order: tuple[int, ...]
    camera_from_world: np.ndarray
    intrinsics: np.ndarray
    size: tuple[int, int]
    notes: tuple[str, ...]


def solved_sources(photos: Sequence[Photo], solution: Solution) -> tuple[list[Source], dict[int, str]]:
    """Sources of the placed photos that have the shape most of them have, and a reason for each that has another.

    All photos of a scene have one size: those of the same shape are resized, a portrait among landscapes cannot be.
    """
    placed = [photos[i] for i in solution.photos]
    size = _usual_size(placed)
    sources, lost = [], {}
    for view, (index, photo) in enumerate(zip(solution.photos, placed, strict=True)):
        if not fits((photo.width, photo.height), size):
            lost[index] = (
                f"its camera was found, but its shape, {photo.width}x{photo.height}, is not that of most photos, "
                f"{size[0]}x{size[1]}, and all photos of a scene must have one; crop it, or leave it out"
            )
            continue
        posed = PosedPhoto(
            photo.file.parent,
            photo.name,
            solution.camera_from_world[view],
            photo.width,
            photo.height,
            tuple(solution.intrinsics[view].tolist()),
            solution.lenses[view],
        )
        sources.append(Source(posed, photo.name, lambda file=photo.file: open_upright(file)[0]))  # type: ignore[misc]
    return sources, lost


def _usual_size(photos: Sequence[Photo]) -> tuple[int, int]:
    """The most frequent size; of several the largest."""
    counts = Counter((photo.width, photo.height) for photo in photos)
    return max(counts, key=lambda size: (counts[size], size))


def capture_sources(capture: Capture) -> list[Source]:
    """Sources of a capture that is posed already, from the largest photos it has."""
    files, _ = largest_within(capture, 10**9)
    sources = []
    for photo, name, file in zip(capture.photos, view_names(capture.photos), files, strict=True):
        lens = PINHOLE if capture.ignore_distortion else photo.lens
        shape = (photo.width, photo.height)
        width, height = picture_size(file)
        if not fits((width, height), shape):
            width, height = height, width  # `read_picture` turns it
        posed = dataclasses.replace(
            photo,
            intrinsics=scaled_intrinsics(photo, width, height),
            width=width,
            height=height,
            lens=lens,
        )
        ending = file.suffix if file.suffix.lower() in (".jpg", ".jpeg") else ".png"
        sources.append(
            Source(posed, Path(name).stem + ending, lambda file=file, shape=shape: read_picture(file, shape))  # type: ignore[misc]
        )
    return sources


def write_scene(folder: Path, sources: Sequence[Source], points: SparsePoints = NO_POINTS) -> Written:
    """Write images/ and sparse/0 of V >= 1 photos.

    Args:
      folder: of the scene; it exists.
      sources: the photos, of one shape.
      points: seen by them; its views are positions in `sources`, its pixels are those of the photos as they are.

    Raises:
      DataError: for a photo that cannot be read any more.
    """
    order = sorted(range(len(sources)), key=lambda i: sources[i].name)
    size = Counter((round(s.photo.width), round(s.photo.height)) for s in sources).most_common(1)[0][0]
    images = folder / "images"
    images.mkdir()
    plans: dict[tuple[Intrinsics, Lens], Undistortion] = {}
    cameras = [scaled_intrinsics(source.photo, *size) for source in sources]
    for source, camera in zip(sources, cameras, strict=True):
        if not source.photo.lens.ideal and (camera, source.photo.lens) not in plans:
            plans[camera, source.photo.lens] = plan_undistortion(camera, source.photo.lens, *size)

    def write(i: int) -> None:
        picture = resize(sources[i].read(), size)
        plan = plans.get((cameras[i], sources[i].photo.lens))
        if plan is not None:
            picture = Image.fromarray(undistort_image(as_array(picture), plan))
        path = images / sources[i].name
        if path.suffix == ".png":
            picture.save(path)
        else:
            picture.save(path, "JPEG", quality=_QUALITY, subsampling=0)

    working(order, write, "writing photos")
    straight = [
        plans[camera, source.photo.lens].intrinsics if not source.photo.lens.ideal else camera
        for source, camera in zip(sources, cameras, strict=True)
    ]
    matrices = np.stack([source.photo.camera_from_world for source in sources])
    rank = np.argsort(order)
    moved = _straight_pixels(points, sources, np.array(straight))
    names = tuple(sources[i].name for i in order)
    intrinsics = np.array(straight)[order]
    write_colmap_text(
        folder / "sparse" / "0", names, matrices[order], intrinsics, size, moved._replace(views=rank[moved.views])
    )
    return Written(names, tuple(order), matrices[order], intrinsics, size, _notes(sources, size, plans))


def _notes(
    sources: Sequence[Source], size: tuple[int, int], plans: dict[tuple[Intrinsics, Lens], Undistortion]
) -> tuple[str, ...]:
    notes = []
    resized = sum((round(s.photo.width), round(s.photo.height)) != size for s in sources)
    if resized:
        notes.append(f"{resized} photos of other sizes were resized to {size[0]}x{size[1]}")
    bent = sum(not s.photo.lens.ideal for s in sources)
    if bent:
        notes.append(f"{bent} photos were undistorted")
    if not all(plan.covered for plan in plans.values()):
        notes.append("the lens does not cover the corners of the undistorted photos; they are black there")
    return tuple(notes)


def _straight_pixels(points: SparsePoints, sources: Sequence[Source], straight: np.ndarray) -> SparsePoints:
    """The same observations in pixels of the undistorted photos."""
    pixels = points.pixels.astype(np.float64, copy=True)
    for view, source in enumerate(sources):
        mine = points.views == view
        fx, fy, cx, cy = source.photo.intrinsics
        rays = undistort(source.photo.lens, (pixels[mine] - (cx, cy)) / (fx, fy))
        pixels[mine] = rays * straight[view, :2] + straight[view, 2:]
    return points._replace(pixels=pixels)


def kept_points(solution: Solution, lost: dict[int, str]) -> SparsePoints:
    """The solution's points that at least two of the kept photos see, with the views counted among these."""
    kept = [view for view, index in enumerate(solution.photos) if index not in lost]
    position = np.full(len(solution.photos), -1)
    position[kept] = np.arange(len(kept))
    positions, colors, errors, views, points, pixels = solution.points
    seen = position[views] >= 0
    counts = np.bincount(points[seen], minlength=len(positions))
    good = counts >= 2
    seen &= good[points]
    number = np.cumsum(good) - 1
    return SparsePoints(
        positions[good], colors[good], errors[good], position[views[seen]], number[points[seen]], pixels[seen]
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
