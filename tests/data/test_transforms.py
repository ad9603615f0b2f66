"""transforms.json: axes, cameras per frame or for all, lenses, lists, and broken input."""

import json

import numpy as np
import pytest
from captures import FOCAL, HEIGHT, WIDTH, picture, poses, write_pictures, write_transforms
from hypothesis import given
from hypothesis import strategies as st

from ipsm_jax.data.errors import DataError
from ipsm_jax.data.lenses import make_lens
from ipsm_jax.data.load import load_scene
from ipsm_jax.data.transforms import read_transforms, sparse_points

NAMES = [f"images/{i:04d}.png" for i in range(9)]


def make(tmp_path, names=NAMES, **kwargs):
    matrices = poses(len(names))
    write_pictures(tmp_path, names)
    write_transforms(tmp_path, matrices, names, **kwargs)
    return matrices


def test_scene_holds_what_was_written(tmp_path):
    matrices = make(tmp_path, cx=20.0, cy=17.5)
    scene = load_scene(str(tmp_path), downscale=1)
    assert scene.names == tuple(f"{i:04d}.png" for i in range(9))
    np.testing.assert_allclose(scene.cameras.camera_from_world, matrices, atol=1e-6)
    np.testing.assert_allclose(scene.cameras.intrinsics, np.tile([FOCAL, FOCAL, 20, 17.5], (9, 1)))
    np.testing.assert_array_equal(scene.images, [picture(i) for i in range(9)])
    assert scene.bounds is None


def test_opengl_camera_looks_along_its_negative_z(tmp_path):
    """An identity transform_matrix: world -z is in front, world +y is up in the picture."""
    make(tmp_path)
    content = json.loads((tmp_path / "transforms.json").read_text())
    content["frames"][0]["transform_matrix"] = np.eye(4).tolist()
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    matrix = read_transforms(tmp_path).photos[0].camera_from_world
    np.testing.assert_allclose(matrix @ [2, 3, -5, 1], [2, -3, 5, 1])


def test_numbers_of_a_frame_win_over_those_of_the_file(tmp_path):
    make(tmp_path, frames=[{"fl_x": 30.0 + i, "fl_y": 31.0, "cx": 5.0 + i} for i in range(9)])
    scene = load_scene(str(tmp_path), downscale=1)
    np.testing.assert_allclose(scene.cameras.intrinsics[:, 0], 30 + np.arange(9))
    np.testing.assert_allclose(scene.cameras.intrinsics[4], [34, 31, 9, HEIGHT / 2])


def test_field_of_view_and_size_from_the_pictures(tmp_path):
    make(tmp_path, fl_x=None, fl_y=None, w=None, h=None, camera_angle_x=np.pi / 2)
    scene = load_scene(str(tmp_path), downscale=1)
    np.testing.assert_allclose(scene.cameras.intrinsics[0], [WIDTH / 2, WIDTH / 2, WIDTH / 2, HEIGHT / 2], rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "lens"),
    [
        ({}, make_lens()),
        ({"k1": 0.1, "k2": -0.05, "p1": 0.01, "p2": 0.02}, make_lens((0.1, -0.05), (0.01, 0.02))),
        ({"k1": 0.1, "k2": 0.2, "k3": 0.3, "k4": 0.0, "camera_model": "OPENCV"}, make_lens((0.1, 0.2, 0.3))),
        ({"k1": 0.1, "k2": 0.2, "k3": 0.3, "k4": 0.4, "camera_model": "OPENCV_FISHEYE"},
         make_lens((0.1, 0.2, 0.3, 0.4), fisheye=True)),
        ({"k1": 0.1, "is_fisheye": True}, make_lens((0.1,), fisheye=True)),
        ({"k1": 0.1, "camera_model": "PINHOLE"}, make_lens()),
    ],
)  # fmt: skip
def test_lenses(tmp_path, fields, lens):
    make(tmp_path, **fields)
    assert read_transforms(tmp_path).photos[0].lens == lens


def test_pictures_that_do_not_exist_are_left_out_and_named(tmp_path):
    matrices = make(tmp_path)
    for i in (2, 5):
        (tmp_path / NAMES[i]).unlink()
    scene = load_scene(str(tmp_path), downscale=1)
    np.testing.assert_allclose(scene.cameras.camera_from_world, np.delete(matrices, (2, 5), axis=0), atol=1e-6)
    assert any("2 of 9 pictures" in note and "images/0002.png, images/0005.png" in note for note in scene.notes)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"none of its 9 pictures exist.*images/0000.png"):
        load_scene(str(tmp_path), downscale=1)


def test_names_without_ending_and_from_another_machine(tmp_path):
    write_pictures(tmp_path, NAMES)
    write_transforms(tmp_path, poses(9), [f"/home/somebody/scene/{name[:-4]}" for name in NAMES])
    np.testing.assert_array_equal(load_scene(str(tmp_path), downscale=1).images, [picture(i) for i in range(9)])


def test_downscaled_folder_is_used(tmp_path):
    make(tmp_path)
    write_pictures(tmp_path / "images_2", [name[7:] for name in NAMES], WIDTH // 2, HEIGHT // 2)
    scene = load_scene(str(tmp_path), downscale=2)
    np.testing.assert_array_equal(scene.images, [picture(i, WIDTH // 2, HEIGHT // 2) for i in range(9)])
    np.testing.assert_allclose(scene.cameras.intrinsics[0], [FOCAL / 2, FOCAL / 2, WIDTH / 4, HEIGHT / 4])


def test_own_lists_are_the_split(tmp_path):
    make(tmp_path, train_filenames=NAMES[:6], val_filenames=NAMES[6:8], test_filenames=[])
    scene = load_scene(str(tmp_path), downscale=1, views=2)
    assert (scene.train, scene.test) == ((0, 5), (6, 7))
    assert load_scene(str(tmp_path), downscale=1, views=2, split="llff").test == (0, 8)
    (tmp_path / NAMES[0]).unlink()
    scene = load_scene(str(tmp_path), downscale=1, views=2)
    assert [scene.names[i] for i in (*scene.train, *scene.test)] == ["0001.png", "0005.png", "0006.png", "0007.png"]


def test_one_file_per_split(tmp_path):
    """The layout of NeRF's synthetic scenes: names without ending, the same in both folders, one field of view."""
    for part, count in (("train", 4), ("test", 3)):
        names = [f"{part}/r_{i}.png" for i in range(count)]
        write_pictures(tmp_path, names)
        given = [f"./{name[:-4]}" for name in names]
        fields = {"fl_x": None, "fl_y": None, "w": None, "h": None, "camera_angle_x": 0.7}
        write_transforms(tmp_path, poses(count), given, file=f"transforms_{part}.json", **fields)
    scene = load_scene(str(tmp_path), downscale=2, views=3)
    assert [scene.names[i] for i in scene.test] == ["test__r_0", "test__r_1", "test__r_2"]
    assert [scene.names[i] for i in scene.train] == ["train__r_0", "train__r_2", "train__r_3"]
    assert scene.images.shape == (7, HEIGHT // 2, WIDTH // 2, 3)


def test_sparse_points_of_nerfstudio(tmp_path):
    make(tmp_path, ply_file_path="sparse_pc.ply")
    assert sparse_points(tmp_path) is None
    header = (
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    (tmp_path / "sparse_pc.ply").write_text(header + "1 2 3\n")
    np.testing.assert_array_equal(sparse_points(tmp_path).positions, [[1, 2, 3]])


def _frame(key, value):
    def change(content):
        content["frames"][3][key] = value
        return content

    return change


def _top(key, value):
    return lambda content: content | {key: value}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: [], 'list "frames"'),
        (_top("frames", []), 'list "frames"'),
        (_top("frames", [7]), r'frame 0: expected an object with "file_path"'),
        (_top("fl_x", "forty"), r"\"fl_x\" should be a finite number, found 'forty'"),
        (_top("fl_x", float("nan")), r"\"fl_x\" should be a finite number, found nan"),
        (_top("fl_x", 10**400), r"\"fl_x\" should be a finite number"),
        (_top("fl_x", -3.0), "focal lengths -3"),
        (_top("w", 0), "image size 0x32"),
        (_top("w", 100), r"48x32 pixels, but its camera was made for 100x32"),
        (_top("camera_model", "EQUIRECTANGULAR"), "camera_model 'EQUIRECTANGULAR' is not supported"),
        (_frame("transform_matrix", None), r"frame 3 \(0003.png\): transform_matrix should be 4 rows"),
        (_frame("transform_matrix", [[1, 2], [3]]), r"frame 3 \(0003.png\): transform_matrix should be 4 rows"),
        (_frame("transform_matrix", np.full((4, 4), np.nan).tolist()), r"frame 3 \(0003.png\): the pose holds NaN"),
        (_frame("transform_matrix", (2 * np.eye(4)).tolist()), r"frame 3 \(0003.png\).*no rotation"),
        (_frame("file_path", "../../etc/0003.png"), "frame 3.*cannot be the name of a file"),
        (_frame("file_path", "images/0002.png"), "listed twice"),
    ],
)
def test_broken_files(tmp_path, change, message):
    make(tmp_path)
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(DataError, match=message):
        load_scene(str(tmp_path), downscale=1)


def test_integers_of_thousands_of_digits(tmp_path):
    make(tmp_path)
    (tmp_path / "transforms.json").write_text('{"frames": [' + "9" * 5000 + "]}")
    with pytest.raises(DataError, match="not valid JSON"):
        load_scene(str(tmp_path), downscale=1)


def test_no_focal_length(tmp_path):
    make(tmp_path, fl_x=None, fl_y=None)
    with pytest.raises(DataError, match="no focal length"):
        load_scene(str(tmp_path), downscale=1)


@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=6), st.integers(0, 1 << 16))
def test_damaged_files_give_a_capture_or_the_readers_own_error(tmp_path_factory, changes, cut):
    root = tmp_path_factory.mktemp("fuzz")
    write_pictures(root, NAMES[:2], 6, 4)
    write_transforms(root, poses(2), NAMES[:2])
    path = root / "transforms.json"
    data = bytearray(path.read_bytes())
    for at, value in changes:
        data[at % len(data)] = value
    path.write_bytes(data[: len(data) - cut % len(data)] if cut % 3 == 0 else data)
    try:
        capture = read_transforms(root)
    except DataError:
        return
    assert all(np.isfinite(photo.camera_from_world).all() for photo in capture.photos)
