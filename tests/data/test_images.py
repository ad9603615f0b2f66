"""Photos at a downscale: matching, making, keeping; and every kind of picture file."""

import numpy as np
import pytest
from captures import HEIGHT, WIDTH, picture, poses, write_colmap, write_llff, write_pictures
from PIL import Image

from ipsm_jax.data.cache import atomic_folder
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.images import existing, image_files, image_names, largest_within, levels, load_images
from ipsm_jax.data.load import load_scene, read_capture
from ipsm_jax.data.pictures import fits, read_mask, read_picture


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("IPSM_JAX_CACHE", str(folder))
    return folder


@pytest.fixture
def scene(tmp_path):
    write_llff(tmp_path / "scene", 9)
    return tmp_path / "scene"


def test_made_beside_the_originals_once(scene, cache):
    capture = read_capture(scene)
    files, notes = image_files(capture, 4)
    assert files == [scene / "images_4" / f"IMG_{i:02d}.png" for i in range(9)]
    assert "made from images/" in notes[0]
    pixels, photos, _ = load_images(files, capture.photos)
    assert photos == capture.photos
    assert pixels.shape == (9, HEIGHT // 4, WIDTH // 4, 3)
    stamps = [file.stat().st_mtime_ns for file in files]
    again, notes = image_files(capture, 4)
    assert (again, notes) == (files, ())
    assert [file.stat().st_mtime_ns for file in again] == stamps
    assert not cache.exists()
    assert not [path for path in scene.iterdir() if path.name.startswith(".")]


def test_downscaling_averages(scene):
    """A picture of one color keeps it, and a fine chessboard becomes gray instead of a few of its squares."""
    board = np.indices((HEIGHT, WIDTH)).sum(0) % 2 * 255
    Image.fromarray(np.stack([board] * 3, -1).astype(np.uint8)).save(scene / "images" / "IMG_00.png")
    Image.new("RGB", (WIDTH, HEIGHT), (10, 100, 200)).save(scene / "images" / "IMG_01.png")
    images = load_scene(str(scene), downscale=4).images
    assert np.abs(images[0].astype(int) - 127).max() <= 3
    assert (images[1] == (10, 100, 200)).all()


def test_kept_in_the_cache_where_the_scene_is_read_only(scene, cache):
    scene.chmod(0o555)
    try:
        capture = read_capture(scene)
        files, notes = image_files(capture, 2)
        assert all(file.is_relative_to(cache) for file in files)
        assert str(cache) in notes[0]
        assert image_files(capture, 2)[0] == files
        (scene / "images" / "IMG_00.png").touch()
        assert image_files(capture, 2)[0] != files  # the originals have changed
    finally:
        scene.chmod(0o755)


def test_incomplete_folder_is_not_taken_and_not_touched(scene, cache):
    write_pictures(scene / "images_4", ["IMG_00.png"], WIDTH // 4, HEIGHT // 4)
    files, _ = image_files(read_capture(scene), 4)
    assert all(file.is_relative_to(cache) for file in files)
    assert image_names(scene / "images_4") == ("IMG_00.png",)


def test_names_that_differ_in_their_ending_alone(tmp_path):
    """Two pictures a.png and a.jpg are told apart, and stay so when they are made smaller."""
    names = ["images/a.jpg", "images/a.png"]
    write_pictures(tmp_path, names)
    write_colmap(tmp_path, poses(2), ["a.jpg", "a.png"])
    files, _ = image_files(read_capture(tmp_path), 2)
    assert [file.name for file in files] == ["a.jpg.png", "a.png.png"]
    assert image_files(read_capture(tmp_path), 2) == (files, ())
    np.testing.assert_array_equal(np.asarray(read_picture(image_files(read_capture(tmp_path), 1)[0][1])), picture(1))


def test_levels_and_names(scene):
    for name in ("images_8", "images_02", "images_x", "images_100"):
        (scene / name).mkdir()
    (scene / "images" / "notes.txt").write_text("no picture")
    (scene / "images" / ".hidden.png").write_bytes(b"no picture")
    assert list(levels(scene / "images")) == [1, 8]
    assert len(image_names(scene / "images")) == 9
    assert existing(read_capture(scene).photos) == [True] * 9


def test_largest_within(scene):
    write_pictures(scene / "images_2", [f"IMG_{i:02d}.png" for i in range(9)], WIDTH // 2, HEIGHT // 2)
    capture = read_capture(scene)
    files, ratio = largest_within(capture, WIDTH)
    assert (files[0].parent.name, ratio) == ("images", 1.0)
    files, ratio = largest_within(capture, WIDTH // 2)
    assert (files[0].parent.name, ratio) == ("images_2", 1.0)
    files, ratio = largest_within(capture, 36)
    assert (files[0].parent.name, ratio) == ("images", 0.75)
    files, ratio = largest_within(capture, 1000)
    assert (files[0].parent.name, ratio) == ("images", 1.0)


def test_bad_downscale(scene):
    with pytest.raises(DataError, match=r"from 1 .*got 0"):
        load_scene(str(scene), downscale=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "IMG_04.png.*not a picture"),
        (b"this is text\n" * 20, "IMG_04.png.*not a picture"),
        (None, "IMG_04.png.*cut short"),
    ],
)
@pytest.mark.parametrize("downscale", [1, 2])
def test_broken_pictures(scene, content, message, downscale):
    path = scene / "images" / "IMG_04.png"
    path.write_bytes(path.read_bytes()[:500] if content is None else content)
    with pytest.raises(DataError, match=message):
        load_scene(str(scene), downscale=downscale)
    assert not (scene / "images_2").exists()


def test_a_block_that_fails_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError, match="stop"), atomic_folder(tmp_path / "out") as temporary:
        (temporary / "file").write_text("half")
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_whoever_finishes_first_wins(tmp_path):
    with atomic_folder(tmp_path / "out") as slow:
        (slow / "who").write_text("slow")
        with atomic_folder(tmp_path / "out") as fast:
            (fast / "who").write_text("fast")
    assert (tmp_path / "out" / "who").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def gray16():
    return Image.fromarray(np.array([[0, 257 * 100], [65535, 257 * 7]], np.uint16))


def transparent():
    return Image.fromarray(np.array([[[200, 100, 50, 255], [200, 100, 50, 0]], [[200, 100, 50, 128]] * 2], np.uint8))


def palette():
    image = Image.new("P", (2, 2))
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.putpixel((1, 0), 1)
    return image


@pytest.mark.parametrize(
    ("make", "pixels"),
    [
        (
            lambda: Image.fromarray(np.array([[0, 100], [255, 7]], np.uint8)),
            [[[0] * 3, [100] * 3], [[255] * 3, [7] * 3]],
        ),
        (gray16, [[[0] * 3, [100] * 3], [[255] * 3, [7] * 3]]),
        (transparent, [[[200, 100, 50], [0, 0, 0]], [[100, 50, 25]] * 2]),
        (palette, [[[0, 0, 0], [200, 100, 50]], [[0, 0, 0]] * 2]),
    ],
)
def test_kinds_of_pictures(tmp_path, make, pixels):
    make().save(tmp_path / "a.png")
    np.testing.assert_allclose(np.asarray(read_picture(tmp_path / "a.png")), pixels, atol=1)


def test_floating_point_pictures_are_refused(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match="floating-point pixels"):
        read_picture(tmp_path / "a.tiff")


def test_orientation_is_applied_only_where_the_camera_needs_it(tmp_path):
    stored = Image.fromarray(picture(0, 32, 48))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    stored.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_picture(tmp_path / "a.png", (320, 480))), picture(0, 32, 48))
    turned = np.asarray(read_picture(tmp_path / "a.png", (480, 320)))
    np.testing.assert_array_equal(turned, np.rot90(picture(0, 32, 48), -1))


def save_tagged(path, image, tag):
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(np.ascontiguousarray(image)).save(path, exif=exif)


@pytest.mark.parametrize("downscale", [1, 2])
@pytest.mark.parametrize(
    ("tag", "stored", "note"),
    [
        (6, lambda upright: upright, "9 photos have an orientation tag, which is ignored"),  # posed as they are stored
        (6, np.rot90, "9 photos were turned as their orientation tag says"),  # posed as they are shown
        (8, lambda upright: np.rot90(upright, -1), "9 photos were turned as their orientation tag says"),
        (3, lambda upright: upright, "9 photos have an orientation tag, which is ignored"),
        (1, lambda upright: upright, None),
    ],
)
def test_photos_with_an_orientation_tag_end_as_their_poses_are(scene, tag, stored, note, downscale):
    plain = load_scene(str(scene), downscale=downscale)
    for path in (scene / "images_2").glob("*"):
        path.unlink()
    if downscale == 2:
        (scene / "images_2").rmdir()
    for i in range(9):
        save_tagged(scene / "images" / f"IMG_{i:02d}.png", stored(picture(i)), tag)
    tagged = load_scene(str(scene), downscale=downscale)
    np.testing.assert_array_equal(tagged.images, plain.images)
    said = [sentence for sentence in tagged.notes if "orientation tag" in sentence]
    assert [sentence.startswith(note or "none") for sentence in said] == ([] if note is None else [True])


@pytest.mark.parametrize("downscale", [1, 2])
def test_what_is_transparent_shows_the_background(scene, downscale):
    """Transparent pixels have a color of their own in the file, which must not show, made smaller or not."""
    mask = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    mask[:, WIDTH // 2 :] = 255
    Image.fromarray(np.concatenate([picture(0), mask], axis=-1)).save(scene / "images" / "IMG_00.png")
    middle = WIDTH // 2 // downscale
    for _ in range(2):  # made, and found again
        for color in ((0.0, 0.0, 0.0), (1.0, 0.5, 0.0)):
            images = load_scene(str(scene), downscale=downscale, background=color).images
            left, right = images[0, :, : middle - 3].astype(int), images[0, :, middle + 3 :].astype(int)
            assert np.abs(left - np.round(255 * np.asarray(color))).max() <= 1
            whole = np.asarray(Image.fromarray(picture(0)).resize(images.shape[2:0:-1], Image.Resampling.LANCZOS))
            np.testing.assert_allclose(right, whole[:, middle + 3 :], atol=3)


@pytest.mark.parametrize(
    ("size", "ok"), [((504, 378), True), ((618, 411), True), ((520, 378), False), ((378, 504), False)]
)
def test_sizes_that_fit_a_camera(size, ok):
    shape = (4946, 3286) if size[0] == 618 else (4032, 3024)
    assert fits(size, shape) is ok


def test_mask(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[8:16, 4:20] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", (WIDTH, HEIGHT)), mask > 0)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", (WIDTH // 4, HEIGHT // 4)), mask[::4, ::4] > 0)
