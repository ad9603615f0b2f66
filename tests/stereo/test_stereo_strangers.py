"""Photos that do not belong are found and left out, and none that belongs."""

import dataclasses

import numpy as np
import pytest
from textured_planes import Plane, camera_batch, in_a_row, render

from ipsm_jax.scene.camera import look_at
from ipsm_jax.stereo import StereoError, StereoOptions, stereo_depths, strangers

OPTIONS = StereoOptions(planes=64, sources=3)  # the same for all, so that few programs are compiled


def run(cameras, images):
    return stereo_depths(cameras, images, np.tile((2.0, 9.0), (len(images), 1)), OPTIONS)


def median_error(result, depths, view):
    sure = result.confident[view]
    return np.median(np.abs(result.depth[view] - depths[view])[sure] / depths[view][sure])


@pytest.fixture(scope="module")
def facing():
    cameras = camera_batch(in_a_row(3))
    return cameras, *render(cameras, Plane())


@pytest.fixture(scope="module")
def elsewhere():
    """A photo of another part of the plane, far from what the others show."""
    return render(camera_batch([look_at((31, -17, 0), (31.2, -17, 40))]), Plane())[0][0]


def test_where_all_belong_nothing_is_matched_twice(facing, monkeypatch):
    cameras, images, _ = facing
    calls = []
    match = strangers.match_views
    monkeypatch.setattr(strangers, "match_views", lambda *args: calls.append(args) or match(*args))
    assert run(cameras, images).strangers == ()
    assert len(calls) == 1


def test_views_from_far_apart_belong():
    cameras = camera_batch(in_a_row(3, baseline=1.3, target=(0, 0, 4)))
    images, _ = render(cameras, Plane(normal=(0.7, 0.0, 1.0)))
    assert run(cameras, images).strangers == ()


@pytest.mark.parametrize("view", [0, 1, 2])
def test_a_photo_of_another_place_is_left_out(facing, elsewhere, view):
    cameras, images, depths = facing
    changed = images.copy()
    changed[view] = elsewhere
    result = run(cameras, changed)
    assert result.strangers == (view,)
    assert not result.depth[view].any() and not result.confident[view].any()
    rest = [i for i in range(3) if i != view]
    alone = run(cameras[np.array(rest)], images[rest])
    np.testing.assert_array_equal(result.depth[rest], alone.depth)
    np.testing.assert_array_equal(result.confident[rest], alone.confident)
    for i in rest:
        assert result.confident[i].mean() > 0.6 and median_error(result, depths, i) < 0.003


def test_a_wrong_pose_is_found(facing):
    cameras, images, _ = facing
    matrices = np.array(cameras.camera_from_world)
    matrices[2] = look_at((0.35, 0, 0.04), (3.0, -4.0, 20.0))  # turned by 13 degrees
    assert run(dataclasses.replace(cameras, camera_from_world=matrices), images).strangers == (2,)


def test_where_no_two_agree_there_is_no_stereo(facing, elsewhere):
    cameras, images, _ = facing
    with pytest.raises(
        StereoError, match=r"the 2 views agree on depths hardly more than by chance: .* Check the poses"
    ):
        run(cameras[:2], np.stack([images[0], elsewhere]))
    noise = np.random.default_rng(0).integers(0, 256, images.shape).astype(np.uint8)
    with pytest.raises(StereoError, match="the 3 views agree on depths hardly"):
        run(cameras, noise)


def test_large_photos_are_judged_at_a_small_size():
    cameras, images = camera_batch(in_a_row(2), width=810, height=600), np.zeros((2, 600, 810, 3), np.uint8)
    images[0, :, ::2], images[1, 300:] = 200, 100
    smaller, pictures = strangers._small(cameras, images)
    assert (smaller.width, smaller.height, pictures.shape) == (203, 150, (2, 150, 203, 3))
    np.testing.assert_allclose(smaller.intrinsics, np.asarray(cameras.intrinsics) / 4)
    assert (pictures[0, :, :200] == 100).all()
    assert (pictures[1, :75] == 0).all() and (pictures[1, 75:] == 100).all()
