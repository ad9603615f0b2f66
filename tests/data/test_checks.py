"""One picture twice, and cameras at one place, are told from what only looks like it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from captures import FOCAL, HEIGHT, WIDTH, picture, poses, write_llff, write_transforms
from PIL import Image

from ipsm_jax.data.checks import check_parallax, check_same_pictures, same_pictures
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.load import load_scene
from ipsm_jax.data.scene import Scene
from ipsm_jax.scene.camera import Camera, look_at

NAMES = tuple(f"{i}.png" for i in range(6))


def scene(matrices=None, images=None, **fields):
    matrices = poses(6) if matrices is None else np.asarray(matrices)
    lens = np.tile(np.float32([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2]), (len(matrices), 1))
    images = np.stack([picture(i) for i in range(len(matrices))]) if images is None else images
    cameras = Camera(matrices.astype(np.float32), lens, WIDTH, HEIGHT)
    return Scene(**{"name": "place", "path": Path("place"), "cameras": cameras, "images": images,
                    "names": NAMES[: len(matrices)], "train": (1, 3, 5), "test": (0, 2, 4)} | fields)  # fmt: skip


def noisy(image, spread, seed=0):
    """With an error of a standard deviation of `spread` times the picture's own."""
    noise = np.random.default_rng(seed).normal(size=image.shape) * spread * image.std()
    return np.clip(image + noise, 0, 255).round().astype(np.uint8)


def test_a_picture_saved_again_is_the_same_and_one_from_beside_is_not(tmp_path):
    rng = np.random.default_rng(0)
    wide = np.asarray(
        Image.fromarray(rng.integers(0, 256, (12, 18, 3)).astype(np.uint8)).resize((90, 60), Image.Resampling.BICUBIC)
    )
    views = [wide[:50, i : i + 75] for i in (0, 2, 4)]
    Image.fromarray(views[1]).save(tmp_path / "again.jpg", quality=85, subsampling=0)
    again = np.asarray(Image.open(tmp_path / "again.jpg"))
    night = [(views[i] * 0.02).astype(np.uint8) for i in (0, 2)]  # they differ by few gray levels
    images = np.stack([*views, again, *night, noisy(views[2], 0.02)])
    assert same_pictures(images) == [(1, 3), (2, 6)]
    gray = np.full((2, 50, 75, 3), 90, np.uint8)
    assert same_pictures(gray) == [(0, 1)]
    assert same_pictures(np.stack([gray[0], gray[0] + np.uint8(1)])) == []


def test_two_poses_of_one_training_picture_are_refused():
    images = scene().images.copy()
    images[3] = noisy(images[1], 0.02)
    with pytest.raises(DataError, match=r"1.png and 3.png are the same picture, but their poses differ by \d+.\d deg"):
        check_same_pictures(scene(images=images))
    matrices = poses(6)
    matrices[3] = matrices[1]
    (note,) = check_same_pictures(scene(matrices, images))
    assert note == "1.png and 3.png are the same picture: as training views they count for one"


def test_a_test_view_that_was_trained_on_is_named():
    images, matrices = scene().images.copy(), poses(6)
    images[4], matrices[4] = images[3], matrices[3]
    (note,) = check_same_pictures(scene(matrices, images))
    assert note == "3.png and 4.png are the same picture, one a training view: the scores of the other mean nothing"
    matrices[4] = poses(6)[4]
    (note,) = check_same_pictures(scene(matrices, images))
    assert "so at least one is wrong: take one of the two out" in note
    images[4], images[2] = picture(9), picture(9)
    matrices[4] = matrices[2]
    assert check_same_pictures(scene(matrices, images)) == ()  # two test views, which may be the same


@pytest.mark.parametrize("bounds", [None, (2.0, 9.0)], ids=["no bounds", "bounds"])
def test_cameras_that_only_turn_are_refused(bounds):
    place = (30.0, -20.0, 10.0)
    turning = np.stack([look_at(place, (30 + x, -20, 20)) for x in (-1, 0, 1)])
    fields = {"train": (0, 1, 2), "test": (), "bounds": None if bounds is None else np.float32([bounds] * 3)}
    with pytest.raises(
        DataError, match=r"\(0.png, 1.png, 2.png\) were taken from practically one place, .* Add a photo"
    ):
        check_parallax(scene(turning, **fields))
    # With bounds it is known how little is too little: at depth 2 a baseline b moves a point by 40 b / 2 pixels.
    for baseline, enough in ((0.02, bounds is None), (0.03, True)):
        moved = turning.copy()
        moved[0] = look_at((30 + baseline, -20, 10), (29, -20, 20))
        if enough:
            check_parallax(scene(moved, **fields))
        else:
            with pytest.raises(DataError, match="practically one place"):
                check_parallax(scene(moved, **fields))


def test_one_training_view_may_be_looked_at():
    check_parallax(dataclasses.replace(scene(), train=(2,)))


def test_loading_checks(tmp_path):
    write_llff(tmp_path, 9)
    assert not any("same picture" in note for note in load_scene(str(tmp_path), downscale=1).notes)
    first = (tmp_path / "images" / "IMG_01.png").read_bytes()
    (tmp_path / "images" / "IMG_04.png").write_bytes(first)
    with pytest.raises(DataError, match=r"IMG_01.png and IMG_04.png are the same picture"):
        load_scene(str(tmp_path), downscale=1)
    turning = [look_at((0, 0, 0), (x, 0, 5)) for x in np.linspace(-1, 1, 9)]
    write_transforms(tmp_path, np.stack(turning).astype(np.float64), [f"images/IMG_{i:02d}.png" for i in range(9)])
    with pytest.raises(DataError, match="practically one place"):
        load_scene(str(tmp_path), downscale=1)
