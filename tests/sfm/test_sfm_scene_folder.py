"""Posed photos through a lens to a scene folder without distortion, judged by known positions in the world."""

import numpy as np
import pytest
from PIL import Image
from textured_corner import poses as arc
from white_balls import HEIGHT, INTRINSICS, LENS, WIDTH, blob_photo, solution_of, spots

from ipsm_jax.data.capture import Capture, PosedPhoto, rigid_inverse
from ipsm_jax.data.colmap import read_model, read_points
from ipsm_jax.data.colmap_write import NO_POINTS, write_colmap_text
from ipsm_jax.data.lenses import PINHOLE, distort, make_lens, undistort
from ipsm_jax.data.llff import read_llff
from ipsm_jax.data.load import load_scene
from ipsm_jax.scene.trajectories import upright_axes
from ipsm_jax.sfm.photos import Photo, _scene_names
from ipsm_jax.sfm.scene_folder import kept_points, write_bounds, write_scene
from ipsm_jax.sfm.sources import capture_sources, solved_sources
from ipsm_jax.sfm.world import MEDIAN_DEPTH, level


@pytest.fixture
def solved(tmp_path):
    """Four photos of six white balls; the second, third and last share a size, the first is a narrow strip."""
    matrices = arc(4)
    rng = np.random.default_rng(1)
    positions = np.stack([rng.uniform(-1.8, 0.3, 6), rng.uniform(-0.9, 0.9, 6), rng.uniform(4, 6, 6)], axis=1)
    photos, pixels = [], []
    for i, matrix in enumerate(matrices):
        seen = spots(matrix, positions, LENS)
        pixels.append(seen)
        file = tmp_path / f"{i}.png"
        blob_photo(seen).save(file)
        photos.append(Photo(file, f"{3 - i}.png", WIDTH, HEIGHT, None, "", WIDTH, HEIGHT))
    photos[0] = photos[0]._replace(width=8)
    return photos, solution_of(matrices, [INTRINSICS] * 4, positions, pixels)


def test_scene_shows_the_world_through_a_pinhole(solved, tmp_path):
    photos, solution = solved
    sources, lost, _ = solved_sources(photos, solution)
    assert list(lost) == [0] and "of its 8x72 pixels only 8%" in lost[0] and "96x72" in lost[0]
    folder = tmp_path / "scene"
    folder.mkdir()
    written = write_scene(folder, sources, kept_points(solution, lost))
    assert written.names == ("0.png", "1.png", "2.png") and written.order == (2, 1, 0)
    bounds = np.array([[1.0, 5], [2, 6], [3, 7]])
    write_bounds(folder, written, bounds)

    scene = load_scene(str(folder), downscale=1, views=2)
    assert scene.names == written.names and not any("undistort" in note for note in scene.notes)
    np.testing.assert_allclose(scene.bounds, bounds)
    for view, index in enumerate((3, 2, 1)):
        np.testing.assert_allclose(scene.cameras.camera_from_world[view], solution.camera_from_world[index], atol=1e-6)
        expected = blob_photo(
            spots(solution.camera_from_world[index], solution.points.positions, PINHOLE, scene.cameras.intrinsics[view])
        )
        difference = np.abs(np.asarray(expected, float) - scene.images[view])
        assert difference.max() < 60 and difference.mean() < 1.5  # the lens moves the spots by up to 2.5 pixels

    points = read_points(folder / "sparse" / "0")
    np.testing.assert_allclose(points.positions, solution.points.positions)
    assert {image: len(seen) for image, seen in points.by_image().items()} == {1: 6, 2: 6, 3: 6}
    llff = read_llff(folder)  # the same poses, written a second time
    np.testing.assert_allclose(
        [photo.camera_from_world for photo in llff.photos], solution.camera_from_world[[3, 2, 1]], atol=1e-9
    )


def test_observations_are_where_the_undistorted_photos_show_the_points(solved, tmp_path):
    photos, solution = solved
    sources, lost, _ = solved_sources(photos, solution)
    folder = tmp_path / "scene"
    folder.mkdir()
    written = write_scene(folder, sources, kept_points(solution, lost))
    lines = (folder / "sparse" / "0" / "images.txt").read_text().splitlines()[1:]
    for view in range(3):
        stored = np.array(lines[2 * view + 1].split(), float).reshape(-1, 3)
        positions = solution.points.positions[stored[:, 2].astype(int) - 1]
        expected = spots(written.camera_from_world[view], positions, PINHOLE, written.intrinsics[view])
        np.testing.assert_allclose(stored[:, :2], expected, atol=0.011)
    assert len(read_model(folder / "sparse" / "0").cameras) == 1


def test_points_that_a_dropped_photo_alone_shares_are_dropped(solved):
    _, solution = solved
    # The first point is seen by photos 0 and 1 only.
    all_points = solution.points
    seen = (all_points.points != 0) | (all_points.views <= 1)
    points = all_points._replace(
        views=all_points.views[seen], points=all_points.points[seen], pixels=all_points.pixels[seen]
    )
    kept = kept_points(solution._replace(points=points), {0: "portrait"})
    np.testing.assert_array_equal(kept.positions, solution.points.positions[1:])
    assert sorted(set(kept.views)) == [0, 1, 2] and len(kept.views) == 15


def test_capture_with_poses_keeps_its_cameras(tmp_path):
    matrices = arc(3)
    (tmp_path / "images").mkdir()
    photos = []
    for i, matrix in enumerate(matrices):
        Image.new("RGB", (WIDTH // 2, HEIGHT // 2), (40 * i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
        photos.append(PosedPhoto(tmp_path / "images", f"{i}.png", matrix, WIDTH, HEIGHT, INTRINSICS, LENS))
    capture = Capture(tmp_path, "llff", tuple(photos), ignore_distortion=True)
    (tmp_path / "out").mkdir()
    written = write_scene(tmp_path / "out", capture_sources(capture).kept)
    assert written.size == (WIDTH // 2, HEIGHT // 2)
    np.testing.assert_allclose(written.intrinsics, np.tile(np.array(INTRINSICS) / 2, (3, 1)))
    np.testing.assert_allclose(written.camera_from_world, matrices)


@pytest.mark.parametrize("lens", [LENS, make_lens((0.1, -0.05), (0.001, 0.002)), PINHOLE])
def test_undistort_is_the_inverse_of_distort(lens):
    rays = np.random.default_rng(0).uniform(-0.6, 0.6, (100, 2))
    np.testing.assert_allclose(undistort(lens, distort(lens, rays)), rays, atol=1e-9)


def test_level_world_has_its_z_axis_up_and_the_wanted_depth(solved):
    _, solution = solved
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    moved = np.eye(4)
    moved[:3, :3], moved[:3, 3] = turn, (3, -2, 7)
    matrices = solution.camera_from_world @ rigid_inverse(moved)
    matrices[:, :3, 3] *= 0.01
    positions = 0.01 * (solution.points.positions @ turn.T + moved[:3, 3])
    points = solution.points._replace(positions=positions)
    found = level(solution._replace(camera_from_world=matrices, points=points))
    for view, matrix in enumerate(found.camera_from_world):  # nothing moves in the pictures
        np.testing.assert_allclose(
            spots(matrix, found.points.positions, LENS),
            spots(solution.camera_from_world[view], solution.points.positions, LENS),
        )
    depths = [found.points.positions @ m[2, :3] + m[2, 3] for m in found.camera_from_world]
    assert np.median(depths) == pytest.approx(MEDIAN_DEPTH)
    up = -found.camera_from_world[:, 1, :3].mean(axis=0)
    np.testing.assert_allclose(up / np.linalg.norm(up), (0, 0, 1), atol=1e-9)
    axes = upright_axes(solution.camera_from_world[:, :3, :3])
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1)


def test_no_points_make_empty_files_that_read_back(tmp_path):
    write_colmap_text(tmp_path, ["a.png"], np.eye(4)[None], np.array([[10.0, 10, 5, 5]]), (10, 10), NO_POINTS)
    assert [image.name for image in read_model(tmp_path).images] == ["a.png"]
    assert not len(read_points(tmp_path).positions)


def test_scene_names_are_unique_and_can_be_told_apart_in_a_text_file():
    files = ("a/b.jpg", "a__b.jpg", "IMG 1.jpg", "IMG_1.png", "c.jpg", "c.png", "c_jpg.png")
    names = _scene_names(files)
    stems = [name.rsplit(".", 1)[0] for name in names]
    assert len(set(stems)) == len(files)
    assert all(name.split() == [name] and "/" not in name for name in names)
    assert _scene_names(("x.jpg", "y.JPG", "z.webp")) == ["x.jpg", "y.JPG", "z.png"]


def test_names_with_spaces_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="names with spaces"):
        write_colmap_text(tmp_path / "sparse", ["IMG 1.jpg"], np.eye(4)[None], np.ones((1, 4)), (8, 6))
    assert not (tmp_path / "sparse").exists()
