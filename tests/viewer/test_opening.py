"""What the viewer shows for runs and PLY files, and where it starts."""

import dataclasses
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import tiny_gaussians, tiny_scene, write_run, write_scene

from ipsm_jax.data.errors import DataError
from ipsm_jax.data.ply import write_gaussians_ply
from ipsm_jax.scene.camera import Camera
from ipsm_jax.trained import CommandError, SourceOptions
from ipsm_jax.training.checkpoint import CheckpointError
from ipsm_jax.viewer.opening import open_shown
from ipsm_jax.viewer.stage import new_model
from ipsm_jax.viewer.viewpoint import axes_of, camera_of, viewpoint_of
from ipsm_jax.viewer.world import PHOTO_SIDE, world_of

pytestmark = pytest.mark.usefixtures("own_caches")


@pytest.fixture
def scene_folder(tmp_path):
    return write_scene(tmp_path / "scene")


@pytest.fixture
def run(tmp_path, scene_folder):
    return write_run(tmp_path / "run", scene_folder)


@pytest.fixture
def ply(tmp_path):
    write_gaussians_ply(tmp_path / "cloud.ply", *tiny_gaussians())
    return tmp_path / "cloud.ply"


def test_a_run_comes_with_its_scene(run):
    opened = open_shown([SourceOptions(run=run)])
    (model,) = opened.stage.models
    assert model.caption == "run: 40 Gaussians, iteration 30"
    assert opened.scene.names[0] == "view0.png" and opened.notes == ()
    assert open_shown([SourceOptions(run=run, iteration=20)]).stage.models[0].iteration == 20


def test_a_run_whose_scene_is_gone_is_shown_without(run, scene_folder):
    shutil.rmtree(scene_folder)
    opened = open_shown([SourceOptions(run=run)])
    assert opened.scene is None and opened.stage.models[0].iteration == 30
    (note,) = opened.notes
    assert note.startswith("run: its scene cannot be read, so only Gaussians are shown") and str(scene_folder) in note
    assert "\n" not in note
    with pytest.raises(DataError, match="nowhere"):  # asked for by name
        open_shown([SourceOptions(run=run, scene="nowhere")])


def test_a_ply_file_needs_no_scene_but_may_have_one(ply, scene_folder):
    opened = open_shown([SourceOptions(ply=ply)])
    assert opened.scene is None and "does not say which cameras" in opened.notes[0]
    assert opened.stage.models[0].caption == "cloud.ply: 40 Gaussians"
    opened = open_shown([SourceOptions(ply=ply, scene=str(scene_folder), downscale=1)])
    assert len(opened.scene.names) == 9 and not opened.notes
    with pytest.raises(DataError, match="nowhere"):
        open_shown([SourceOptions(ply=ply, scene="nowhere")])


def test_two_have_different_names_and_one_scene(run, ply, tmp_path):
    opened = open_shown([SourceOptions(ply=ply), SourceOptions(run=run)])
    assert [model.name for model in opened.stage.models] == ["cloud.ply", "run"]
    assert opened.scene is not None
    shutil.copytree(run, tmp_path / "older" / "run")
    opened = open_shown([SourceOptions(run=run), SourceOptions(run=tmp_path / "older" / "run")])
    assert [model.name for model in opened.stage.models] == [f"{tmp_path.name}/run", "older/run"]
    assert opened.notes == ()
    opened = open_shown([SourceOptions(run=run, iteration=20), SourceOptions(run=run)])
    assert [model.iteration for model in opened.stage.models] == [20, 30]


def test_two_with_different_cameras_are_told_apart(run, tmp_path):
    moved = write_scene(tmp_path / "moved")
    poses = np.load(moved / "poses_bounds.npy")
    poses[:, 3] += 1.0  # the centers' x
    np.save(moved / "poses_bounds.npy", poses)
    opened = open_shown([SourceOptions(run=run), SourceOptions(run=write_run(tmp_path / "b", moved))])
    assert len(opened.notes) == 1 and "run and b have different cameras" in opened.notes[0]


def test_what_cannot_be_read_is_said(tmp_path, run):
    for source, error, message in (
        (SourceOptions(run=tmp_path / "missing"), CommandError, "there is no run folder"),
        (SourceOptions(ply=tmp_path / "missing.ply"), DataError, "there is no such file"),
        (SourceOptions(run=run, iteration=7), CheckpointError, "not after 7"),
    ):
        with pytest.raises(error, match=message):
            open_shown([source])


def test_the_first_look_is_from_the_first_training_camera(tmp_path):
    scene = tiny_scene(tmp_path / "scene")
    gaussians, alive = tiny_gaussians()
    world = world_of(new_model("tiny", gaussians, alive, background=(0, 0, 0)), scene)
    first = scene.cameras[scene.train[0]]
    np.testing.assert_allclose(camera_of(world.start, 40, 34).camera_from_world, first.camera_from_world, atol=1e-5)
    assert 3 < world.distance < 5
    np.testing.assert_allclose(world.target(world.start), [0, 0, 4], atol=0.7)
    assert world.up @ [0, -1, 0] > 0.99
    indices = sorted({*scene.train, *scene.test})
    assert len(indices) == 5 and any(c.trained for c in world.cameras)
    for camera, index in zip(world.cameras, indices, strict=True):
        assert (camera.name, camera.trained) == (scene.names[index], index in scene.train)
        assert camera.viewpoint == viewpoint_of(scene.cameras[index])
        assert max(camera.thumbnail.shape) <= PHOTO_SIDE
    assert 0.02 * world.distance <= world.size <= 0.1 * world.distance


def test_up_follows_the_cameras_wherever_the_world_has_it(tmp_path):
    scene = tiny_scene(tmp_path / "scene")
    turned = np.eye(4, dtype=np.float32)
    turned[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]  # the world's y becomes z
    cameras = Camera(scene.cameras.camera_from_world @ turned, scene.cameras.intrinsics, 40, 34)
    gaussians, alive = tiny_gaussians()
    gaussians = gaussians._replace(means=jnp.asarray(np.asarray(gaussians.means) @ turned[:3, :3]))
    world = world_of(
        new_model("tiny", gaussians, alive, background=(0, 0, 0)), dataclasses.replace(scene, cameras=cameras)
    )
    up_before = np.array([0.0, -1.0, 0.0]) @ turned[:3, :3]
    assert world.up @ up_before > 0.99 and 3 < world.distance < 5


def test_without_a_scene_the_gaussians_are_in_view():
    gaussians, alive = tiny_gaussians()
    for shift, scale in ((0.0, 1.0), (1000.0, 50.0), (-3.0, 1e-3)):
        moved = gaussians._replace(means=gaussians.means * scale + jnp.float32(shift))
        world = world_of(new_model("tiny", moved, alive, background=(0, 0, 0)), None)
        means = np.asarray(moved.means)[np.asarray(alive)]
        camera = camera_of(world.start._replace(width=400, height=400), 400, 400)
        points = means @ camera.camera_from_world[:3, :3].T + camera.camera_from_world[:3, 3]
        fx, fy, cx, cy = camera.intrinsics
        u, v = fx * points[:, 0] / points[:, 2] + cx, fy * points[:, 1] / points[:, 2] + cy
        inside = (points[:, 2] > 0) & (abs(u - 200) < 200) & (abs(v - 200) < 200)
        assert inside.mean() > 0.7
        assert axes_of(world.start)[1] @ world.up > 0.9 and world.cameras == ()


def test_gaussians_that_are_not_numbers_do_not_matter():
    gaussians, alive = tiny_gaussians()
    broken = gaussians._replace(means=gaussians.means.at[0].set(jnp.nan))
    world = world_of(new_model("tiny", broken, alive, background=(0, 0, 0)), None)
    assert np.isfinite(world.distance) and world.start._replace(width=1, height=1).usable
    nothing = world_of(new_model("tiny", gaussians, jnp.zeros(64, bool), background=(0, 0, 0)), None)
    assert nothing.start.usable
