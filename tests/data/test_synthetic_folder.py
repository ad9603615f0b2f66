"""The built-in scene as a folder: layout, the loader's view of it, repeatability, and appearing whole or not at all."""

import json
import threading

import numpy as np
import pytest
from PIL import Image

from ipsm_jax.data.errors import DataError
from ipsm_jax.data.load import load_scene
from ipsm_jax.data.synthetic import demo_scene_path, folder, make_scene
from ipsm_jax.data.synthetic.folder import ensure_scene, poses_bounds
from ipsm_jax.data.synthetic.still_life import cameras, intrinsics

SIZE = (60, 45)  # as in the tracer's tests, so that one compilation serves both
VIEWS = 9


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("scene") / "small"
    make_scene(path, *SIZE, VIEWS, samples=2)
    return path


def files_of(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def stand_in(target, width, height, views, **_):
    """A quick replacement of make_scene."""
    (target / "images").mkdir(parents=True)
    (target / "demo.json").write_text("{}")


def test_the_loader_reads_back_cameras_pictures_and_depths(made):
    scene = load_scene(str(made), views=3, downscale=1, split="llff")
    assert (scene.width, scene.height) == SIZE
    assert scene.test == (0, 8) and scene.train == (1, 4, 7)
    np.testing.assert_allclose(scene.cameras.camera_from_world, cameras(VIEWS), atol=1e-6)
    lens = intrinsics(*SIZE)
    np.testing.assert_allclose(
        scene.cameras.intrinsics, [[lens.focal, lens.focal, lens.cx, lens.cy]] * VIEWS, rtol=1e-6
    )
    for index, name in enumerate(scene.names):
        np.testing.assert_array_equal(scene.images[index], np.asarray(Image.open(made / "images" / name)))
        depth = np.load(made / "depths" / f"{name.removesuffix('.png')}.npy")
        assert depth.dtype == np.float32 and depth.shape == (SIZE[1], SIZE[0])
        np.testing.assert_array_equal(scene.depths[index], depth)
        np.testing.assert_allclose(scene.bounds[index], [depth.min(), depth.max()], rtol=1e-6)


def test_the_same_files_come_out_again(made, tmp_path):
    make_scene(tmp_path / "again", *SIZE, VIEWS, samples=2)
    assert files_of(tmp_path / "again") == files_of(made)
    assert json.loads((made / "demo.json").read_text())["generator"] == folder.generator_digest()


def test_more_samples_smooth_the_picture_but_leave_the_depth(made, tmp_path):
    make_scene(tmp_path / "sharp", *SIZE, 1, samples=1)
    smooth, sharp = (np.asarray(Image.open(p / "images/000.png"), float) for p in (made, tmp_path / "sharp"))
    assert np.abs(np.diff(smooth, axis=1)).mean() < 0.97 * np.abs(np.diff(sharp, axis=1)).mean()
    assert np.abs(smooth.mean() - sharp.mean()) < 3
    # The first camera is the same whatever the number of views, and depth is that of the center ray either way.
    depths = [np.load(p / "depths/000.npy") for p in (made, tmp_path / "sharp")]
    np.testing.assert_allclose(*depths, rtol=1e-5)


def test_poses_are_down_right_backwards():
    matrix = np.eye(4)
    matrix[:3, 3] = (-1.0, -2.0, -3.0)  # at (1, 2, 3), axes along the world's
    row = poses_bounds(matrix[None], 40, 30, 37.0, np.array([[2.0, 5.0]]))[0]
    expected = [[0, 1, 0, 1, 30], [1, 0, 0, 2, 40], [0, 0, -1, 3, 37]]
    np.testing.assert_array_equal(row[:15].reshape(3, 5), expected)
    np.testing.assert_array_equal(row[15:], [2.0, 5.0])


def test_the_environment_variable_says_where(monkeypatch, tmp_path):
    monkeypatch.setattr(folder, "make_scene", stand_in)
    monkeypatch.setenv("IPSM_JAX_CACHE", str(tmp_path / "cache"))
    path = demo_scene_path()
    assert path.is_relative_to(tmp_path / "cache") and path.name == "demo" and folder.generator_digest() in path.parts
    assert demo_scene_path(tmp_path / "other").is_relative_to(tmp_path / "other")
    # Another generator, another folder.
    monkeypatch.setattr(folder, "generator_digest", lambda: "changed")
    assert demo_scene_path() != path


def test_a_scene_that_is_there_is_not_made_again(monkeypatch, tmp_path):
    monkeypatch.setattr(folder, "make_scene", stand_in)
    path = ensure_scene(tmp_path / "demo", *SIZE, 1)
    monkeypatch.setattr(folder, "make_scene", lambda *_, **__: pytest.fail("made twice"))
    assert ensure_scene(path, *SIZE, 1) == path


def test_a_folder_of_which_part_was_deleted_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(folder, "make_scene", stand_in)
    path = ensure_scene(tmp_path / "demo", *SIZE, 1)
    (path / "demo.json").unlink()
    with pytest.raises(DataError, match=r"demo is incomplete \(no demo.json\).*Delete that folder"):
        ensure_scene(path, *SIZE, 1)
    (path / "images").rmdir()  # an empty folder is in nobody's way
    assert (ensure_scene(path, *SIZE, 1) / "demo.json").is_file()


def test_an_interrupted_making_leaves_nothing(monkeypatch, tmp_path):
    def interrupted(target, *_, **__):
        (target / "images").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "make_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure_scene(tmp_path / "cache" / "demo", *SIZE, 1)
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_at_once_end_with_one_whole_folder(monkeypatch, tmp_path):
    both_started = threading.Barrier(2)

    def slow(target, *arguments, **options):
        both_started.wait(timeout=60)
        stand_in(target, *arguments, **options)

    monkeypatch.setattr(folder, "make_scene", slow)
    results = []
    workers = [
        threading.Thread(target=lambda: results.append(ensure_scene(tmp_path / "demo", *SIZE, 1))) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [tmp_path / "demo"] * 2
    assert [file.name for file in tmp_path.iterdir()] == ["demo"]
    assert set(files_of(tmp_path / "demo")) == {"demo.json"}


def test_a_cache_that_cannot_be_written_names_the_variable(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("IPSM_JAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be written to.*IPSM_JAX_CACHE"):
        demo_scene_path()
