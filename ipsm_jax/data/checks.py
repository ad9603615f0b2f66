"""Photos that cannot be what they claim, found by looking at them: one picture twice, cameras without parallax."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ipsm_jax.data.errors import DataError
from ipsm_jax.data.scene import Scene

_SAME = 0.08
"""Mean difference, in standard deviations of the picture, that saving it again as a JPEG makes at most; photos from two
places of a usual capture differ by 0.28 or more."""
_MOST_NOTES = 3
_GRID = 16  # blocks along each side of the picture, compared first
_ANGLE = 0.5  # degrees
_MOVE = 0.01  # of the largest distance between two cameras of the scene
_PARALLAX = 0.5  # pixels
_ROUNDING = 1e-6  # of float32


def same_pictures(images: np.ndarray) -> list[tuple[int, int]]:
    """Pairs i < j of (V, H, W, 3) uint8 images that are one picture but for compression."""
    views, height, width, _ = images.shape
    rows, columns = (np.linspace(0, n, min(_GRID, n) + 1).astype(int)[:-1] for n in (height, width))
    small = []
    for image in images:
        sums = np.add.reduceat(np.add.reduceat(image, rows, axis=0, dtype=np.int64), columns, axis=1)
        area = np.diff([*rows, height])[:, None, None] * np.diff([*columns, width])[:, None]
        small.append((sums / area).ravel())
    pairs = []
    for i in range(views):
        most = _SAME * images[i].std()
        for j in range(i + 1, views):
            # The blocks differ less than the pixels do, so this leaves few to be compared.
            if np.abs(small[i] - small[j]).mean() <= 1.1 * most and (
                np.abs(images[i].astype(np.int16) - images[j]).mean() <= most
            ):
                pairs.append((i, j))
    return pairs


def check_same_pictures(scene: Scene) -> tuple[str, ...]:
    """Notes about pictures that occur twice.

    Raises:
      DataError: two training views are one picture with two poses.
    """
    notes = []
    centers = scene.centers
    reach = np.linalg.norm(centers[:, None] - centers[None], axis=-1).max()
    for i, j in same_pictures(scene.images):
        both = f"{scene.names[i]} and {scene.names[j]}"
        move = float(np.linalg.norm(centers[i] - centers[j]))
        angle = _angle(scene.cameras.camera_from_world[i], scene.cameras.camera_from_world[j])
        if angle > _ANGLE or move > _MOVE * reach:
            sentence = (
                f"{both} are the same picture, but their poses differ by {angle:.1f} degrees and {move:.3g} units of "
                "length, so at least one is wrong"
            )
            if {i, j} <= set(scene.train):
                raise DataError(f"scene {scene.name}: {sentence}. Take one of the two out of the scene")
            notes.append(f"{sentence}: take one of the two out of the scene")
        elif {i, j} <= set(scene.train):
            notes.append(f"{both} are the same picture: as training views they count for one")
        elif i in scene.train or j in scene.train:
            notes.append(f"{both} are the same picture, one a training view: the scores of the other mean nothing")
    more = len(notes) - _MOST_NOTES
    return tuple(notes) if more <= 0 else (*notes[:_MOST_NOTES], f"{more} more pairs of photos are the same picture")


def _angle(first: Float[np.ndarray, "4 4"], second: Float[np.ndarray, "4 4"]) -> float:
    """Degrees between the orientations of two cameras."""
    relative = np.asarray(first, np.float64)[:3, :3] @ np.asarray(second, np.float64)[:3, :3].T
    # From the sine as well: the cosine alone says nothing about small angles.
    sine = np.linalg.norm(relative - relative.T) / np.sqrt(8)
    return float(np.degrees(np.arctan2(sine, (np.trace(relative) - 1) / 2)))


def check_parallax(scene: Scene) -> None:
    """Refuse training views that were taken from one place: photos of a tripod head that turned have no depth in them.

    A scene with one training view passes: it may be looked at, and training says itself what it lacks.

    Raises:
      DataError: no two training views are far enough apart to move even the nearest point by half a pixel.
    """
    train = list(scene.train)
    centers = scene.centers
    baseline = np.linalg.norm(centers[train][:, None] - centers[train][None], axis=-1).max()
    focal = float(np.asarray(scene.cameras.intrinsics)[train, :2].max())
    if scene.bounds is None:  # then only cameras that are at one place up to rounding are known to be too near
        least = _ROUNDING * np.abs(centers).max()
    else:
        least = _PARALLAX * float(scene.bounds[train, 0].min()) / focal
    if len(train) > 1 and baseline <= least:
        names = ", ".join(scene.names[view] for view in train)
        raise DataError(
            f"scene {scene.name}: the training views ({names}) were taken from practically one place, {baseline:.3g} "
            "units of length apart: even the nearest points move by less than half a pixel between them, which tells "
            "no depth. Add a photo from another place, or choose other training views"
        )
