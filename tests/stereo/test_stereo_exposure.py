"""Brightness of views relative to each other, from exact depths and from the stereo's own; what is said about it."""

from pathlib import Path

import numpy as np
import pytest
from textured_planes import LENSES, MATRICES, Plane, camera_batch, in_a_row, render

from ipsm_jax.data.scene import Scene
from ipsm_jax.stereo import StereoDepths, depth_warnings
from ipsm_jax.stereo.exposure import relative_brightness


def exact(cameras, plane, share=0.5, seed=0):
    images, depths = render(cameras, plane)
    known = np.random.default_rng(seed).uniform(size=depths.shape) < share
    return images, StereoDepths(depths.astype(np.float32), known)


def brightened(images, gains):
    return np.clip(np.round(images * np.reshape(gains, (-1, 1, 1, 1))), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("gains", [(1, 1, 1), (0.7, 1.0, 1.3), (1.2, 0.9, 0.6)])
def test_known_factors_are_found(gains):
    cameras = camera_batch(in_a_row(3))
    images, depths = exact(cameras, Plane(normal=(0.3, 0.2, 1)))
    found = relative_brightness(cameras, brightened(images, gains), depths)
    np.testing.assert_allclose(found, gains / np.exp(np.mean(np.log(gains))), rtol=0.02)
    assert np.prod(found) == pytest.approx(1)


def test_turned_cameras_with_odd_lenses():
    cameras = camera_batch(MATRICES, LENSES)
    images, depths = exact(cameras, Plane(), share=1.0)
    found = relative_brightness(cameras, brightened(images, (0.8, 1.2)), depths)
    assert found[1] / found[0] == pytest.approx(1.5, rel=0.02)


def test_views_that_share_nothing_known_are_as_bright_as_each_other():
    cameras = camera_batch(in_a_row(3))
    images, depths = exact(cameras, Plane())
    apart = depths.confident.copy()
    apart[2] = False
    found = relative_brightness(cameras, brightened(images, (0.8, 1, 1.3)), depths._replace(confident=apart))
    assert found[2] == pytest.approx(1) and found[1] / found[0] == pytest.approx(1.25, rel=0.02)
    none = depths._replace(confident=np.zeros_like(apart))
    np.testing.assert_array_equal(relative_brightness(cameras, images, none), np.ones(3))


@pytest.mark.parametrize(
    ("gains", "strangers", "words"),
    [
        ((0.95, 1, 1.05), (), []),
        ((0.7, 1, 1.3), (), ["c.png shows the same surfaces 1.8", "times as bright as a.png"]),
        ((1, 1, 1), (1,), ["Warning: b.png agrees with the other training views hardly more than by chance"]),
    ],
)
def test_what_is_said(gains, strangers, words):
    cameras = camera_batch(in_a_row(3))
    images, depths = exact(cameras, Plane())
    scene = Scene("s", Path("s"), cameras, brightened(images, gains), ("a.png", "b.png", "c.png"), (0, 1, 2), ())
    said = depth_warnings(scene, depths._replace(strangers=strangers))
    assert len(said) == (1 if words else 0)
    for part in words:
        assert part in said[0]
