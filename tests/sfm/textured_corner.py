"""Photos of a room's corner, three textured planes that meet, by tracing rays in float64; their poses are known."""

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from ipsm_jax.data.capture import checked_pose
from ipsm_jax.scene.camera import look_at

WIDTH, HEIGHT, FOCAL = 280, 210, 260.0
PLANES = ((0, -3.0), (1, 1.5), (2, 7.0))  # axis and offset: a wall on the left, the floor (y is down), a wall behind
_SPAN = 12.0  # world units that the texture covers before it repeats


def blobs(seed):
    """(600, 600, 3) texture in 0..255: noise of a few pixels' size, where features are found."""
    rng = np.random.default_rng(seed)
    layers = [
        sum(gaussian_filter(rng.normal(size=(600, 600)), s, mode="wrap") * s for s in (1.5, 4.0)) for _ in range(4)
    ]
    color = np.stack([layers[0] + 0.4 * layer for layer in layers[1:]], axis=-1)
    return (127 + 55 * color / color.std()).clip(0, 255)


def poses(count, spread=1.2):
    """(count, 4, 4) camera_from_world on an arc, looking into the corner."""
    ways = np.linspace(-1, 1, count)
    matrices = [look_at((spread * t, 0.15 * (-1) ** i, 0.3 * t * t), (-0.8, 0.2, 6)) for i, t in enumerate(ways)]
    return np.stack([checked_pose(matrix, "") for matrix in matrices])  # look_at computes in float32


def picture(matrix, seed=0, width=WIDTH, height=HEIGHT, focal=FOCAL):
    """(height, width, 3) uint8 photo."""
    matrix = np.asarray(matrix, np.float64)
    v, u = np.mgrid[:height, :width] + 0.5
    rays = np.stack([(u - width / 2) / focal, (v - height / 2) / focal, np.ones_like(u)], axis=-1) @ matrix[:3, :3]
    center = -matrix[:3, :3].T @ matrix[:3, 3]
    nearest, color = np.full(u.shape, np.inf), np.zeros((*u.shape, 3))
    for number, (axis, offset) in enumerate(PLANES):
        with np.errstate(divide="ignore"):
            depth = (offset - center[axis]) / rays[..., axis]
        here = (depth > 0) & (depth < nearest)
        hit = center + rays * np.where(here, depth, 0)[..., None]
        a, b = (hit[..., k] / _SPAN * 600 for k in range(3) if k != axis)
        texture = blobs(10 * seed + number)
        shade = np.stack([map_coordinates(texture[..., c], [a, b], order=1, mode="grid-wrap") for c in range(3)], -1)
        color[here], nearest[here] = shade[here], depth[here]
    return np.round(color).astype(np.uint8)


def write_photos(folder, matrices, seed=0):
    """JPEG photos 0.jpg, 1.jpg, ... in a new folder."""
    folder.mkdir(parents=True)
    for i, matrix in enumerate(matrices):
        Image.fromarray(picture(matrix, seed)).save(folder / f"{i}.jpg", quality=95)
    return folder


def centers(matrices):
    """(V, 3) camera centers."""
    return -np.einsum("vji,vj->vi", matrices[:, :3, :3], matrices[:, :3, 3])


def after_alignment(found, true):
    """Largest distance between centers, in units of their spread, and largest angle in degrees between rotations,
    after the best similarity transform (Umeyama's closed form for the centers' rotation replaced by the mean rotation
    between the cameras, which three centers on a line leave open).
    """
    u, _, vt = np.linalg.svd(np.einsum("vji,vjk->ik", found[:, :3, :3], true[:, :3, :3]))
    turn = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt  # found world from true world
    a, b = centers(found) - centers(found).mean(0), (centers(true) - centers(true).mean(0)) @ turn.T
    scale = np.sum(a * b) / np.sum(b * b)
    spread = np.linalg.norm(scale * b, axis=1).max()
    relative = np.einsum("vij,jk,vlk->vil", found[:, :3, :3], turn, true[:, :3, :3])
    angles = np.degrees(np.arccos(np.clip((np.trace(relative, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    return float(np.linalg.norm(a - scale * b, axis=1).max() / spread), float(angles.max())
