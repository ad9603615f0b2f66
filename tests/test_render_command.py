"""The render command: paths, sizes, files, and errors in one sentence."""

import dataclasses
import subprocess

import imageio.v3 as iio
import imageio_ffmpeg
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import tiny_gaussians, tiny_scene, write_run, write_scene

from ipsm_jax.data.ply import write_gaussians_ply
from ipsm_jax.rasterizer import render
from ipsm_jax.render import camera_path, depth_bounds, main, render_video, resized
from ipsm_jax.trained import CommandError

pytestmark = pytest.mark.usefixtures("own_caches")


def decode(path, height: int, width: int) -> np.ndarray:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24"]
    raw = subprocess.run([*command, "-"], capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


@pytest.fixture
def scene(tmp_path):
    return tiny_scene(tmp_path / "scene")


def test_frames_of_the_video_are_renders_along_the_path(scene, tmp_path):
    gaussians, alive = tiny_gaussians()
    path = tmp_path / "out" / "a.mp4"
    render_video(
        gaussians, alive, scene, path, kind="interpolated", frames=3, background=(0, 0, 0), depth=True, png=True
    )
    cameras = camera_path(scene, "interpolated", 3, gaussians, alive)
    frames = decode(path, 34, 40)
    assert len(frames) == len(decode(tmp_path / "out" / "a_depth.mp4", 34, 40)) == 3
    for index in range(3):
        expected = np.clip(render(gaussians, cameras[index], alive=alive).color, 0, 1)
        picture = iio.imread(tmp_path / "out" / "a_frames" / f"{index:05d}.png") / 255
        np.testing.assert_allclose(picture, expected, atol=1.01 / 255)
        assert np.abs(frames[index] / 255 - expected).mean() < 0.05  # what H.264 leaves of it
        assert (tmp_path / "out" / "a_frames" / f"{index:05d}_depth.png").is_file()


def test_test_views_are_shown_for_a_second_each_and_named(scene, tmp_path):
    gaussians, alive = tiny_gaussians()
    render_video(gaussians, alive, scene, tmp_path / "a.mp4", kind="test", fps=5, background=(0, 0, 0), png=True)
    assert len(decode(tmp_path / "a.mp4", 34, 40)) == 2 * 5
    assert sorted(file.name for file in (tmp_path / "a_frames").iterdir()) == ["view0.png", "view8.png"]


def test_paths_without_bounds_find_them_from_the_gaussians(scene):
    gaussians, alive = tiny_gaussians()
    near, far = depth_bounds(gaussians, alive, scene.cameras[list(scene.train)])[0]
    assert 2.8 < near < 3.5 and 4.5 < far < 5.2
    cameras = camera_path(dataclasses.replace(scene, bounds=None), "spiral", 4, gaussians, alive)
    assert cameras.camera_from_world.shape == (4, 4, 4)
    with pytest.raises(CommandError, match=r"no spiral path for scene .*see no solid Gaussian"):
        camera_path(dataclasses.replace(scene, bounds=None), "spiral", 4, gaussians, jnp.zeros(64, bool))


def test_cameras_that_face_one_way_get_a_spiral(scene):
    gaussians, alive = tiny_gaussians()
    spiral = camera_path(scene, "spiral", 6, gaussians, alive)
    np.testing.assert_array_equal(
        camera_path(scene, "auto", 6, gaussians, alive).camera_from_world, spiral.camera_from_world
    )


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (40, 34)),
        ({"scale": 2.0}, (80, 68)),
        ({"width": 20}, (20, 17)),
        ({"height": 17}, (20, 17)),
        ({"width": 40, "height": 10}, (40, 10)),
        ({"width": 10, "height": 34}, (10, 34)),
    ],
)
def test_resized_cameras_see_the_middle_of_the_same_picture(scene, options, size):
    cameras = resized(scene.cameras, **options)
    assert (cameras.width, cameras.height) == size
    factor = max(size[0] / 40, size[1] / 34)
    np.testing.assert_allclose(cameras.intrinsics[:, :2], scene.cameras.intrinsics[:, :2] * factor, rtol=1e-6)
    # the ray through the picture's center stays the same
    for axis, (new, old) in enumerate(zip(size, (40, 34), strict=True)):
        after = (new / 2 - cameras.intrinsics[:, 2 + axis]) / cameras.intrinsics[:, axis]
        before = (old / 2 - scene.cameras.intrinsics[:, 2 + axis]) / scene.cameras.intrinsics[:, axis]
        np.testing.assert_allclose(after, before, atol=1e-5)


def test_a_picture_of_half_the_size_is_the_picture_halved(scene):
    gaussians, alive = tiny_gaussians()
    wide = gaussians._replace(log_scales=gaussians.log_scales + 0.7)  # smooth, so that pixels can be averaged
    full, half = (
        render(wide, resized(scene.cameras, scale=scale)[4], alive=alive, background=jnp.full(3, 0.5)).color
        for scale in (2.0, 1.0)
    )
    np.testing.assert_allclose(full.reshape(34, 2, 40, 2, 3).mean((1, 3)), half, atol=0.06)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.001}, "at least 1x1 pixels, got 0x0"),
        ({"scale": 2.0, "width": 5}, "not both"),
        ({"width": -3}, "-3x"),
    ],
)
def test_impossible_sizes_are_errors(scene, options, message):
    with pytest.raises(CommandError, match=message):
        resized(scene.cameras, **options)


def test_the_command_renders_a_run_and_a_ply_file(tmp_path, capsys):
    scene = write_scene(tmp_path / "scene")
    run = write_run(tmp_path / "run", scene)
    assert main([str(run), "--frames", "2"]) == 0
    assert capsys.readouterr().out.strip().endswith("video.mp4")
    assert len(decode(run / "video.mp4", 34, 40)) == 2
    assert main([str(run), "--frames", "2", "--path", "ellipse", "--width", "21", "--iteration", "20", "--depth"]) == 0
    assert len(decode(run / "video_ellipse_depth.mp4", 18, 22)) == 2
    write_gaussians_ply(tmp_path / "cloud.ply", *tiny_gaussians())
    arguments = ["--ply", str(tmp_path / "cloud.ply"), "--scene", str(scene), "--downscale", "1", "--path", "test"]
    assert main([*arguments, "--fps", "1", "--out", str(tmp_path / "b.mp4")]) == 0
    assert len(decode(tmp_path / "b.mp4", 34, 40)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "there is no run folder missing"),
        (["empty"], "empty holds no checkpoint"),
        (["run", "--frames", "0"], "--frames must be at least 1, got 0"),
        (["run", "--fps", "0"], "--fps must be positive"),
        (["run", "--out", "a.avi"], "must end in .mp4, got a.avi"),
        (["run", "--scale", "0"], "at least 1x1 pixels"),
        (["run", "--scene", "nowhere"], "nowhere"),
    ],
)
def test_errors_are_said_in_words_and_leave_no_video(arguments, message, tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "run", write_scene(tmp_path / "scene"))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and "Traceback" not in said
    assert not list(tmp_path.rglob("*.mp4"))
