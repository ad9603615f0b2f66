"""Videos decode to the frames that went in, in a form that browsers play; failures leave nothing behind."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from ipsm_jax.reporting.video import VideoError, pad_to_even, write_video


def probe(path) -> str:
    """What ffmpeg says about a file."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def decode(path, height: int, width: int) -> np.ndarray:
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-i",
        str(path),
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


@pytest.mark.parametrize(("height", "width"), [(32, 48), (31, 45), (1, 1)])
def test_a_video_holds_the_frames_in_a_form_browsers_play(tmp_path, height, width):
    levels = [0.1, 0.5, 0.9, 0.3]
    write_video(tmp_path / "a.mp4", (np.full((height, width, 3), level, np.float32) for level in levels), fps=4)
    said = probe(tmp_path / "a.mp4")
    assert "Video: h264" in said and "yuv420p" in said and "4 fps" in said
    frames = decode(tmp_path / "a.mp4", height + height % 2, width + width % 2)
    np.testing.assert_allclose(frames.mean((1, 2, 3)) / 255, levels, atol=0.02)
    head = (tmp_path / "a.mp4").read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")  # plays while it still loads
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_padding_repeats_the_edge():
    frame = np.arange(9, dtype=np.uint8).reshape(3, 3, 1).repeat(3, 2)
    padded = pad_to_even(frame)
    assert padded.shape == (4, 4, 3)
    np.testing.assert_array_equal(padded[:3, :3], frame)
    np.testing.assert_array_equal(padded[3], padded[2])
    np.testing.assert_array_equal(padded[:, 3], padded[:, 2])


def broken_frames():
    yield np.zeros((8, 8, 3))
    raise RuntimeError("the renderer failed")


@pytest.mark.parametrize(
    ("frames", "options", "error", "message"),
    [
        ([], {}, ValueError, "at least one frame"),
        ([np.zeros((8, 8))], {}, ValueError, r"are \(H, W, 3\), got \(8, 8\)"),
        ([np.zeros((8, 8, 3)), np.zeros((8, 9, 3))], {}, ValueError, r"frame 1 has shape \(8, 9, 3\)"),
        ([np.zeros((8, 8, 3))], {"fps": 0}, ValueError, "positive number of frames per second"),
        (broken_frames(), {}, RuntimeError, "the renderer failed"),
    ],
)
def test_bad_frames_are_an_error_and_leave_nothing(tmp_path, frames, options, error, message):
    with pytest.raises(error, match=message):
        write_video(tmp_path / "a.mp4", frames, **options)
    assert list(tmp_path.iterdir()) == []


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.mp4, got '.*a\.avi'"):
        write_video(tmp_path / "a.avi", [np.zeros((8, 8, 3))])


def test_an_encoder_that_fails_is_quoted(tmp_path, monkeypatch):
    fake = tmp_path / "ffmpeg"
    fake.write_text("#!/bin/sh\necho 'No space left on device' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(fake))
    with pytest.raises(VideoError, match=r"a\.mp4 failed, ffmpeg says: No space left on device"):
        write_video(tmp_path / "out" / "a.mp4", (np.zeros((64, 64, 3)) for _ in range(50)))
    assert list((tmp_path / "out").iterdir()) == []
