"""The check across views against the same arithmetic pixel by pixel in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from textured_planes import Plane, camera_batch, in_a_row, render

from ipsm_jax.stereo.check import agreement, cross_check

CROSS_CHECK = jax.jit(cross_check, static_argnums=(3, 4, 5))
OTHERS = ~np.eye(2, dtype=bool)
LENSES = (30.0, 33.0, 11.0, 8.5)


def lifted(matrix, lens, u, v, depth):
    fx, fy, cx, cy = lens
    return (np.array([(u - cx) / fx, (v - cy) / fy, 1.0]) * depth - matrix[:3, 3]) @ matrix[:3, :3]


def seen_at(matrix, lens, point):
    x, y, z = matrix[:3, :3] @ point + matrix[:3, 3]
    fx, fy, cx, cy = lens
    return fx * x / z + cx, fy * y / z + cy, z


def depth_read(depth, x, y, difference):
    """Interpolated in inverse depth if the four pixels around are alike, else that of the pixel."""
    height, width = depth.shape
    pixel = depth[min(int(y), height - 1), min(int(x), width - 1)]
    x, y = np.clip(x - 0.5, 0, width - 1), np.clip(y - 0.5, 0, height - 1)
    rows, columns = (int(y), min(int(y) + 1, height - 1)), (int(x), min(int(x) + 1, width - 1))
    four = depth[np.ix_(rows, columns)]
    if np.any(four <= 0) or np.any(np.abs(four - pixel) >= 2 * difference * pixel):
        return pixel
    right, down = x - int(x), y - int(y)
    return 1 / (np.array([1 - down, down]) @ (1 / four) @ np.array([1 - right, right]))


def test_agreement_is_the_trip_there_and_back():
    cameras = camera_batch(in_a_row(2, target=(0, 0, 5)), LENSES, 22, 17)
    matrices, lens = np.asarray(cameras.camera_from_world, np.float64), np.asarray(LENSES, np.float64)
    _, depths = render(cameras, Plane(normal=(0.4, 0.1, 1.0)))
    rng = np.random.default_rng(0)
    depths = depths * rng.choice([1, 1, 1, 1.004, 1.03, 0], depths.shape)  # some wrong, some unknown
    agrees, other = jax.jit(agreement, static_argnums=(4, 5))(
        cameras[0], jnp.asarray(depths[0], jnp.float32), cameras[1], jnp.asarray(depths[1], jnp.float32), 0.5, 0.01
    )
    expected, again = np.zeros((17, 22), bool), np.zeros((17, 22))
    for row, column in np.ndindex(17, 22):
        if depths[0, row, column] <= 0:
            continue
        u, v = column + 0.5, row + 0.5
        x, y, _ = seen_at(matrices[1], lens, lifted(matrices[0], lens, u, v, depths[0, row, column]))
        if not (0 <= x <= 22 and 0 <= y <= 17):
            continue
        found = depth_read(depths[1], x, y, 0.01)
        if found <= 0:
            continue
        back_x, back_y, z = seen_at(matrices[0], lens, lifted(matrices[1], lens, x, y, found))
        inside = 0 <= back_x <= 22 and 0 <= back_y <= 17
        near = np.hypot(back_x - u, back_y - v) < 0.5
        if inside and near and abs(z - depths[0, row, column]) < 0.01 * depths[0, row, column]:
            expected[row, column], again[row, column] = True, z
    assert 0.3 < expected.mean() < 0.8
    np.testing.assert_array_equal(agrees, expected)
    np.testing.assert_allclose(other, again, rtol=1e-4)


def test_agreeing_views_are_counted_and_averaged():
    """Parallel views of a plane parallel to them: all depths in all views are the same number."""
    matrices = np.stack([np.eye(4)] * 4)
    matrices[:, 0, 3] = -0.1 * np.arange(4)
    cameras = camera_batch(matrices)
    given = np.array([4.0, 4.01, 4.02, 4.6])
    depths = jnp.asarray(np.broadcast_to(given[:, None, None], (4, 72, 96)), jnp.float32)
    for agreeing, sure in ((1, [True, True, True, False]), (2, [True, True, True, False]), (3, [False] * 4)):
        depth, confirmed, shares = CROSS_CHECK(cameras, depths, ~np.eye(4, dtype=bool), 1.0, 0.01, agreeing)
        middle = np.asarray(confirmed)[:, 36, 48]
        np.testing.assert_array_equal(middle, sure)
    np.testing.assert_allclose(depth[:, 36, 48], [4.01, 4.01, 4.01, 4.6], rtol=1e-5)
    # At depth 4 a pixel moves by 90 x 0.1 / 4 = 2.25 pixels from view to view, so 3 columns of 96 leave the image.
    np.testing.assert_allclose(shares[0], [0, 94 / 96, 91 / 96, 0], atol=1 / 96)
    assert not np.any(np.diag(shares)) and not np.any(shares[3])


def test_unknown_depths_never_agree():
    cameras = camera_batch(in_a_row(2))
    depths = jnp.asarray(render(cameras, Plane())[1], jnp.float32)
    for missing in (0, 1):
        _, confirmed, _ = CROSS_CHECK(cameras, depths.at[missing].set(0.0), OTHERS, 1.0, 0.01, 1)
        assert not np.any(confirmed)
    assert np.asarray(CROSS_CHECK(cameras, depths, OTHERS, 1.0, 0.01, 1)[1]).mean() > 0.8


def test_only_related_views_confirm():
    cameras = camera_batch(in_a_row(2))
    depths = jnp.asarray(render(cameras, Plane())[1], jnp.float32)
    _, confirmed, shares = CROSS_CHECK(cameras, depths, np.array([[False, True], [False, False]]), 1.0, 0.01, 1)
    assert confirmed[0].mean() > 0.8 and not np.any(confirmed[1])
    assert shares[0, 1] > 0.8 and shares[1, 0] == 0
