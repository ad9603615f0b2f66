"""Projection of points on the host: against the pinhole equations point by point, and the rasterizer's projection."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from ipsm_jax.scene.camera import Camera, look_at
from ipsm_jax.scene.projection import project_points

CAMERA = Camera(look_at((1.0, -2, -5), (0.2, 0, 1)), np.float32([90, 70, 30.5, 26]), 64, 48)


@hypothesis.given(st.lists(st.tuples(*[st.floats(-8, 8)] * 3), min_size=1, max_size=20))
def test_points_fall_where_the_pinhole_equations_say(points):
    found = project_points(CAMERA, np.array(points))
    matrix = CAMERA.camera_from_world.astype(float)
    for point, pixel, depth, inside in zip(points, found.pixels, found.depth, found.inside, strict=True):
        x, y, z, _ = matrix @ (*point, 1)
        assert depth == pytest.approx(z, abs=1e-9)
        if z <= 0:
            assert np.isnan(pixel).all() and not inside
            continue
        u, v = 90 * x / z + 30.5, 70 * y / z + 26
        np.testing.assert_allclose(pixel, (u, v), rtol=1e-9, atol=1e-6)
        if min(abs(u), abs(u - 64), abs(v), abs(v - 48)) > 1e-6:
            assert inside == (0 < u < 64 and 0 < v < 48)


def test_cells_are_the_pixels_that_points_inside_fall_on():
    row, column = np.mgrid[:48, :64].reshape(2, -1)
    local = np.stack([(column + 0.5 - 30.5) / 90, (row + 0.5 - 26) / 70, np.ones(row.size)], axis=-1) * 4.0
    matrix = CAMERA.camera_from_world.astype(float)
    world = (local - matrix[:3, 3]) @ matrix[:3, :3]
    found = project_points(CAMERA, world)
    assert found.inside.all()
    np.testing.assert_array_equal(found.cells, (row, column))
    beside = project_points(CAMERA, world + 1e3 * matrix[0, :3])
    assert not beside.inside.any() and all(len(part) == 0 for part in beside.cells)
