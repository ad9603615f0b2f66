"""Finding scenes by name and path, layouts, the message when there is none; DTU's masks, which depend on the place."""

import numpy as np
import pytest
from captures import HEIGHT, WIDTH, poses, write_colmap, write_llff, write_pictures, write_transforms
from PIL import Image

from ipsm_jax.data.errors import DataError
from ipsm_jax.data.load import load_scene, read_capture
from ipsm_jax.data.locate import detect_layout, find_scene


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("IPSM_JAX_DATA", raising=False)


@pytest.mark.parametrize("sub", ["", "llff", "nerf_llff_data", "colmap", "dtu"])
def test_found_by_name_under_each_root(tmp_path, monkeypatch, sub):
    for root in ("given", "env", "work/data"):
        write_llff(tmp_path / root / sub / "fern", 2)
    assert find_scene("fern").samefile(tmp_path / "work/data" / sub / "fern")
    monkeypatch.setenv("IPSM_JAX_DATA", str(tmp_path / "env"))
    assert find_scene("fern").samefile(tmp_path / "env" / sub / "fern")
    assert find_scene("fern", tmp_path / "given").samefile(tmp_path / "given" / sub / "fern")


def test_found_by_path(tmp_path):
    write_llff(tmp_path / "work" / "mine", 2)
    for scene in ("mine", "./mine", str(tmp_path / "work" / "mine"), "mine/poses_bounds.npy"):
        assert find_scene(scene).samefile(tmp_path / "work" / "mine")


def test_not_found_says_where_it_looked_and_what_it_wants(tmp_path):
    with pytest.raises(DataError) as caught:
        find_scene("fern", tmp_path / "nowhere")
    message = str(caught.value)
    for part in (
        "Scene 'fern' was not found",
        str(tmp_path / "nowhere"),
        "(no such folder)",
        str(tmp_path / "work" / "data"),
        "nerf_llff_data",
        "poses_bounds.npy",
        "sparse/0",
        "transforms.json",
        "nerf_llff_data.zip",
        "--scene demo",
    ):
        assert part in message


def test_folder_without_a_scene_says_what_is_inside(tmp_path):
    write_pictures(tmp_path / "work" / "holiday", ["one.png"])
    with pytest.raises(DataError, match=r"holiday holds no scene in a known layout \(inside: one.png\)"):
        find_scene("holiday")
    (tmp_path / "work" / "holiday" / "sparse").mkdir()
    (tmp_path / "work" / "holiday" / "sparse" / "images.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"sparse has no cameras.bin"):
        find_scene("holiday")
    (tmp_path / "work" / "empty").mkdir()
    with pytest.raises(DataError, match=r"inside: nothing"):
        find_scene("empty")


@pytest.mark.parametrize("scene", ["", "  ", "a\0b"])
def test_no_name(scene):
    with pytest.raises(DataError, match="no scene is named"):
        find_scene(scene)


def test_layouts(tmp_path):
    assert detect_layout(tmp_path / "none") is None
    write_llff(tmp_path / "s", 2)
    assert detect_layout(tmp_path / "s") == "llff"
    write_colmap(tmp_path / "s", poses(2), ["IMG_00.png", "IMG_01.png"], text=True)
    assert detect_layout(tmp_path / "s") == "colmap"
    write_transforms(tmp_path / "s", poses(2), ["images/IMG_00.png", "images/IMG_01.png"])
    assert detect_layout(tmp_path / "s") == "transforms"
    with pytest.raises(DataError, match="no scene in a known layout"):
        read_capture(tmp_path / "none")


def make_scan(root):
    names = [f"rect_{i:03d}.png" for i in range(49)]
    write_colmap(root, poses(49), names, size=(WIDTH // 4, HEIGHT // 4), params=(10, 10, 6, 4))
    write_pictures(root / "images", names, WIDTH // 4, HEIGHT // 4)


def write_masks(folder, names):
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        mask = np.zeros((HEIGHT // 4, WIDTH // 4), np.uint8)
        mask[:, : 1 + i % 5] = 255
        Image.fromarray(mask).save(folder / name)


@pytest.mark.parametrize("folder", ["scan8/mask", "scan8/masks", "idrmasks/scan8", "idrmasks/scan8/mask"])
def test_dtu_scans_have_their_split_and_masks(tmp_path, folder):
    make_scan(tmp_path / "scan8")
    write_masks(tmp_path / folder, [f"{i:03d}.png" for i in range(49)])
    scene = load_scene(str(tmp_path / "scan8"), downscale=1)
    assert scene.train == (25, 22, 28)
    assert len(scene.test) == 25
    assert scene.masks.shape == (49, HEIGHT // 4, WIDTH // 4)
    np.testing.assert_array_equal(scene.masks.sum(axis=(1, 2)), HEIGHT // 4 * (1 + np.arange(49) % 5))


def test_missing_masks_are_said(tmp_path):
    make_scan(tmp_path / "scan8")
    scene = load_scene(str(tmp_path / "scan8"), downscale=1)
    assert scene.masks is None
    assert any("no object masks" in note and "whole images" in note for note in scene.notes)
    write_masks(tmp_path / "scan8" / "mask", ["rect_001.png"])
    with pytest.raises(DataError, match=r"no mask for rect_000.png \(48 of 49 have none\)"):
        load_scene(str(tmp_path / "scan8"), downscale=1)
