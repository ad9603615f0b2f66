"""Camera paths: rigid motion of the scene moves the path with it, frames are proper cameras, ends and edge cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ipsm_jax.scene.camera import Camera, look_at
from ipsm_jax.scene.trajectories import (
    average_pose,
    choose_path,
    ellipse_path,
    focus_depth,
    focus_point,
    interpolated_path,
    spiral_path,
)

BOUNDS = np.array([[2.0, 9.0]])


def batch(matrices, focals=None) -> Camera:
    focals = [50.0] * len(matrices) if focals is None else focals
    intrinsics = np.array([[f, f, 20.0, 15.0] for f in focals], np.float32)
    return Camera(np.stack(matrices).astype(np.float32), intrinsics, width=40, height=30)


def forward_facing(seed: int, count: int = 6) -> Camera:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(count, 3)) * (1.0, 0.5, 0.2)
    return batch([look_at(c, rng.normal(size=3) * 0.2 + (0, 0, 4)) for c in centers], rng.uniform(40, 60, count))


def ring(seed: int, count: int = 9) -> Camera:
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    radius = rng.uniform(2, 3, count)
    centers = np.stack([1.4 * radius * np.cos(angles), rng.uniform(-1.5, -0.5, count), radius * np.sin(angles)], 1)
    return batch([look_at(c, rng.normal(size=3) * 0.1) for c in centers])


def moved(cameras: Camera, rotation: np.ndarray, shift: np.ndarray) -> Camera:
    """The same cameras after the whole world was turned and shifted."""
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = rotation, shift
    return batch(np.asarray(cameras.camera_from_world, np.float64) @ np.linalg.inv(world), cameras.intrinsics[:, 0])


def centers_of(cameras: Camera) -> np.ndarray:
    matrices = np.asarray(cameras.camera_from_world, np.float64)
    return -np.einsum("vji,vj->vi", matrices[:, :3, :3], matrices[:, :3, 3])


PATHS = {
    "interpolated": (forward_facing, lambda c, n: interpolated_path(c, n)),
    "spiral": (forward_facing, lambda c, n: spiral_path(c, BOUNDS, n)),
    "ellipse": (ring, lambda c, n: ellipse_path(c, n)),
}


@pytest.mark.parametrize("kind", PATHS)
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_a_scene_moved_rigidly_takes_its_path_with_it(kind, seed):
    make, path = PATHS[kind]
    cameras = make(seed)
    rotation = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    shift = np.random.default_rng(seed + 1).normal(size=3) * 3
    expected = moved(path(cameras, 7), rotation, shift)
    actual = path(moved(cameras, rotation, shift), 7)
    np.testing.assert_allclose(actual.camera_from_world, expected.camera_from_world, atol=2e-4)
    np.testing.assert_allclose(actual.intrinsics, expected.intrinsics, rtol=1e-3)


@pytest.mark.parametrize("kind", PATHS)
@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), frames=st.integers(1, 9))
def test_frames_are_rigid_cameras_of_the_given_size(kind, seed, frames):
    make, path = PATHS[kind]
    result = path(make(seed), frames)
    assert result.camera_from_world.shape == (frames, 4, 4)
    assert result.intrinsics.shape == (frames, 4)
    assert result.camera_from_world.dtype == result.intrinsics.dtype == np.float32
    assert (result.width, result.height) == (40, 30)
    rotation = result.camera_from_world[:, :3, :3]
    identity = np.broadcast_to(np.eye(3), (frames, 3, 3))
    np.testing.assert_allclose(rotation @ np.swapaxes(rotation, 1, 2), identity, atol=1e-5)
    assert np.all(np.linalg.det(rotation) > 0)
    np.testing.assert_array_equal(result.camera_from_world[:, 3], np.tile([0, 0, 0, 1], (frames, 1)))


def test_the_interpolated_path_begins_and_ends_at_the_ends_and_passes_the_middle():
    cameras = batch([look_at((x, 0, 0), (x, 0, 5)) for x in (-1.0, 0.0, 1.0)], [40, 50, 60])
    path = interpolated_path(cameras, 9)
    for frame, camera in ((0, 0), (4, 1), (8, 2)):
        np.testing.assert_allclose(path.camera_from_world[frame], cameras.camera_from_world[camera], atol=1e-6)
        np.testing.assert_allclose(path.intrinsics[frame], cameras.intrinsics[camera], rtol=1e-6)
    np.testing.assert_allclose(centers_of(path)[:, 0], np.linspace(-1, 1, 9), atol=1e-6)


def test_two_cameras_are_joined_by_a_line_and_a_steady_turn():
    cameras = batch([look_at((0, 0, 0), (0, 0, 1)), look_at((2, 0, 0), (3, 0, 0))])
    path = interpolated_path(cameras, 5)
    np.testing.assert_allclose(centers_of(path), np.linspace((0, 0, 0), (2, 0, 0), 5), atol=1e-6)
    forward = path.camera_from_world[:, 2, :3]
    angles = np.arctan2(forward[:, 0], forward[:, 2])
    np.testing.assert_allclose(angles, np.linspace(0, np.pi / 2, 5), atol=1e-5)


def test_a_turn_without_a_move_takes_time_too():
    cameras = batch([look_at((0, 0, 0), (np.sin(a), 0, np.cos(a))) for a in (0.0, 0.4, 0.8)])
    forward = interpolated_path(cameras, 3).camera_from_world[:, 2, :3]
    np.testing.assert_allclose(np.arctan2(forward[:, 0], forward[:, 2]), [0, 0.4, 0.8], atol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_one_camera_or_equal_cameras_give_valid_paths(count):
    matrix = look_at((1, 2, -3), (1, 2, 5))
    cameras = batch([matrix] * count)
    np.testing.assert_allclose(interpolated_path(cameras, 4).camera_from_world, np.stack([matrix] * 4), atol=1e-6)
    spiral = centers_of(spiral_path(cameras, BOUNDS, 8))
    assert np.ptp(spiral[:, 0]) > 0 and np.ptp(spiral[:, 1]) > 0  # it moves
    np.testing.assert_allclose(spiral.mean(0), (1, 2, -3), atol=0.1)
    with pytest.raises(ValueError, match=r"parallel directions .* spiral or interpolated"):
        ellipse_path(cameras, 8)
    depth = focus_depth(BOUNDS)
    around = centers_of(ellipse_path(cameras, 8, BOUNDS))
    np.testing.assert_allclose(around[0], (1, 2, -3), atol=1e-4)  # a circle that starts at the camera
    np.testing.assert_allclose(np.linalg.norm(around - (1, 2, -3 + depth), axis=1), depth, rtol=1e-4)


def test_equal_neighbors_in_between_do_not_stop_the_path():
    a, b, c = (look_at((x, 0, 0), (x, 0, 5)) for x in (0.0, 1.0, 2.0))
    once, doubled = interpolated_path(batch([a, b, c]), 7), interpolated_path(batch([a, a, b, b, b, c]), 7)
    np.testing.assert_allclose(once.camera_from_world, doubled.camera_from_world, atol=1e-6)


def test_the_spiral_looks_at_the_focus_and_stays_within_the_spread_of_the_cameras():
    cameras = forward_facing(3)
    path = spiral_path(cameras, BOUNDS, 40)
    pose, depth = average_pose(cameras), focus_depth(BOUNDS)
    focus = pose[:3, 3] + depth * pose[:3, 2]
    seen = np.einsum("fij,j->fi", path.camera_from_world, np.append(focus, 1))
    np.testing.assert_allclose(seen[:, :2], 0, atol=1e-4)
    assert np.all(seen[:, 2] > 0)
    spread = np.abs((centers_of(cameras) - pose[:3, 3]) @ pose[:3, :3]).max(0)
    assert np.all(np.abs((centers_of(path) - pose[:3, 3]) @ pose[:3, :3]) <= spread + 1e-4)
    steps = np.linalg.norm(np.diff(centers_of(path)[np.r_[:40, 0]], axis=0), axis=1)
    assert steps[-1] < 1.5 * steps[:-1].max()  # closed: the last step back to the first frame is like the others


def test_focus_depth_is_the_stated_mean():
    assert focus_depth(np.array([[2.0, 8.0], [1.0, 10.0]])) == pytest.approx(1 / (0.25 / 0.9 + 0.75 / 50))


def test_the_focus_point_is_found_and_circled():
    target = np.array([3.0, -2.0, 5.0])
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False) + 0.3
    cameras = batch([look_at(target + np.array([2 * np.cos(a), -1, 2 * np.sin(a)]), target) for a in angles])
    np.testing.assert_allclose(focus_point(cameras), target, atol=1e-5)
    path = ellipse_path(cameras, 24)
    offsets = centers_of(path) - target
    np.testing.assert_allclose(np.hypot(offsets[:, 0], offsets[:, 2]), 2, atol=1e-3)
    np.testing.assert_allclose(offsets[:, 1], -1, atol=1e-3)
    np.testing.assert_allclose(centers_of(path)[0], centers_of(cameras)[0], atol=1e-3)
    steps = np.linalg.norm(np.diff(centers_of(path)[np.r_[:24, 0]], axis=0), axis=1)
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-2)
    up_seen = path.camera_from_world[:, 1, :3] @ np.array([0, 1.0, 0])
    assert np.all(up_seen > 0.8)  # world down stays down in the picture


def test_an_elongated_ring_gives_an_ellipse_of_its_shape():
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    cameras = batch([look_at((4 * np.cos(a), 0, 2 * np.sin(a)), (0, 0, 0)) for a in angles])
    points = centers_of(ellipse_path(cameras, 50))
    np.testing.assert_allclose((points[:, 0] / 4) ** 2 + (points[:, 2] / 2) ** 2, 1, atol=1e-2)


def test_the_path_is_chosen_by_how_the_cameras_face():
    def arc(degrees, count=9):
        angles = np.radians(np.linspace(-degrees / 2, degrees / 2, count))
        return batch([look_at((3 * np.sin(a), 0, -3 * np.cos(a)), (0, 0, 0)) for a in angles])

    assert choose_path(arc(50)) == "spiral"
    assert choose_path(arc(120)) == "interpolated"
    assert choose_path(arc(340)) == "ellipse"
    assert choose_path(forward_facing(0)) == "spiral"
    assert choose_path(arc(0, count=1)) == "spiral"


def test_errors_say_what_is_wrong():
    cameras = forward_facing(0)
    with pytest.raises(ValueError, match="at least 1 frame, got 0"):
        interpolated_path(cameras, 0)
    with pytest.raises(ValueError, match="at least one camera"):
        spiral_path(cameras[:0], BOUNDS, 5)
    with pytest.raises(ValueError, match="nearest <= farthest"):
        spiral_path(cameras, np.array([[-1.0, 5.0]]), 5)
    around = batch([look_at((np.cos(a), 0, np.sin(a)), (0, 0, 0)) for a in (0, np.pi / 2, np.pi, 1.5 * np.pi)])
    with pytest.raises(ValueError, match="use an ellipse path"):
        spiral_path(around, BOUNDS, 5)
    upside_down = batch([look_at((0, 0, 0), (0, 0, 1)), look_at((0, 0, 0), (0, 0, 1), up=(0, 1, 0))])
    with pytest.raises(ValueError, match="up directions cancel out"):
        spiral_path(upside_down, BOUNDS, 5)
