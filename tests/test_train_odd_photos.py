"""The train command on photos that do not fit together, and what training is given of odd ones."""

import json
import shutil

import numpy as np
import pytest
from blobs import HEIGHT, WIDTH, command, refusal, write_capture
from PIL import Image

from ipsm_jax.config import DataConfig, OptimizationConfig, TrainConfig
from ipsm_jax.training.setup import load_scene_from_config, training_views

pytestmark = pytest.mark.usefixtures("own_caches")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_capture(tmp_path_factory.mktemp("capture") / "blobs")


@pytest.fixture
def capture(original, tmp_path):
    return shutil.copytree(original, tmp_path / "blobs")


def only(capture, numbers):
    """Leave the frames with these numbers."""
    path = capture / "transforms.json"
    content = json.loads(path.read_text())
    content["frames"] = [content["frames"][number] for number in numbers]
    path.write_text(json.dumps(content))


def say_same_picture(capture):
    shutil.copy(capture / "images" / "001.png", capture / "images" / "007.png")


def say_one_place(capture):
    path = capture / "transforms.json"
    content = json.loads(path.read_text())
    for frame in content["frames"]:
        frame["transform_matrix"][0][3], frame["transform_matrix"][1][3], frame["transform_matrix"][2][3] = 1, 2, 3
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (say_same_picture, "001.png and 007.png are the same picture, but their poses differ by"),
        (say_one_place, "(001.png, 004.png, 007.png) were taken from practically one place"),
        (lambda capture: only(capture, [3]), "Use --views 2 or more, photos from different places"),
    ],
    ids=["same picture", "one place", "one photo"],
)
def test_photos_that_say_nothing_are_refused_before_anything_is_written(capture, tmp_path, change, message, capsys):
    change(capture)
    code, sentence = refusal(command(capture, tmp_path / "runs"), capsys)
    assert code == 2 and message in sentence
    assert not (tmp_path / "runs").exists()


def test_two_photos_are_enough(capture):
    only(capture, [2, 6])
    scene = load_scene_from_config(TrainConfig(data=DataConfig(scene=str(capture), downscale=1)))
    assert scene.train == (0, 1)
    assert any("3 training views are asked for and there are 2 photos" in note for note in scene.notes)


def test_training_sees_its_own_background_through_transparent_photos(capture):
    for path in (capture / "images").iterdir():
        pixels = np.asarray(Image.open(path))
        mask = np.where(np.arange(HEIGHT) < HEIGHT // 2, 0, 255).astype(np.uint8)[:, None, None]
        Image.fromarray(np.concatenate([pixels, np.broadcast_to(mask, (HEIGHT, WIDTH, 1))], -1)).save(path)
    for color in ((0.0, 0.0, 0.0), (1.0, 0.0, 1.0)):
        config = TrainConfig(
            data=DataConfig(scene=str(capture), downscale=1), optimization=OptimizationConfig(background=color)
        )
        image = np.asarray(training_views(config, load_scene_from_config(config)).targets.image)
        np.testing.assert_allclose(image[:, : HEIGHT // 2], np.broadcast_to(color, image[:, : HEIGHT // 2].shape))
