"""COLMAP models: binary against text, against pycolmap, every camera model, bounds, and damage."""

import struct
from pathlib import Path

import numpy as np
import pytest
from captures import (
    FOCAL,
    HEIGHT,
    WIDTH,
    colmap_points,
    picture,
    poses,
    poses_bounds,
    write_colmap,
    write_pictures,
)
from hypothesis import given
from hypothesis import strategies as st

from ipsm_jax.data import colmap_binary, colmap_text
from ipsm_jax.data.colmap import read_colmap, read_model, sparse_points
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.load import load_scene, read_capture

NAMES = [f"{i:04d}.png" for i in range(9)]


def make(tmp_path, **kwargs):
    matrices = poses(len(NAMES))
    write_colmap(tmp_path, matrices, NAMES, **kwargs)
    write_pictures(tmp_path / "images", NAMES)
    return matrices


@pytest.mark.parametrize("text", [False, True])
def test_scene_holds_what_was_written(tmp_path, text):
    matrices = make(tmp_path, text=text, params=(FOCAL, 1.1 * FOCAL, 20.0, 17.0))
    scene = load_scene(str(tmp_path), downscale=1)
    assert scene.names == tuple(NAMES)
    np.testing.assert_allclose(scene.cameras.camera_from_world, matrices, atol=1e-6)
    np.testing.assert_allclose(scene.cameras.intrinsics, np.tile([FOCAL, 1.1 * FOCAL, 20, 17], (9, 1)), rtol=1e-6)
    np.testing.assert_array_equal(scene.images, [picture(i) for i in range(9)])
    half = load_scene(str(tmp_path), downscale=2)
    np.testing.assert_allclose(half.cameras.intrinsics[0], [FOCAL / 2, 1.1 * FOCAL / 2, 10, 8.5], rtol=1e-6)


def test_views_are_sorted_by_name_whatever_the_order_in_the_file(tmp_path):
    order = np.random.default_rng(0).permutation(9)
    matrices = poses(9)
    write_colmap(tmp_path, matrices[order], [NAMES[i] for i in order])
    write_pictures(tmp_path / "images", NAMES)
    np.testing.assert_allclose(load_scene(str(tmp_path), downscale=1).cameras.camera_from_world, matrices, atol=1e-6)


@pytest.mark.parametrize("text", [False, True])
def test_bounds_are_percentiles_of_the_visible_points(tmp_path, text):
    positions, colors = colmap_points(500)
    matrices = make(tmp_path, text=text, points=(positions, colors))
    depths = positions @ matrices[:, 2, :3].T + matrices[:, 2, 3]
    np.testing.assert_allclose(read_colmap(tmp_path).bounds, np.percentile(depths, (0.1, 99.9), axis=0).T, rtol=1e-6)
    points = sparse_points(tmp_path)
    np.testing.assert_allclose(points.positions, positions, rtol=1e-6)
    np.testing.assert_allclose(points.colors, colors / 255, rtol=1e-6)


def test_model_wins_over_poses_bounds_which_gives_the_bounds(tmp_path):
    matrices = make(tmp_path)
    np.save(tmp_path / "poses_bounds.npy", poses_bounds(poses(9)[::-1], bounds=(3.0, 7.0)))
    scene = load_scene(str(tmp_path), downscale=1)
    np.testing.assert_allclose(scene.cameras.camera_from_world, matrices, atol=1e-6)
    np.testing.assert_allclose(scene.bounds, np.tile([3.0, 7.0], (9, 1)))


def test_llff_protocol_ignores_distortion_and_says_so(tmp_path):
    make(tmp_path, model="SIMPLE_RADIAL", params=(FOCAL, WIDTH / 2, HEIGHT / 2, 0.02))
    np.save(tmp_path / "poses_bounds.npy", poses_bounds(poses(9)))
    scene = load_scene(str(tmp_path), downscale=1)
    np.testing.assert_array_equal(scene.images, [picture(i) for i in range(9)])
    np.testing.assert_allclose(scene.cameras.intrinsics[0], [FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2])
    # In the corner r^2 = (24/40)^2 + (16/40)^2 = 0.52, and the shift is k r^2 * r * f.
    shift = 0.02 * 0.52**1.5 * FOCAL
    assert any("distortion" in note and f"up to {shift:.1f} pixels" in note for note in scene.notes)


def test_distorted_cameras_are_undistorted(tmp_path):
    make(tmp_path, model="SIMPLE_RADIAL", params=(FOCAL, WIDTH / 2, HEIGHT / 2, 0.1))
    scene = load_scene(str(tmp_path), downscale=1)
    assert any("9 photos undistorted" in note for note in scene.notes)
    assert (scene.images != [picture(i) for i in range(9)]).any()


def test_pictures_that_do_not_exist_are_left_out_and_named(tmp_path):
    make(tmp_path)
    (tmp_path / "images" / "0003.png").unlink()
    scene = load_scene(str(tmp_path), downscale=1)
    assert len(scene.names) == 8
    assert "0003.png" not in scene.names
    assert any("1 of 9 images" in note and "0003.png" in note for note in scene.notes)
    np.testing.assert_allclose(scene.cameras.camera_from_world, np.delete(poses(9), 3, axis=0), atol=1e-6)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"none of the 9 images.*exist \(0000.png.*images/ has 0 pictures"):
        load_scene(str(tmp_path), downscale=1)


def test_several_folders_of_pictures(tmp_path):
    names = [f"{side}/{i:02d}.png" for side in ("left", "right") for i in range(5)]
    write_colmap(tmp_path, poses(10), names)
    write_pictures(tmp_path / "images", names)
    scene = load_scene(str(tmp_path), downscale=2)
    assert scene.names == tuple(name.replace("/", "__") for name in names)
    assert (tmp_path / "images_2" / "left" / "00.png").is_file()


def test_model_without_points_has_no_bounds(tmp_path):
    make(tmp_path)
    (tmp_path / "sparse" / "0" / "points3D.bin").unlink()
    scene = load_scene(str(tmp_path), downscale=1)
    assert scene.bounds is None
    assert any("no points" in note for note in scene.notes)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(("model", "count"), [("FOV", 5), ("THIN_PRISM_FISHEYE", 12)])
def test_unsupported_models_are_refused_by_name_with_the_remedy(tmp_path, model, count, text):
    make(tmp_path, model=model, params=(1.0,) * count, text=text)
    with pytest.raises(DataError, match=f"{model} is not supported.*colmap image_undistorter"):
        load_scene(str(tmp_path), downscale=1)


def test_reads_what_pycolmap_writes(tmp_path):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap (extra sfm) is the oracle for COLMAP's files")
    matrices = poses(4)
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera(
        camera_id=7, model="OPENCV", width=640, height=480, params=[500, 510, 320, 240, 0.1, 0, 0, 0]
    )
    model.add_camera_with_trivial_rig(camera)
    for i, matrix in enumerate(matrices):
        image = pycolmap.Image(name=f"b{i}.jpg", camera_id=7, image_id=i + 3)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(matrix[:3]))
    for i in range(5):
        point = model.add_point3D(np.array([i, 2.0, 3.0]), pycolmap.Track(), np.array([i, 20, 30], np.uint8))
        model.points3D[point].error = 0.25 * i
    (tmp_path / "bin").mkdir()
    (tmp_path / "txt").mkdir()
    model.write_binary(tmp_path / "bin")
    model.write_text(tmp_path / "txt")
    for folder, reader in ((tmp_path / "bin", colmap_binary), (tmp_path / "txt", colmap_text)):
        ours = read_model(folder)
        assert ours.cameras[7][1:] == ("OPENCV", 640, 480, (500.0, 510.0, 320.0, 240.0, 0.1, 0.0, 0.0, 0.0))
        assert {image.name for image in ours.images} == {f"b{i}.jpg" for i in range(4)}
        for image in ours.images:
            theirs = model.images[image.id].cam_from_world()
            np.testing.assert_allclose(image.translation, theirs.translation, atol=1e-12)
            np.testing.assert_allclose(image.quaternion, theirs.rotation.quat[[3, 0, 1, 2]], atol=1e-12)
        points = reader.read_points(folder / f"points3D.{folder.name}")
        order = np.argsort(points.positions[:, 0])
        np.testing.assert_allclose(points.positions[order], [[i, 2, 3] for i in range(5)])
        np.testing.assert_array_equal(points.colors[order], [[i, 20, 30] for i in range(5)])
        np.testing.assert_array_equal(points.errors[order], 0.25 * np.arange(5))


def _edit(name, change):
    def apply(folder):
        path = Path(folder) / name
        path.write_bytes(change(path.read_bytes()))

    return apply


@pytest.mark.parametrize(
    ("text", "damage", "message"),
    [
        (False, _edit("images.bin", lambda d: d[:-1]), "images.bin.*damaged"),
        (False, _edit("images.bin", lambda d: d[:300]), "images.bin.*damaged"),
        (False, _edit("images.bin", lambda d: b""), "images.bin.*cut short.*number of images"),
        (False, _edit("images.bin", lambda d: struct.pack("<Q", 2**62) + d[8:]), "claims 4611686018427387904 images"),
        (False, _edit("images.bin", lambda d: struct.pack("<Q", 8) + d[8:]), "bytes follow after the last"),
        (False, _edit("images.bin", lambda d: struct.pack("<Q", 0)), "no registered image"),
        (False, _edit("images.bin", lambda d: d[:12] + struct.pack("<d", np.nan) + d[20:]), "0000.png.*NaN"),
        (False, _edit("images.bin", lambda d: d[:12] + struct.pack("<d", 3.0) + d[20:]), "0000.png.*quaternion"),
        (False, _edit("images.bin", lambda d: d.replace(b"0001.png", b"0000.png")), "listed twice"),
        (False, _edit("images.bin", lambda d: d.replace(b"0001.png", b"../1.png")), "cannot be the name of a file"),
        (False, _edit("images.bin", lambda d: d.replace(b"0001.png", b"000\xff.png")), "no readable text"),
        (False, _edit("images.bin", lambda d: d[:68] + struct.pack("<I", 5) + d[72:]), "has camera 5"),
        (False, _edit("cameras.bin", lambda d: d[:-8]), "cameras.bin.*parameters of a camera"),
        (False, _edit("cameras.bin", lambda d: struct.pack("<Q", 2**40) + d[8:]), "claims 1099511627776 cameras"),
        (False, _edit("cameras.bin", lambda d: d[:-8] + struct.pack("<d", np.inf)), "NaN or infinite parameters"),
        (False, _edit("cameras.bin", lambda d: d[:32] + struct.pack("<d", -1.0) + d[40:]), "focal lengths -1"),
        (False, _edit("cameras.bin", lambda d: d[:16] + struct.pack("<Q", 0) + d[24:]), "image size 0x32"),
        (False, _edit("points3D.bin", lambda d: d[:-4]), "points3D.bin.*track of point"),
        (False, _edit("points3D.bin", lambda d: struct.pack("<Q", 2**61) + d[8:]), "claims 2305843009213693952 points"),
        (False, _edit("points3D.bin", lambda d: d[:16] + struct.pack("<d", np.nan) + d[24:]), "1 of 30 points are NaN"),
        (False, _edit("points3D.bin", lambda d: d[:51] + struct.pack("<Q", 2**63) + d[59:]), "the track of point 0"),
        (True, _edit("images.txt", lambda d: b"1 1 0 0\n"), "images.txt, line 1: expected IMAGE_ID"),
        (True, _edit("images.txt", lambda d: d.replace(b"\n\n", b"\n")), "images.txt.*multiple of 3"),
        (True, _edit("images.txt", lambda d: d.replace(b" 1 0000.png", b" one 0000.png")), "'one' should be a whole"),
        (True, _edit("images.txt", lambda d: d[: d.index(b"1.0 2.0")].rstrip()), "observations of image.*is missing"),
        (True, _edit("cameras.txt", lambda d: b"1 PINHOLE 48\n"), "cameras.txt, line 1: expected CAMERA_ID"),
        (True, _edit("cameras.txt", lambda d: b"1 PINHOLE 48 32 1 2 3\n"), "PINHOLE has 4 parameters, found 3"),
        (True, _edit("cameras.txt", lambda d: b"1 PINHOLE 48 32 1 2 3 x\n"), "could not convert string to float"),
        (True, _edit("cameras.txt", lambda d: b"\xff\xfe\x00"), "not a text file"),
        (True, _edit("points3D.txt", lambda d: b"1 2 3\n"), "points3D.txt, line 1: expected POINT3D_ID"),
        (True, _edit("points3D.txt", lambda d: b"1 2 3 4 300 0 0 0.5\n"), r"color \[300, 0, 0\] is outside"),
    ],
)
def test_damaged_models(tmp_path, text, damage, message):
    make(tmp_path, text=text)
    damage(tmp_path / "sparse" / "0")
    with pytest.raises(DataError, match=message):
        load_scene(str(tmp_path), downscale=1)


@given(
    st.sampled_from(["cameras", "images", "points3D"]),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=6),
    st.integers(0, 1 << 16),
)
def test_fuzzed_models_give_a_capture_or_the_readers_own_error(tmp_path_factory, part, text, changes, cut):
    root = tmp_path_factory.mktemp("fuzz")
    write_colmap(root, poses(3), NAMES[:3], text=text, points=colmap_points(4))
    (root / "images").mkdir()
    for name in NAMES[:3]:
        (root / "images" / name).write_bytes(b"only its name is looked at")
    path = root / "sparse" / "0" / f"{part}.{'txt' if text else 'bin'}"
    data = bytearray(path.read_bytes())
    for at, value in changes:
        data[at % len(data)] = value
    path.write_bytes(data[: len(data) - cut % len(data)] if cut % 3 == 0 else data)
    try:
        capture = read_capture(root)
    except DataError:
        return
    assert all(np.isfinite(photo.camera_from_world).all() for photo in capture.photos)
    assert capture.bounds is None or np.isfinite(capture.bounds).all()
