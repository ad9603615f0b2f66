"""LLFF: conventions against a projection written from the format's description, pictures, and broken input."""

import numpy as np
import pytest
from captures import FOCAL, HEIGHT, WIDTH, picture, poses, poses_bounds, write_llff, write_pictures
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ipsm_jax.data.errors import DataError
from ipsm_jax.data.llff import camera_from_world, read_bounds, read_poses_bounds
from ipsm_jax.data.load import load_scene


def test_scene_holds_what_was_written(tmp_path):
    matrices = write_llff(tmp_path, 10)
    scene = load_scene(str(tmp_path), downscale=1)
    assert scene.names == tuple(f"IMG_{i:02d}.png" for i in range(10))
    np.testing.assert_allclose(scene.cameras.camera_from_world, matrices, atol=1e-6)
    np.testing.assert_allclose(scene.cameras.intrinsics, np.tile([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2], (10, 1)))
    assert scene.cameras.camera_from_world.dtype == scene.cameras.intrinsics.dtype == np.float32
    np.testing.assert_array_equal(scene.images, [picture(i) for i in range(10)])
    np.testing.assert_allclose(scene.bounds, np.tile([2.0, 9.0], (10, 1)))
    assert (scene.train, scene.test) == ((1, 5, 9), (0, 8))


def test_columns_are_down_right_backwards():
    """A point is to the right of the picture's middle iff its component along the second column is positive, etc."""
    rng = np.random.default_rng(0)
    down, right, back = np.linalg.qr(rng.normal(size=(3, 3)))[0].T
    if np.dot(np.cross(right, down), -back) < 0:
        back = -back
    position = rng.normal(size=3)
    matrix = camera_from_world(np.stack([down, right, back, position], axis=1), "here")
    point = position + 3 * right - 2 * down - 5 * back
    np.testing.assert_allclose(matrix @ [*point, 1], [3, -2, 5, 1], atol=1e-12)


def test_downscale_made_from_full_size_has_its_intrinsics(tmp_path):
    write_llff(tmp_path, 10)
    scene = load_scene(str(tmp_path), downscale=2)
    assert scene.images.shape == (10, HEIGHT // 2, WIDTH // 2, 3)
    np.testing.assert_allclose(scene.cameras.intrinsics[0], [FOCAL / 2, FOCAL / 2, WIDTH / 4, HEIGHT / 4])
    assert scene.images.mean() == pytest.approx(np.mean([picture(i) for i in range(10)]), abs=1)


def test_published_folders_match_by_order(tmp_path):
    """LLFF keeps IMG_4026.JPG in images/ and image000.png in images_8/."""
    names = [f"IMG_{4026 + i}.JPG" for i in range(9)]
    write_llff(tmp_path, names=names)
    write_pictures(tmp_path / "images_8", [f"image{i:03d}.png" for i in range(9)], WIDTH // 8, HEIGHT // 8)
    scene = load_scene(str(tmp_path), downscale=8)
    assert scene.names == tuple(names)
    np.testing.assert_array_equal(scene.images, [picture(i, WIDTH // 8, HEIGHT // 8) for i in range(9)])


def test_only_a_downscaled_folder(tmp_path):
    """As the published fern without its full-size photos; 1/8 is then made from 1/4."""
    np.save(tmp_path / "poses_bounds.npy", poses_bounds(poses(9), width=4 * WIDTH, height=4 * HEIGHT, focal=4 * FOCAL))
    write_pictures(tmp_path / "images_4", [f"image{i:03d}.png" for i in range(9)])
    scene = load_scene(str(tmp_path), downscale=8)
    assert scene.images.shape[1:3] == (HEIGHT // 2, WIDTH // 2)
    np.testing.assert_allclose(scene.cameras.intrinsics[0], [FOCAL / 2, FOCAL / 2, WIDTH / 4, HEIGHT / 4])
    with pytest.raises(DataError, match=r"no photos at 1/2 .*folders there: images_4"):
        load_scene(str(tmp_path), downscale=2)


def test_incomplete_colmap_model_is_passed_over_with_a_note(tmp_path):
    matrices = write_llff(tmp_path, 9)
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    (tmp_path / "sparse" / "0" / "cameras.bin").write_bytes(b"whatever")
    scene = load_scene(str(tmp_path), downscale=1)
    np.testing.assert_allclose(scene.cameras.camera_from_world, matrices, atol=1e-6)
    assert any("sparse/0 has no images.bin" in note and "poses_bounds.npy" in note for note in scene.notes)


def test_depth_maps_beside_the_photos(tmp_path):
    write_llff(tmp_path, 9)
    (tmp_path / "depths").mkdir()
    depths = np.random.default_rng(0).uniform(0, 9, (9, HEIGHT, WIDTH)).astype(np.float32)
    for i, depth in enumerate(depths):
        np.save(tmp_path / "depths" / f"IMG_{i:02d}.npy", depth)
    np.testing.assert_array_equal(load_scene(str(tmp_path), downscale=1).depths, depths)
    smaller = load_scene(str(tmp_path), downscale=2)
    assert smaller.depths is None
    assert any("depths/ is not used" in note and f"{WIDTH}x{HEIGHT}" in note for note in smaller.notes)
    (tmp_path / "depths" / "IMG_03.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"IMG_03.npy: damaged"):
        load_scene(str(tmp_path), downscale=1)


def _row(table, row, column, value):
    table[row, column] = value
    return table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: _row(t, 3, 4, np.nan), "row 3 holds NaN"),
        (lambda t: t[:, :15], r"expected an \(N, 17\) array.*\(9, 15\)"),
        (lambda t: t[0], r"expected an \(N, 17\) array"),
        (lambda t: t[:0], r"expected an \(N, 17\) array"),
        (lambda t: t.astype(str), "expected an array of numbers"),
        (lambda t: t[:8], "8 rows, one per photo, but images/ has 9"),
        (lambda t: _row(t, 2, 16, -1.0), r"row 2 has depth bounds \[2.0, -1.0\]"),
        (lambda t: _row(t, 5, 0, 7.0), r"row 5 \(IMG_05.png\).*no rotation"),
        (lambda t: _row(t, 4, 14, 0.0), r"row 4 \(IMG_04.png\).*focal length"),
        (lambda t: _row(t, 4, 9, 1e9), r"row 4 \(IMG_04.png\).*image size"),
    ],
)
def test_broken_tables(tmp_path, change, message):
    write_llff(tmp_path, 9)
    np.save(tmp_path / "poses_bounds.npy", change(poses_bounds(poses(9))))
    with pytest.raises(DataError, match=message):
        load_scene(str(tmp_path), downscale=1)


def test_pickles_are_refused(tmp_path):
    np.save(tmp_path / "poses_bounds.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="array of numbers"):
        read_poses_bounds(tmp_path / "poses_bounds.npy")


def test_no_photos(tmp_path):
    np.save(tmp_path / "poses_bounds.npy", poses_bounds(poses(9)))
    with pytest.raises(DataError, match="no photos found"):
        load_scene(str(tmp_path), downscale=1)


def test_picture_of_another_shape(tmp_path):
    write_llff(tmp_path, 9)
    Image.fromarray(picture(0, 30, 30)).save(tmp_path / "images" / "IMG_04.png")
    with pytest.raises(DataError, match=r"IMG_04.png.*30x30.*48x32"):
        load_scene(str(tmp_path), downscale=1)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8), st.integers(0, 10_000))
def test_damaged_files_give_a_table_or_the_readers_own_error(tmp_path_factory, changes, cut):
    path = tmp_path_factory.mktemp("fuzz") / "poses_bounds.npy"
    np.save(path, poses_bounds(poses(4)))
    data = bytearray(path.read_bytes())
    for at, value in changes:
        data[at % len(data)] = value
    path.write_bytes(data[: len(data) - cut % len(data)] if cut % 3 == 0 else data)
    try:
        bounds = read_bounds(path)
    except DataError:
        return
    assert bounds.shape[1] == 2
    assert (bounds[:, 0] > 0).all()


@pytest.mark.parametrize(
    ("width", "downscale", "small"), [(48, 2, True), (48, 1, False), (600, 2, False), (598, 2, True)]
)
def test_photos_that_were_reduced_a_lot_are_remarked_on(tmp_path, width, downscale, small):
    write_pictures(tmp_path / "images", [f"{i}.png" for i in range(9)], width, 40)
    np.save(tmp_path / "poses_bounds.npy", poses_bounds(poses(9), width=width, height=40))
    scene = load_scene(str(tmp_path), downscale=downscale)
    remark = f"the photos are only {scene.width}x{scene.height} pixels at --downscale 2: lower --downscale"
    assert any(remark in note for note in scene.notes) == small
