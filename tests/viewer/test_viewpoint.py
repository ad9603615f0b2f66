"""From where somebody looks, to cameras and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from tiny_run import tiny_gaussians, tiny_scene

from ipsm_jax.rasterizer import render
from ipsm_jax.scene.camera import Camera, look_at
from ipsm_jax.viewer.viewpoint import Viewpoint, axes_of, camera_of, fitted, looking_at, viewpoint_of

pytestmark = pytest.mark.usefixtures("own_caches")

numbers = st.floats(-10, 10)


@st.composite
def cameras(draw):
    """Cameras anywhere, with square pixels and the principal point in the middle."""
    rotation = Rotation.from_rotvec([draw(numbers) for _ in range(3)]).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, [draw(numbers) for _ in range(3)]
    width, height = draw(st.integers(8, 500)), draw(st.integers(8, 500))
    focal = draw(st.floats(0.2, 5)) * height
    return Camera(matrix.astype(np.float32), np.float32([focal, focal, width / 2, height / 2]), width, height)


@given(cameras())
def test_a_camera_is_its_own_viewpoint(camera):
    viewpoint = viewpoint_of(camera)
    assert viewpoint.usable
    back = camera_of(viewpoint, camera.width, camera.height)
    np.testing.assert_allclose(back.camera_from_world, camera.camera_from_world, atol=2e-5)
    np.testing.assert_allclose(back.intrinsics, camera.intrinsics, rtol=1e-5)


@given(cameras(), st.integers(4, 400), st.integers(4, 400))
def test_pixels_of_any_frame_lie_where_the_window_has_them(camera, width, height):
    viewpoint = viewpoint_of(camera)
    fx, fy, cx, cy = camera_of(viewpoint, width, height).intrinsics
    # the rays through the corners of the picture are those of the window
    np.testing.assert_allclose((0 - cx) / fx, -camera.intrinsics[2] / camera.intrinsics[0], rtol=1e-5)
    np.testing.assert_allclose((height - cy) / fy, camera.intrinsics[3] / camera.intrinsics[1], rtol=1e-5)


@given(cameras(), st.integers(4, 2000), st.integers(4, 2000))
def test_another_window_shows_all_of_it_and_not_more_than_needed(camera, width, height):
    before, after = viewpoint_of(camera), fitted(viewpoint_of(camera), width, height)
    assert after[:2] == before[:2] and after[3:] == (width, height)
    high = [np.tan(v.fov / 2) for v in (before, after)]
    wide = [half * v.width / v.height for half, v in zip(high, (before, after), strict=True)]
    ratios = high[1] / high[0], wide[1] / wide[0]
    assert min(ratios) == pytest.approx(1, rel=1e-6) and max(ratios) >= 1 - 1e-9


def test_a_principal_point_beside_the_middle_is_made_room_for():
    camera = Camera(np.eye(4, dtype=np.float32), np.float32([50, 40, 30, 10]), 40, 34)
    viewpoint = viewpoint_of(camera)
    assert np.tan(viewpoint.fov / 2) == pytest.approx(max(24 / 40, 30 / 50 * 34 / 40))


def test_the_frame_of_a_training_view_is_our_render_of_it(tmp_path):
    gaussians, alive = tiny_gaussians()
    scene = tiny_scene(tmp_path / "scene")
    for index in scene.train:
        camera = scene.cameras[index]
        frame = render(gaussians, camera_of(viewpoint_of(camera), camera.width, camera.height), alive=alive)
        expected = render(gaussians, camera, alive=alive)
        np.testing.assert_allclose(frame.color, expected.color, atol=2e-4)
        np.testing.assert_allclose(frame.depth, expected.depth, atol=2e-3)


def test_looking_at_points_there_and_keeps_up_up():
    position, target = np.array([1.0, 2.0, 3.0]), np.array([0.0, -1.0, 0.5])
    viewpoint = looking_at(position, target, np.array([0.0, 0.0, 1.0]), 0.8)
    forward, up = axes_of(viewpoint)
    np.testing.assert_allclose(forward, (target - position) / np.linalg.norm(target - position), atol=1e-6)
    assert up[2] > 0 and abs(up @ forward) < 1e-6
    assert viewpoint.fov == pytest.approx(0.8) and viewpoint.position == pytest.approx(tuple(position))
    matrix = camera_of(viewpoint._replace(width=8, height=6), 8, 6).camera_from_world
    np.testing.assert_allclose(matrix, look_at(position, target, (0, 0, 1)), atol=1e-5)


@pytest.mark.parametrize(
    "bad",
    [
        {"wxyz": (0.0, 0.0, 0.0, 0.0)},
        {"wxyz": (float("nan"), 0.0, 0.0, 0.0)},
        {"position": (float("inf"), 0.0, 0.0)},
        {"position": (1e30, 0.0, 0.0)},
        {"fov": 0.0},
        {"fov": 3.2},
        {"width": 0},
        {"height": -1},
        {"width": 10**9},
    ],
)
def test_what_no_picture_can_be_drawn_of_is_told(bad):
    good = Viewpoint((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 1.0, 800, 600)
    assert good.usable
    assert not good._replace(**bad).usable
