"""Videos to photos: turned ones, short ones, ones that stand still, and files that are none."""

import subprocess

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from ipsm_jax import prepare
from ipsm_jax.data.errors import DataError
from ipsm_jax.reporting.video import write_video
from ipsm_jax.sfm.photos import read_photos
from ipsm_jax.sfm.progress import silent
from ipsm_jax.sfm.video import extract_frames


def noise(seed, width=32, height=16):
    """Coarse enough to survive the codec."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST))


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    return folder


def test_phone_video_is_turned_upright(tmp_path, frames):
    """Phones store landscape and a matrix that says how to turn it."""
    write_video(tmp_path / "plain.mp4", [noise(i) for i in range(3)], fps=5)
    turned = tmp_path / "turned.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-display_rotation", "90"]
    subprocess.run([*command, "-i", str(tmp_path / "plain.mp4"), "-c", "copy", str(turned)], check=True)
    found = extract_frames(turned, frames, 3, silent)
    assert [file.name for file in found] == [f"frame_{i:06d}.png" for i in range(3)]
    for i, file in enumerate(found):
        picture = iio.imread(file).astype(float)
        assert picture.shape == (32, 16, 3)
        assert np.abs(picture - np.rot90(noise(i))).mean() < 25  # of the codec; turned the other way it would be 85


def test_video_with_fewer_frames_than_asked_for(tmp_path, frames):
    write_video(tmp_path / "short.mp4", [noise(i, 64, 32) for i in range(2)], fps=5)
    assert len(extract_frames(tmp_path / "short.mp4", frames, 40, silent)) == 2
    (tmp_path / "work").mkdir()
    with pytest.raises(DataError, match="2 photos, of which 2 can be used; at least 3"):
        read_photos(frames, tmp_path / "work")


@pytest.mark.parametrize("content", [b"", b"no video at all"])
def test_what_is_no_video(tmp_path, capsys, content):
    (tmp_path / "walk.mov").write_bytes(content)
    assert prepare.main([str(tmp_path / "walk.mov"), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "walk.mov: ffmpeg cannot read this as a video" in error and "convert it to MP4" in error
    assert error.count("\n") == 1 and [path.name for path in tmp_path.iterdir()] == ["walk.mov"]


def test_sound_without_pictures(tmp_path, frames):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", "sine=duration=0.2"]
    subprocess.run([*command, str(tmp_path / "song.mp4")], check=True)
    with pytest.raises(DataError, match="ffmpeg cannot read this as a video"):
        extract_frames(tmp_path / "song.mp4", frames, 5, silent)
