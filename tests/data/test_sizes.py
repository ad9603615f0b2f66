"""Photos of different sizes: every pixel that is left is seen by its new camera along the ray of the old one."""

from pathlib import Path

import numpy as np
import pytest
from captures import WIDTH, picture, poses, write_colmap, write_pictures, write_transforms
from PIL import Image

from ipsm_jax.data.capture import PosedPhoto
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.load import load_scene
from ipsm_jax.data.sizes import one_size

LENS = (1.25, 1.5, 0.45, 0.6)  # focal lengths and principal point in widths and heights


def photo(name, width, height):
    """Posed photo, at full size 4 times as large as its picture, whose red is the column and green the row."""
    fx, fy, cx, cy = LENS[0] * 4 * width, LENS[1] * 4 * height, LENS[2] * 4 * width, LENS[3] * 4 * height
    row, column = np.mgrid[:height, :width]
    image = Image.fromarray(np.stack([column, row, 0 * row], -1).astype(np.uint8))
    return image, PosedPhoto(Path("images"), name, np.eye(4), 4 * width, 4 * height, (fx, fy, cx, cy))


def rays(posed, width, height):
    """(H, W, 2) directions of the pixels' centers."""
    fx, fy, cx, cy = posed.intrinsics
    v, u = np.mgrid[:height, :width] + 0.5
    return np.stack([(u * posed.width / width - cx) / fx, (v * posed.height / height - cy) / fy], -1)


@pytest.mark.parametrize(
    "sizes",
    [[(96, 64), (64, 96), (96, 64)], [(96, 64), (94, 64), (95, 61)]],
    ids=["portrait beside landscape", "uneven edges"],
)
def test_what_is_cut_keeps_its_rays(sizes):
    images, photos = zip(*(photo(f"{i}.png", *size) for i, size in enumerate(sizes)), strict=True)
    width, height = min(w for w, _ in sizes), min(h for _, h in sizes)
    cut, changed, notes = one_size(images, photos, ["a", "b", "c"])
    assert all(image.size == (width, height) for image in cut)
    assert f"cut to {width}x{height}" in notes[0]
    for image, new, old, (w, h) in zip(cut, changed, photos, sizes, strict=True):
        pixels = np.asarray(image)
        before = rays(old, w, h)[pixels[..., 1], pixels[..., 0]]  # of the same pixels in the photo as it was
        np.testing.assert_allclose(rays(new, width, height), before, atol=1e-9)
        assert (new.name, new.lens) == (old.name, old.lens)


def test_a_larger_photo_is_resized_and_keeps_its_view():
    first, second = photo("a.png", 96, 64), photo("b.png", 192, 128)
    images, photos, _ = one_size((first[0], second[0]), (first[1], second[1]), ["a", "b"])
    np.testing.assert_allclose(rays(photos[1], 96, 64), rays(photos[0], 96, 64), atol=1e-9)
    # Means of two by two pixels: columns 0.5, 2.5, ...
    np.testing.assert_allclose(
        np.asarray(images[1])[5:-5, 5:-5, 0], (2 * np.mgrid[:64, :96][1] + 0.5)[5:-5, 5:-5], atol=1
    )


def test_nothing_is_touched_where_all_have_one_size():
    images, photos = zip(*(photo(f"{i}.png", 96, 64) for i in range(2)), strict=True)
    assert one_size(images, photos, ["a", "b"]) == (list(images), photos, ())


def test_photos_with_too_little_in_common_are_refused():
    images, photos = zip(photo("a.png", 96, 32), photo("b.png", 32, 96), strict=True)
    with pytest.raises(DataError, match=r"a.png: 96x32 pixels.* 32x32 .* 33% of it would be left. Leave the odd ones"):
        one_size(images, photos, ["a.png", "b.png"])


@pytest.mark.parametrize("downscale", [1, 2])
def test_a_scene_of_portrait_and_landscape(tmp_path, monkeypatch, downscale):
    """With a lens that bends: undistorting works with the principal points as they are after the cut."""
    monkeypatch.setenv("IPSM_JAX_CACHE", str(tmp_path / "cache"))
    names, sizes = [f"images/{i}.png" for i in range(4)], [(64, 48), (48, 64), (64, 48), (64, 48)]
    for i, (name, (width, height)) in enumerate(zip(names, sizes, strict=True)):
        write_pictures(tmp_path, [name], width, height)
        Image.fromarray(picture(i, width, height)).save(tmp_path / name)
    frames = [{"w": w, "h": h, "cx": 0.5 * w - 1, "cy": 0.5 * h + 2} for w, h in sizes]
    write_transforms(tmp_path, poses(4), names, frames=frames, k1=0.02)
    scene = load_scene(str(tmp_path), downscale=downscale)
    assert scene.images.shape == (4, 48 // downscale, 48 // downscale, 3)
    assert any("the photos have different sizes: all were cut to" in note for note in scene.notes)
    np.testing.assert_allclose(scene.cameras.intrinsics[:, 2:], [[23 / downscale, 26 / downscale]] * 4, rtol=1e-6)
    assert np.ptp(scene.cameras.intrinsics[:, 0]) < 1e-3 * scene.cameras.intrinsics[0, 0]


def test_two_phones_in_one_colmap_model(tmp_path):
    """Pictures at twice the size belong to the same camera of the model."""
    names = ["0.png", "1.png", "2.png"]
    write_pictures(tmp_path / "images", names)
    write_colmap(tmp_path, poses(3), names)
    alone = load_scene(str(tmp_path), downscale=1)
    large = Image.open(tmp_path / "images" / "1.png").resize((2 * WIDTH, 64), Image.Resampling.NEAREST)
    large.save(tmp_path / "images" / "1.png")
    scene = load_scene(str(tmp_path), downscale=1)
    np.testing.assert_allclose(scene.cameras.intrinsics, alone.cameras.intrinsics)
    np.testing.assert_allclose(scene.images[1], alone.images[1], atol=6)
    np.testing.assert_array_equal(scene.images[[0, 2]], alone.images[[0, 2]])
