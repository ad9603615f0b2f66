"""The traced scene: views agree with one another, tiles change nothing, cameras see what they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.data.synthetic.still_life import VIEWS, cameras, intrinsics, still_life
from ipsm_jax.data.synthetic.tracer import first_hit, render_view, shade

WIDTH, HEIGHT = 60, 45  # three by three tiles, the last ones not full
LENS = np.array([intrinsics(WIDTH, HEIGHT).focal, *intrinsics(WIDTH, HEIGHT)], np.float32)


@pytest.fixture(scope="module")
def shapes():
    return still_life()


@pytest.fixture(scope="module")
def picture(shapes):
    """View number and shine to (color, depth), with one ray per pixel."""
    return lambda view, shiny=0.0: tuple(
        np.asarray(a) for a in render_view(shapes, cameras()[view], LENS, shiny, width=WIDTH, height=HEIGHT, samples=1)
    )


@pytest.fixture(scope="module")
def untiled():
    """First hit and color of any rays or points, with every shape looked at."""
    nearest = jax.jit(lambda shapes, o, d: first_hit(shapes, shapes.seen, o, d))
    return nearest, jax.jit(shade)


def center(matrix):
    matrix = np.asarray(matrix, np.float64)
    return -matrix[:3, :3].T @ matrix[:3, 3]


def surface_points(view, depth):
    """World positions of the pixel centers of a view, (3, H W)."""
    u, v = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    rays = np.stack([(u - LENS[2]) / LENS[0], (v - LENS[3]) / LENS[1], np.ones_like(u)]).reshape(3, -1)
    matrix = np.asarray(cameras()[view], np.float64)
    return matrix[:3, :3].T @ (rays * depth.reshape(1, -1)) + center(matrix)[:, None]


def seen_from(view, points, shapes, nearest):
    """Ray towards each point from another camera: its depth there, the depth of what is met, and the shape's index."""
    matrix = np.asarray(cameras()[view], np.float64)
    inside = matrix[:3, :3] @ points + matrix[:3, 3:]
    eye = np.broadcast_to(center(matrix)[:, None], points.shape).astype(np.float32)
    direction = matrix[:3, :3].T @ (inside / inside[2])
    met, index = nearest(shapes, jnp.asarray(eye), jnp.asarray(direction, jnp.float32))
    return inside[2], np.asarray(met, np.float64), np.asarray(index), direction


def test_depth_is_one_surface_seen_from_everywhere(shapes, picture, untiled):
    points = surface_points(2, picture(2)[1])
    for other in (0, 13, 23):
        depth, met, _, _ = seen_from(other, points, shapes, untiled[0])
        # Nothing lies behind the surface that the first view saw: a point is seen from elsewhere, or is hidden.
        assert np.isfinite(met).all()
        assert np.mean(met > depth + 1e-4) < 0.002  # rays that just miss a silhouette
        assert 0.75 < np.mean(np.abs(met - depth) < 1e-4) < 0.999


def test_warping_a_matte_view_into_another_keeps_its_colors(shapes, picture, untiled):
    nearest, color_of = untiled
    color, depth = picture(20)
    points = surface_points(20, depth)
    z, met, index, direction = seen_from(4, points, shapes, nearest)
    visible = np.abs(met - z) < 1e-4
    eye = center(cameras()[4])[:, None]
    there = color_of(
        shapes,
        jnp.asarray(index),
        jnp.asarray(eye + met * direction, jnp.float32),
        jnp.asarray(-direction / np.linalg.norm(direction, axis=0), jnp.float32),
        0.0,
    )
    error = np.abs(np.asarray(there).T - color.reshape(-1, 3)).max(1)[visible]
    assert np.median(error) < 1e-3
    assert np.mean(error < 0.02) > 0.98  # the rest: texture edges that float32 positions cross
    # With shine the same points look different from the two cameras.
    shining = color_of(shapes, jnp.asarray(index), jnp.asarray(points, jnp.float32),
                       jnp.asarray(-direction / np.linalg.norm(direction, axis=0), jnp.float32), 1.0)  # fmt: skip
    moved = np.abs(np.asarray(shining).T - picture(20, 1.0)[0].reshape(-1, 3)).max(1)[visible]
    assert np.mean(moved > 0.03) > 0.02


def test_tiles_and_culling_change_nothing(shapes, picture, untiled):
    nearest, color_of = untiled
    color, depth = picture(9, 1.0)
    matrix = np.asarray(cameras()[9], np.float64)
    points = surface_points(9, depth)
    _, met, index, direction = seen_from(9, points, shapes, nearest)
    np.testing.assert_allclose(met.reshape(HEIGHT, WIDTH), depth, rtol=3e-5)
    position = center(matrix)[:, None] + met * direction
    toward = -direction / np.linalg.norm(direction, axis=0)
    whole = color_of(
        shapes, jnp.asarray(index), jnp.asarray(position, jnp.float32), jnp.asarray(toward, jnp.float32), 1.0
    )
    error = np.abs(np.asarray(whole).T.reshape(HEIGHT, WIDTH, 3) - color).max(-1)
    assert np.mean(error < 0.02) > 0.98
    assert np.median(error) < 1e-3


def test_every_view_is_full_of_picture(shapes, picture):
    for view in range(0, VIEWS, 4):
        color, depth = picture(view, 1.0)
        assert np.isfinite(depth).all() and depth.min() > 2.0 and depth.max() < 6.0
        assert color.min() >= 0 and color.max() <= 1
        assert np.mean(color.max(-1) < 0.02) < 0.01  # no black
        assert np.mean(color.min(-1) > 0.98) < 0.01  # nothing burnt out
        assert color.std() > 0.15


def test_cameras_face_forward_and_the_training_views_span_the_sweep(picture):
    matrices = cameras()
    assert matrices.shape == (VIEWS, 4, 4)
    np.testing.assert_array_equal(matrices, cameras())
    centers = np.stack([center(m) for m in matrices])
    spread = np.linalg.norm(np.ptp(centers, axis=0))
    nearest = min(picture(view)[1].min() for view in (0, 12, 23))
    assert 0.3 < spread / nearest < 0.5
    forward = matrices[:, 2, :3]
    assert np.degrees(np.arccos(np.clip(forward @ forward.mean(0) / np.linalg.norm(forward.mean(0)), -1, 1))).max() < 12
    # Three of the 21 views that do not test: the first, the middle, the last.
    training = centers[[1, 12, 23]]
    assert np.ptp(training[:, 0]) > 0.9 * np.ptp(centers[:, 0])
    gaps = np.linalg.norm(centers[:, None] - training[None], axis=-1).min(1)
    assert gaps.max() < 0.45 * spread
