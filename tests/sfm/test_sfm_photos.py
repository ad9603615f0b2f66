"""Reading plain photos: what is usable, upright, from which camera; frames of a video."""

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFilter, ImageOps

from ipsm_jax.data.errors import DataError
from ipsm_jax.reporting.video import write_video
from ipsm_jax.sfm.photos import focal_pixels, open_copy, read_photos, work_file
from ipsm_jax.sfm.progress import silent
from ipsm_jax.sfm.video import extract_frames, is_video, sharpness


def noise(seed, width=60, height=40):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "work").mkdir()
    for i in range(3):
        noise(i).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


def read(folder, **options):
    return read_photos(folder, folder.parent / "work", **options)


def test_every_kind_of_picture_becomes_upright_rgb(folder):
    gray16 = Image.fromarray((np.arange(2400).reshape(40, 60) * 27).astype(np.uint16))
    gray16.save(folder / "3.png")
    noise(4).convert("L").save(folder / "4.tif")
    see_through = noise(5)
    see_through.putalpha(128)
    see_through.save(folder / "5.webp", lossless=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the camera was held upright: the stored picture lies on its side
    upright = noise(6, 40, 60)
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "6.png", exif=exif)
    found = read(folder)
    assert [photo.name for photo in found.photos] == [f"{i}.png" for i in range(7)]
    assert not found.unusable
    copies = [iio.imread(work_file(folder.parent / "work", i)) for i in range(7)]
    assert {copy.shape[2:] for copy in copies} == {(3,)}
    np.testing.assert_array_equal(copies[3], np.round(np.asarray(gray16) / 257)[..., None] * np.ones(3))
    np.testing.assert_array_equal(open_copy(found.photos[6], work_file(folder.parent / "work", 6)), upright)
    assert (found.photos[6].width, found.photos[6].height) == (40, 60)
    assert np.abs(np.asarray(copies[5], float) - np.asarray(noise(5), float) * 128 / 255).max() <= 1


def test_unusable_files_are_named_with_a_reason(folder):
    noise(1).save(folder / "again.png")
    (folder / "broken.jpg").write_bytes((folder / "0.png").read_bytes()[:200])
    (folder / "text.jpg").write_text("no picture")
    (folder / "phone.HEIC").write_bytes(b"")
    noise(2, 8, 6).save(folder / "icon.png")
    noise(2, 3000, 50).save(folder / "strip.png")
    found = read(folder)
    assert [photo.name for photo in found.photos] == ["0.png", "1.png", "2.png"]
    assert found.unusable["again.png"] == "it is the same picture as 1.png"
    assert "damaged or cut short" in found.unusable["broken.jpg"]
    assert "not a picture" in found.unusable["text.jpg"]
    assert found.unusable["icon.png"] == "with 8x6 pixels it is too small, or too narrow, to find anything in"
    assert "3000x50 pixels" in found.unusable["strip.png"]
    assert "phone.HEIC" in found.notes[0] and "JPEG" in found.notes[0]


def test_names_are_flat_and_unique_without_their_ending(folder):
    (folder / "left").mkdir()
    noise(7).save(folder / "left" / "0.png")
    noise(8).save(folder / "0.jpg")
    names = [photo.name for photo in read(folder).photos]
    assert sorted(names) == ["0_jpg.jpg", "0_png.png", "1.png", "2.png", "left__0.png"]


def test_folders_of_smaller_copies_are_left_aside(tmp_path):
    for top in ("images_2", "images_8", "left", "left_9"):
        (tmp_path / "photos" / top).mkdir(parents=True)
        for i in range(2):
            noise(i + 10 * (top < "j")).save(tmp_path / "photos" / top / f"{i}.png")
    (tmp_path / "work").mkdir()
    found = read(tmp_path / "photos")
    assert [photo.name for photo in found.photos] == [f"{top}__{i}.png" for top in ("images_2", "left") for i in (0, 1)]
    assert found.notes == (
        "images_8/ is taken to hold smaller copies of images_2/ and is left aside",
        "left_9/ is taken to hold smaller copies of left/ and is left aside",
    )


def test_copies_are_reduced_and_sizes_kept(folder):
    found = read(folder, long_side=48)
    assert {(p.width, p.height, p.work_width, p.work_height) for p in found.photos} == {(60, 40, 48, 32)}


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ((), "there are no photos in this folder"),
        ((0,), "1 photo, of which 1 can be used; at least 3"),
        ((0, 1), "2 photos, of which 2 can be used"),
    ],
)
def test_too_few_photos(folder, keep, message):
    for i in {0, 1, 2} - set(keep):
        (folder / f"{i}.png").unlink()
    with pytest.raises(DataError, match=message):
        read(folder)


def test_identical_photos(folder):
    for i in (1, 2):
        noise(0).save(folder / f"{i}.png")
    with pytest.raises(
        DataError, match=r"3 photos, of which 1 can be used[\s\S]*1.png: it is the same picture as 0.png"
    ):
        read(folder)


def test_focal_length_from_exif():
    exif = Image.Exif()
    details = exif.get_ifd(ExifTags.IFD.Exif)
    assert focal_pixels(exif, 4000, 3000) is None
    details[ExifTags.Base.FocalLengthIn35mmFilm] = 26
    # The diagonal of a 36 x 24 mm frame is 43.267 mm, that of the photo 5000 pixels.
    assert focal_pixels(exif, 4000, 3000) == pytest.approx(26 / 43.2666 * 5000, rel=1e-4)
    assert focal_pixels(exif, 3000, 4000) == focal_pixels(exif, 4000, 3000)
    # 5 mm on a sensor of 4000 pixels / 800 pixels per mm; the photo was reduced to half since.
    details[ExifTags.Base.FocalLength] = 5.0
    details[ExifTags.Base.FocalPlaneXResolution] = 800.0
    details[ExifTags.Base.FocalPlaneResolutionUnit] = 4
    details[ExifTags.Base.ExifImageWidth] = 4000
    assert focal_pixels(exif, 2000, 1500) == pytest.approx(2000)
    details[ExifTags.Base.FocalPlaneXResolution] = 0.0
    details[ExifTags.Base.FocalLengthIn35mmFilm] = 9000  # nonsense is not believed
    assert focal_pixels(exif, 4000, 3000) is None


def test_exif_tells_cameras_apart(folder):
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "Phone"
    noise(9).save(folder / "9.png", exif=exif)
    cameras = [photo.camera for photo in read(folder).photos]
    assert len(set(cameras[:3])) == 1 and cameras[3] == "Phone 60x40"


def test_portraits_of_a_camera_that_took_landscapes_lie_on_their_side(folder):
    noise(9, 40, 60).save(folder / "9.png")
    found = read(folder).photos
    assert len({photo.camera for photo in found}) == 1
    assert [photo.turned for photo in found] == [False, False, False, True]
    assert (found[3].width, found[3].height, found[3].work_width, found[3].work_height) == (40, 60, 60, 40)
    copy = work_file(folder.parent / "work", 3)
    np.testing.assert_array_equal(iio.imread(copy), np.rot90(np.asarray(noise(9, 40, 60))))
    np.testing.assert_array_equal(open_copy(found[3], copy), noise(9, 40, 60))


def test_sharpest_frame_of_each_interval_of_a_video(tmp_path):
    frames = []
    for i in range(12):
        frame = noise(i // 4, 16, 12).resize((128, 96))  # three intervals of four frames; one of each is sharp
        frames.append(frame if i in (2, 5, 11) else frame.filter(ImageFilter.GaussianBlur(3)))
    video = tmp_path / "walk.mp4"
    write_video(video, [np.asarray(frame) for frame in frames], fps=10)
    (tmp_path / "frames").mkdir()
    found = extract_frames(video, tmp_path / "frames", 3, silent)
    assert [file.name for file in found] == ["frame_000002.png", "frame_000005.png", "frame_000011.png"]
    difference = np.abs(np.asarray(iio.imread(found[1]), float) - np.asarray(frames[5], float))
    assert difference.mean() < 12  # the codec's loss
    assert is_video(video) and not is_video(tmp_path)
    (tmp_path / "no.mp4").write_text("no video")
    with pytest.raises(DataError, match="cannot read this as a video"):
        extract_frames(tmp_path / "no.mp4", tmp_path / "frames", 3, silent)


def test_sharpness_falls_with_blur():
    image = ImageOps.grayscale(noise(0, 300, 200))
    scores = [sharpness(image.filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 1, 2, 4)]
    assert scores == sorted(scores, reverse=True) and scores[0] > 4 * scores[1]
