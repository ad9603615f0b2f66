"""A world of white balls on black, whose places in photos are known to a fraction of a pixel."""

import numpy as np
from PIL import Image

from ipsm_jax.data.colmap_write import SparsePoints
from ipsm_jax.data.lenses import distort, make_lens
from ipsm_jax.sfm.mapping import Solution

WIDTH, HEIGHT = 96, 72
INTRINSICS = (100.0, 100.0, 48.0, 36.0)
LENS = make_lens((-0.1,))


def spots(matrix, positions, lens, intrinsics=INTRINSICS):
    """(P, 2) pixels of world points."""
    camera = positions @ matrix[:3, :3].T + matrix[:3, 3]
    rays = distort(lens, camera[:, :2] / camera[:, 2:])
    return rays * intrinsics[:2] + intrinsics[2:]


def blob_photo(pixels, width=WIDTH, height=HEIGHT):
    """White spots at the pixels, on black."""
    v, u = np.mgrid[:height, :width] + 0.5
    picture = sum(np.exp(-((u - x) ** 2 + (v - y) ** 2) / 4.5) for x, y in pixels)
    return Image.fromarray(np.repeat(np.clip(255 * picture, 0, 255).astype(np.uint8)[..., None], 3, axis=2))


def solution_of(matrices, intrinsics, positions, pixels):
    """What structure from motion would find: V photos of P white balls, all seen in each at pixels, V of (P, 2)."""
    views, points = len(matrices), len(positions)
    seen = SparsePoints(
        positions,
        np.full((points, 3), 255, np.uint8),
        np.full(points, 0.1),
        np.repeat(np.arange(views), points),
        np.tile(np.arange(points), views),
        np.concatenate(pixels),
    )
    return Solution(tuple(range(views)), matrices, np.array(intrinsics), (LENS,) * views, seen)
