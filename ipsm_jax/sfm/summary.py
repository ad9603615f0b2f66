"""What became of the photos, in words, figures and small pictures, for the terminal and the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ipsm_jax.data.capture import Capture
from ipsm_jax.data.scene import PointCloud
from ipsm_jax.sfm.photos import Photos, open_copy, work_file
from ipsm_jax.sfm.scene_folder import Written
from ipsm_jax.sfm.solve import Solved
from ipsm_jax.sfm.sources import Sources

THUMBNAIL = 320  # pixels of the longer side


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A photo that is no view of the scene: its name, why, and a small picture where it could be read."""

    name: str
    reason: str
    picture: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Photos and cameras as they were written.

    Attributes:
      title: what the photos are called.
      posed: whether they came with poses.
      written: the views.
      bounds: (V, 2) nearest and farthest depth in the views' order, where the source came with them.
      points: the sparse points of all photos, or None.
      sentences: what was done, the most important first.
      left_out: photos that are no views.
      facts: figures by name.
    """

    title: str
    posed: bool
    written: Written
    bounds: np.ndarray | None
    points: PointCloud | None
    sentences: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    facts: dict[str, Any]


def posed_outcome(
    capture: Capture, layout: str, sources: Sources, numbers: Sequence[int], written: Written, notes: Sequence[str]
) -> Outcome:
    """Of photos that came with poses.

    Args:
      capture: all of them.
      layout: what it was read from.
      sources: those that fit into the scene, and reasons for the others.
      numbers: which photo of the capture each source is.
      written: the views.
      notes: about what was kept beside them.
    """
    order = [numbers[i] for i in written.order]
    bounds = None if capture.bounds is None else capture.bounds[order]
    sentences = (
        f"The cameras are those that came with the photos ({layout}); structure from motion was skipped.",
        *capture.notes,
        *sources.notes,
        *written.notes,
        *notes,
    )
    left_out = tuple(LeftOut(capture.photos[i].name, reason, None) for i, reason in sorted(sources.lost.items()))
    facts = {"photos found": len(capture.photos), "views of the scene": len(written.names)}
    return Outcome(capture.path.resolve().name, True, written, bounds, None, sentences, left_out, facts)


def solved_outcome(
    source: Path, photos: Photos, solved: Solved, sources: Sources, written: Written, work: Path
) -> Outcome:
    """Of photos whose cameras were found.

    Args:
      source: the folder or video.
      photos: all that was looked at.
      solved: cameras, and who has none.
      sources: those that fit into the scene, and reasons for the others.
      written: the views.
      work: folder of the small copies.
    """
    solution = solved.solution
    points = solution.points
    reasons = {**solved.not_placed, **sources.lost}
    left_out = [LeftOut(name, reason, None) for name, reason in photos.unusable.items()]
    left_out += [
        LeftOut(photos.photos[i].name, reasons[i], thumbnail(open_copy(photos.photos[i], work_file(work, i))))
        for i in sorted(reasons)
    ]
    total = len(photos.photos) + len(photos.unusable)
    copies = max(max(photo.work_width, photo.work_height) for photo in photos.photos)
    error = solution.reprojection_error
    first = (
        f"{len(solution.photos)} of {total} photos registered: {len(points.positions)} points, mean reprojection "
        f"error {error:.2f} pixels at {copies} pixels of the longer side"
    )
    sentences = (
        first,
        "Cameras and sparse points (sparse/0) were found from all photos together, those that test later included; "
        "depth bounds, depth maps and the points that training starts from come from the training views alone.",
        *photos.notes,
        *sources.notes,
        *written.notes,
    )
    focal = np.median(written.intrinsics[:, 0])
    across = np.degrees(2 * np.arctan(written.size[0] / 2 / focal))
    priors = sum(photos.photos[i].focal is not None for i in solution.photos)
    facts = {
        "photos found": total,
        "photos registered": len(solution.photos),
        "views of the scene": len(written.names),
        "sparse points of all photos": len(points.positions),
        "observations per point": round(len(points.points) / len(points.positions), 2),
        "mean reprojection error": f"{error:.3f} pixels at {copies} pixels of the longer side",
        "size of the photos": f"{written.size[0]}x{written.size[1]}",
        "focal length": f"{focal:.1f} pixels, {across:.1f} degrees across",
        "focal lengths known from EXIF": f"{priors} of {len(solution.photos)}",
        "cameras": len({photos.photos[i].camera for i in solution.photos}),
    }
    cloud = PointCloud(points.positions.astype(np.float32), points.colors.astype(np.float32) / 255)
    return Outcome(source.resolve().stem, False, written, None, cloud, sentences, tuple(left_out), facts)


def thumbnail(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 of the picture, which is made small."""
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(image.convert("RGB"))
