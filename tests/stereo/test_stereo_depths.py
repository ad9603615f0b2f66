"""The whole stereo on planes whose depth is known in closed form, and on what it must not get wrong."""

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console
from textured_planes import FOCAL, HEIGHT, WIDTH, Plane, camera_batch, in_a_row, render

from ipsm_jax.scene.camera import look_at
from ipsm_jax.stereo import StereoError, StereoOptions, stereo_depths, stereo_progress
from ipsm_jax.stereo.depths import match_views

BOUNDS = (2.0, 9.0)
OPTIONS = StereoOptions(planes=64, sources=3)  # the same for all, so that few programs are compiled


def run(cameras, images, options=OPTIONS, progress=None):
    return stereo_depths(cameras, images, np.tile(BOUNDS, (len(images), 1)), options, progress)


def errors(result, depths):
    """Relative errors of confident depths, and their share of all pixels."""
    return (np.abs(result.depth - depths) / depths)[result.confident], result.confident.mean()


def assert_exact(result, depths, share, median=0.003):
    """At this size 1 % of the depth is less than a tenth of a pixel."""
    error, sure = errors(result, depths)
    assert sure > share
    assert np.median(error) < median
    assert np.mean(error < 0.02) > 0.97


@pytest.fixture(scope="module")
def facing():
    cameras = camera_batch(in_a_row(3))
    images, depths = render(cameras, Plane())
    return cameras, images, depths, run(cameras, images)


def test_a_plane_parallel_to_the_images(facing):
    *_, depths, result = facing
    assert result.depth.dtype == np.float32 and result.depth.shape == (3, HEIGHT, WIDTH)
    assert result.confident.dtype == bool
    assert_exact(result, depths, share=0.85, median=0.0015)
    assert np.mean(errors(result, depths)[0] < 0.01) > 0.99


def test_a_slanted_plane():
    cameras = camera_batch(in_a_row(3))
    images, depths = render(cameras, Plane(normal=(0.9, 0.3, 1.0)))
    assert_exact(run(cameras, images), depths, share=0.75, median=0.004)


def test_a_slanted_plane_seen_from_far_apart():
    cameras = camera_batch(in_a_row(3, baseline=1.3, target=(0, 0, 4)))
    images, depths = render(cameras, Plane(normal=(0.7, 0.0, 1.0)))
    assert_exact(run(cameras, images), depths, share=0.75)


def test_turned_cameras_with_odd_lenses():
    """Portrait beside landscape, focal lengths that differ by axis and view, principal points aside."""
    matrices = [
        look_at((x, 0.1 * i, 0), (0.5 * x, 0, 20), up)
        for i, (x, up) in enumerate([(-0.4, (0, -1, 0)), (0.0, (1, 0.1, 0)), (0.4, (0.1, -1, 0))])
    ]
    lenses = [(85.0, 97.0, 40.0, 41.0), (70.0, 66.0, 55.0, 30.0), (90.0, 80.0, 44.0, 33.0)]
    cameras = camera_batch(matrices, lenses)
    images, depths = render(cameras, Plane(normal=(0.2, 0.4, 1.0)))
    assert_exact(run(cameras, images), depths, share=0.6)


def test_exposures_may_differ(facing):
    cameras, images, depths, result = facing
    changed = images.astype(np.float64)
    changed[0], changed[2] = 0.6 * changed[0], 40 + 0.8 * changed[2]
    again = run(cameras, np.round(changed).astype(np.uint8))
    assert_exact(again, depths, share=result.confident.mean() - 0.05)


def test_what_has_no_texture_is_unknown():
    cameras = camera_batch(in_a_row(3))
    images = np.full((3, HEIGHT, WIDTH, 3), 120, np.uint8)
    noisy = images + np.random.default_rng(0).integers(-1, 2, images.shape).astype(np.uint8)
    for bare, most in ((images, 0), (noisy, 0.02)):
        assert match_views(cameras, bare, np.tile(BOUNDS, (3, 1)), OPTIONS)[0].confident.mean() <= most
        with pytest.raises(StereoError, match="too little texture or overlap"):
            run(cameras, bare)
    # A bare disk within a textured plane.
    images, depths = render(cameras, Plane(bare=((0, 0, 4), 0.6)))
    result = run(cameras, images)
    v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    inside = np.hypot(u - WIDTH / 2, v - HEIGHT / 2) < 0.6 * FOCAL / 4 - 6
    assert inside.sum() > 100 and not result.confident[1][inside].any()
    assert_exact(result, depths, share=0.65)


def test_two_views(facing):
    cameras, images, depths, _ = facing
    assert_exact(run(cameras[:2], images[:2]), depths[:2], share=0.7)


def test_a_photo_taken_twice_confirms_nothing_of_itself(facing):
    """The same photo at the same place agrees with any depth; only the third view can tell."""
    cameras, images, depths, _ = facing
    twice = np.array([0, 0, 2])
    found = run(cameras[twice], images[twice])
    two = run(cameras[np.array([0, 2])], images[[0, 2]])
    assert found.confident.mean() < two.confident.mean() + 0.02
    assert_exact(found, depths[twice], share=0.6)


def test_nine_views_need_two_that_agree():
    cameras = camera_batch(in_a_row(9, baseline=0.12))
    images, depths = render(cameras, Plane(normal=(0.3, 0.0, 1.0)))
    result = run(cameras, images)
    assert_exact(result, depths, share=0.85)
    alone = run(cameras, images, dataclasses.replace(OPTIONS, agreeing=8))
    assert alone.confident.mean() < result.confident.mean()


def test_a_view_that_sees_something_else_is_unknown_and_harms_no_other(facing):
    cameras, images, depths, result = facing
    away = look_at((0, 0, 0), (0, 0, -5))
    four = camera_batch([*np.asarray(cameras.camera_from_world), away])
    noise = np.random.default_rng(0).integers(0, 256, (1, HEIGHT, WIDTH, 3)).astype(np.uint8)
    found = run(four, np.concatenate([images, noise]))
    assert not found.depth[3].any() and not found.confident[3].any()
    assert_exact(stereo_slice(found, 3), depths, share=result.confident.mean() - 0.02)


def stereo_slice(result, count):
    return type(result)(result.depth[:count], result.confident[:count])


def test_large_images_are_refined_from_small_ones(facing):
    cameras, images, depths, _ = facing
    result = run(cameras, images, dataclasses.replace(OPTIONS, coarse_above=50))
    assert_exact(result, depths, share=0.8)


def test_strips_give_what_the_whole_gives():
    cameras = camera_batch(in_a_row(2), (FOCAL, FOCAL, 48, 120), height=240)
    images, depths = render(cameras, Plane(normal=(0.2, 0.1, 1.0)))
    whole = run(cameras, images)
    counts = []
    strips = run(cameras, images, dataclasses.replace(OPTIONS, most_cells=64 * 96 * 120), lambda *n: counts.append(n))
    assert counts == [(i + 1, 6) for i in range(6)]  # three strips of 120 rows for each view
    assert_exact(strips, depths, share=whole.confident.mean() - 0.02)
    both = whole.confident & strips.confident
    assert np.mean(whole.depth[both] == strips.depth[both]) > 0.8


def test_progress_is_shown_only_if_asked_for(facing, capsys):
    cameras, images, *_, result = facing
    run(cameras, images)
    assert capsys.readouterr() == ("", "")
    output = io.StringIO()
    with stereo_progress(Console(file=output, force_terminal=True, width=80)) as progress:
        again = run(cameras, images, progress=progress)
    assert "Depth from the photos" in output.getvalue() and "3/3" in output.getvalue()
    np.testing.assert_array_equal(again.depth, result.depth)  # the same every time


def test_photos_that_do_not_fit_the_cameras_are_refused(facing):
    cameras, images, *_ = facing
    with pytest.raises(StereoError, match=r"need photos of shape \(3, 72, 96, 3\) as uint8"):
        run(cameras, images[:, :-1])
    with pytest.raises(StereoError, match="float64"):
        run(cameras, images / 255)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"coarse_above": 0}, "coarse_above of the stereo must be at least 32, got 0"),
        ({"large_penalty": 0.01}, "large_penalty of the stereo must be at least 0.06"),
        ({"large_penalty": 100.0}, "at most 10.0, got 100.0"),
        ({"planes": 1}, "planes of the stereo must be at least 3"),
        ({"contrast": float("nan")}, "contrast"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, message):
    with pytest.raises(StereoError, match=message):
        StereoOptions(**setting)
