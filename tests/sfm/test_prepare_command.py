"""The command `prepare` from end to end on photos of a textured corner whose cameras are known."""

import importlib.util
import json
import re
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image
from textured_corner import FOCAL, HEIGHT, WIDTH, after_alignment, picture, poses, write_photos

from ipsm_jax import prepare
from ipsm_jax.data.captions import read_caption
from ipsm_jax.data.depth_maps import read_depth_maps
from ipsm_jax.data.load import load_scene
from ipsm_jax.data.ply import read_points_ply
from ipsm_jax.data.split_file import write_split
from ipsm_jax.data.synthetic import make_scene

needs_pycolmap = pytest.mark.skipif(
    importlib.util.find_spec("pycolmap") is None, reason="finding cameras needs pycolmap (extra sfm)"
)
TRUE = poses(4)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, own_caches):
    """Four photos, one of them turned by its orientation tag, one in 16 bits of gray, one taken with half the exposure;
    and what does not belong.
    """
    root = tmp_path_factory.mktemp("prepare")
    photos = write_photos(root / "photos", TRUE)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = round(
        FOCAL / np.hypot(WIDTH, HEIGHT) * 43.27
    )
    Image.open(photos / "2.jpg").transpose(Image.Transpose.ROTATE_270).save(photos / "2.jpg", exif=exif, quality=95)
    gray = np.asarray(Image.open(photos / "3.jpg").convert("L")).astype(np.uint16) * 257
    (photos / "3.jpg").unlink()
    Image.fromarray(gray).save(photos / "3.png")
    Image.open(photos / "1.jpg").point(lambda level: level // 2).save(photos / "1.jpg", quality=95)
    Image.fromarray(picture(TRUE[0], seed=5)).save(photos / "alien.jpg", quality=95)
    (photos / "torn.jpg").write_bytes((photos / "0.jpg").read_bytes()[:5000])
    (photos / "twin.png").write_bytes((photos / "3.png").read_bytes())
    Image.open(photos / "0.jpg").resize((WIDTH * 3 // 4, HEIGHT * 3 // 4)).save(photos / "sent.jpg", quality=80)
    said = []
    options = prepare.PrepareOptions(photos, root / "scene", downscale=1)
    prepare.prepare(options, said.append)
    return root, said


@needs_pycolmap
@pytest.mark.slow
def test_cameras_are_found_and_strangers_are_named(prepared):
    root, said = prepared
    scene = load_scene(str(root / "scene"), downscale=1)
    assert scene.names == ("0.jpg", "1.jpg", "2.jpg", "3.png")
    distance, angle = after_alignment(np.asarray(scene.cameras.camera_from_world, np.float64), TRUE)
    assert distance < 0.05 and angle < 1.0
    np.testing.assert_allclose(scene.cameras.intrinsics[:, :2], FOCAL, rtol=0.06)
    text = "\n".join(said)
    assert "4 of 8 photos registered" in text
    assert "sent.jpg: it shows the same as 0.jpg from the same place" in text
    assert "alien.jpg: no other photo shows enough of the same" in text
    assert "torn.jpg: the picture is damaged or cut short" in text
    assert "twin.png: it is the same picture as 3.png" in text
    assert f"ipsm-jax train --scene {root / 'scene'} --downscale 1 --views 3" in text


@needs_pycolmap
@pytest.mark.slow
def test_scene_folder_is_complete_and_says_where_things_come_from(prepared):
    root, _ = prepared
    folder = root / "scene"
    scene = load_scene(str(folder), downscale=1)
    content = json.loads((folder / "prepare.json").read_text())
    assert content["training_views"] == [scene.names[i] for i in scene.train] == ["1.jpg", "2.jpg", "3.png"]
    assert set(content["left_out"]) == {"alien.jpg", "torn.jpg", "twin.png", "sent.jpg"}
    assert any("found from all photos together" in sentence for sentence in content["sentences"])
    page = (folder / "report.html").read_text()
    assert "alien.jpg" in page and page.count("<img") == 4 + 2 + 1 + 3  # views, left out, from above, depths
    assert str(folder) in page and ".tmp" not in page + (folder / "prepare.json").read_text()
    maps = read_depth_maps(folder / "depth_maps", content["training_views"], WIDTH, HEIGHT)
    assert (maps > 0).mean() > 0.3
    for view, depth in zip(scene.train, maps, strict=True):
        near, far = scene.bounds[view]
        assert 0 < near < far and 0.8 * near < np.median(depth[depth > 0]) < 1.3 * far
    points = read_points_ply(folder / "training_points.ply")
    assert f"training_points.ply holds the {len(points.positions)} points" in page
    camera = np.asarray(scene.cameras.camera_from_world)[scene.train[0]]
    near, far = scene.bounds[scene.train[0]]
    z = points.positions @ camera[2, :3] + camera[2, 3]
    assert len(z) > 50 and (z > 0).all() and near < np.median(z) < far
    assert not [path for path in root.iterdir() if path.name.startswith(".")]


@needs_pycolmap
@pytest.mark.slow
def test_three_photos_are_enough_and_train_without_a_split(tmp_path, own_caches):
    """One of them in portrait, one a WebP picture with transparency."""
    photos = write_photos(tmp_path / "photos", TRUE[:3])
    (photos / "1.jpg").unlink()
    Image.fromarray(picture(TRUE[1], width=HEIGHT, height=WIDTH)).save(photos / "1.png")
    clear = Image.open(photos / "2.jpg").convert("RGBA")
    (photos / "2.jpg").unlink()
    clear.save(photos / "2.webp", quality=95)
    assert prepare.main([str(tmp_path / "photos"), str(tmp_path / "out"), "--downscale", "1"]) == 0
    scene = load_scene(str(tmp_path / "out"), downscale=1)
    assert scene.train == (0, 1, 2) and scene.names == ("0.jpg", "1.png", "2.png")
    assert (scene.width, scene.height) == (WIDTH, HEIGHT)
    distance, angle = after_alignment(np.asarray(scene.cameras.camera_from_world, np.float64), TRUE[:3])
    assert distance < 0.1 and angle < 2.0


@needs_pycolmap
def test_photos_of_different_places(tmp_path, own_caches, capsys):
    for i in range(3):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(picture(TRUE[i], seed=i, width=160, height=120)).save(tmp_path / "photos" / f"{i}.png")
    assert prepare.main([str(tmp_path / "photos"), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "no two of the 3 photos show enough of the same" in error
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@needs_pycolmap
def test_the_same_photo_saved_several_times(tmp_path, own_caches, capsys):
    photos = write_photos(tmp_path / "photos", TRUE[:2])
    Image.open(photos / "0.jpg").save(photos / "again.jpg", quality=70)
    assert prepare.main([str(photos), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "only 2 of the 3 photos differ, and 3 are needed: take more" in error
    assert "again.jpg: it shows the same as 0.jpg from the same place" in error
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@needs_pycolmap
def test_photos_taken_from_one_place(tmp_path, own_caches, capsys):
    (tmp_path / "photos").mkdir()
    for i, angle in enumerate((-0.08, 0.0, 0.08)):
        turn = np.eye(4)
        turn[0, 0], turn[0, 2], turn[2, 0], turn[2, 2] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        Image.fromarray(picture(turn @ TRUE[1])).save(tmp_path / "photos" / f"{i}.png")
    assert prepare.main([str(tmp_path / "photos"), str(tmp_path / "out")]) == 2
    assert "taken from one place" in capsys.readouterr().err


def test_posed_scene_skips_structure_from_motion(tmp_path, own_caches, capsys):
    make_scene(tmp_path / "demo", 48, 36, 6, samples=1)
    assert prepare.main([str(tmp_path / "demo"), str(tmp_path / "out"), "--downscale", "1"]) == 0
    assert "structure from motion is skipped" in capsys.readouterr().out
    before, after = (load_scene(str(tmp_path / name), downscale=1) for name in ("demo", "out"))
    np.testing.assert_allclose(after.cameras.camera_from_world, before.cameras.camera_from_world, atol=1e-6)
    np.testing.assert_allclose(after.cameras.intrinsics, before.cameras.intrinsics, rtol=1e-6)
    np.testing.assert_array_equal(after.images, before.images)
    np.testing.assert_allclose(after.bounds, before.bounds)


def test_posed_scene_keeps_its_split_depth_and_caption(tmp_path, own_caches, capsys):
    make_scene(tmp_path / "scan30", 48, 36, 6, samples=1)
    names = load_scene(str(tmp_path / "scan30"), downscale=1).names
    write_split(tmp_path / "scan30", [names[i] for i in (1, 3)], [names[i] for i in (0, 5)])
    (tmp_path / "scan30" / "blip_rst.txt").write_text("SCAN30: a room")
    (tmp_path / "scan30" / "masks").mkdir()
    for name in names:
        Image.new("L", (48, 36), 255).save(tmp_path / "scan30" / "masks" / name)
    assert prepare.main([str(tmp_path / "scan30"), str(tmp_path / "out"), "--downscale", "1"]) == 0
    assert f"ipsm-jax train --scene {tmp_path / 'out'} --downscale 1 --views 2\n" in capsys.readouterr().out
    before, after = (load_scene(str(tmp_path / name), downscale=1, views=2) for name in ("scan30", "out"))
    assert (after.train, after.test) == (before.train, before.test) == ((1, 3), (0, 5))
    np.testing.assert_array_equal(after.depths, before.depths)
    assert read_caption(tmp_path / "out" / "blip_rst.txt", "out") == "a room"
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 6
    again = prepare.main([str(tmp_path / "scan30"), str(tmp_path / "out")])
    assert again == 2 and "exists already and is not overwritten" in capsys.readouterr().err
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing", "out"), "there is no .*missing: give a folder of photos"),
        (("photos", "photos"), "photos exists already and is not overwritten"),
        (("photos", "photos/out"), "would lie among the photos"),
        (("notes.txt", "out"), "neither a folder of photos nor a video"),
        (("photos", "out", "--views", "1"), "--views must be at least 2"),
        (("photos", "out", "--downscale", "0"), "--downscale must be at least 1"),
        (("photos", "out", "--frames", "2"), "--frames must be at least 3"),
        (("photos", "out"), "there are no photos in this folder"),
    ],
)
def test_refusals(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.txt").write_text("no video")
    assert prepare.main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "notes.txt"}


def test_ctrl_c_leaves_nothing(tmp_path, monkeypatch, capsys):
    write_photos(tmp_path / "photos", TRUE[:3])

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "solve", interrupt)
    assert prepare.main([str(tmp_path / "photos"), str(tmp_path / "out")]) == 130
    assert "out was not made" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_missing_pycolmap_is_said(tmp_path, monkeypatch, capsys):
    write_photos(tmp_path / "photos", TRUE[:3])
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    assert prepare.main([str(tmp_path / "photos"), str(tmp_path / "out")]) == 2
    assert "finding the cameras of photos" in (error := capsys.readouterr().err) and "ipsm_jax[sfm]" in error
