"""Photos of another shape than most: cropped, with a camera that still says where everything is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from textured_corner import poses as arc
from white_balls import HEIGHT, INTRINSICS, LENS, WIDTH, blob_photo, solution_of, spots

from ipsm_jax.data.capture import Capture, PosedPhoto
from ipsm_jax.data.lenses import PINHOLE
from ipsm_jax.data.load import load_scene
from ipsm_jax.data.pictures import fits
from ipsm_jax.sfm.photos import Photo
from ipsm_jax.sfm.scene_folder import kept_points, write_scene
from ipsm_jax.sfm.sources import capture_sources, middle, solved_sources, usual_size

PORTRAIT = (100.0, 100.0, 36.0, 48.0)


@pytest.fixture
def mixed(tmp_path):
    """Two landscapes and a portrait of five balls, one of them where the crop does not reach."""
    matrices = arc(3)
    rng = np.random.default_rng(2)
    positions = np.stack([rng.uniform(-1, 0.2, 5), rng.uniform(-0.5, 0.5, 5), rng.uniform(4, 6, 5)], axis=1)
    positions[4] = -0.6, 1.5, 4.5
    photos, pixels, intrinsics = [], [], [INTRINSICS, PORTRAIT, INTRINSICS]
    for i, (matrix, camera) in enumerate(zip(matrices, intrinsics, strict=True)):
        size = (HEIGHT, WIDTH) if i == 1 else (WIDTH, HEIGHT)
        pixels.append(spots(matrix, positions, LENS, camera))
        blob_photo(pixels[-1], *size).save(tmp_path / f"{i}.png")
        photos.append(Photo(tmp_path / f"{i}.png", f"{i}.png", *size, None, "", *size))
    assert 75 < pixels[1][4, 1] < 96  # in the portrait, below its middle 72 x 54
    return photos, solution_of(matrices, intrinsics, positions, pixels)


def test_portrait_among_landscapes_is_cropped(mixed, tmp_path):
    photos, solution = mixed
    sources, lost, notes = solved_sources(photos, solution)
    assert not lost
    assert notes == ("1 of 3 photos have another shape than most and were cropped to it: 1.png (56% of them is left)",)
    folder = tmp_path / "scene"
    folder.mkdir()
    written = write_scene(folder, sources, kept_points(solution, lost))
    assert written.size == (WIDTH, HEIGHT)
    scene = load_scene(str(folder), downscale=1, views=3)
    for view in range(3):
        places = spots(
            solution.camera_from_world[view], solution.points.positions, PINHOLE, scene.cameras.intrinsics[view]
        )
        picture = scene.images[view, ..., 0].astype(float)
        for x, y in places[:4]:  # the center of brightness around each ball
            box = np.s_[int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5]
            v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
            alone = all(np.hypot(x - a, y - b) > 10 or (x, y) == (a, b) for a, b in places)
            if alone:
                found = [(picture[box] * axis[box]).sum() / picture[box].sum() for axis in (u, v)]
                np.testing.assert_allclose(found, (x, y), atol=0.3)
    lines = (folder / "sparse" / "0" / "images.txt").read_text().splitlines()[1:]
    counts = []
    for view in range(3):
        stored = np.array(lines[2 * view + 1].split(), float).reshape(-1, 3)
        counts.append(len(stored))
        places = spots(
            written.camera_from_world[view],
            solution.points.positions[stored[:, 2].astype(int) - 1],
            PINHOLE,
            written.intrinsics[view],
        )
        np.testing.assert_allclose(stored[:, :2], places, atol=0.011)
    assert counts[1] == 4  # the ball below the crop is not seen any more


def test_posed_photos_of_several_shapes_keep_their_masks(tmp_path):
    matrices = arc(3)
    ball = np.array([[-0.4, 0.1, 5.0]])
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    photos = []
    for i, matrix in enumerate(matrices):
        width, height, camera = (HEIGHT, WIDTH, PORTRAIT) if i == 1 else (WIDTH, HEIGHT, INTRINSICS)
        picture = blob_photo(spots(matrix, ball, LENS, camera), width, height)
        picture.save(tmp_path / "images" / f"{i}.png")
        picture.point(lambda level: 255 * (level > 60)).save(tmp_path / "masks" / f"{i}.png")
        photos.append(PosedPhoto(tmp_path / "images", f"{i}.png", matrix, width, height, camera, LENS))
    sources, lost, _ = capture_sources(Capture(tmp_path, "colmap", tuple(photos)))
    assert not lost
    (tmp_path / "out").mkdir()
    written = write_scene(tmp_path / "out", sources)
    assert "3 object masks are kept in masks/" in written.notes
    for view in range(3):
        mask = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{view}.png")) >= 128  # as it is read
        assert mask.shape == (HEIGHT, WIDTH)
        (x, y) = spots(matrices[view], ball, PINHOLE, written.intrinsics[view])[0]
        v, u = np.nonzero(mask)
        np.testing.assert_allclose((u.mean() + 0.5, v.mean() + 0.5), (x, y), atol=0.7)


@given(*[st.integers(1, 5000)] * 4)
def test_middle_is_the_largest_part_of_the_shape(width, height, a, b):
    left, top, right, bottom = middle((width, height), (a, b))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert (left, right) == (0, width) or (top, bottom) == (0, height)
    assert abs(left - (width - right)) <= 1 and abs(top - (height - bottom)) <= 1
    if min(right - left, bottom - top) > 20:
        assert fits((right - left, bottom - top), (a, b))


def test_usual_size_is_the_largest_frequent_one_of_the_most_frequent_shape():
    assert usual_size([(80, 60), (40, 30), (60, 80), (60, 80), (160, 120)]) == (160, 120)
    assert usual_size([(80, 60), (80, 60), (160, 120)]) == (80, 60)
