"""Files appear whole or not at all: errors, kill -9, and what JSON and PNG can hold."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.reporting.files import atomic_write, leftovers, to_uint8, write_json, write_png


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".txt"
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing was written for .*a\.txt"), atomic_write(tmp_path / "a.txt"):
        pass


def test_kill_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    program = (
        "import sys, time\n"
        "from ipsm_jax.reporting.files import atomic_write\n"
        f"with atomic_write({str(path)!r}) as temporary:\n"
        "    file = open(temporary, 'w')\n"
        "    file.write('half a fi'); file.flush()\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "writing\n"
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert json.loads(path.read_text()) == {"old": 1}
    left = [file.name for file in tmp_path.iterdir() if file != path]
    assert all(name.startswith(".") and ".tmp" in name for name in left)  # never mistaken for a result
    write_json(path, {"new": 2})  # and it does not stand in the way
    assert json.loads(path.read_text()) == {"new": 2}


def test_what_a_killed_process_left_is_known_by_its_name(tmp_path):
    with atomic_write(tmp_path / "a.b.json") as temporary:
        temporary.write_text("half")
        (tmp_path / ".a.0123456789ab.tmp").write_text("half")
        for name in (".a.tmp.json", ".hidden", "a.0123456789ab.tmp.json", ".a.0123456789aX.tmp.json"):
            (tmp_path / name).write_text("mine")
        assert set(leftovers(tmp_path)) == {temporary, tmp_path / ".a.0123456789ab.tmp"}
    assert leftovers(tmp_path) == [tmp_path / ".a.0123456789ab.tmp"]
    assert leftovers(tmp_path / "missing") == []


def test_json_takes_arrays_scalars_and_paths(tmp_path):
    value = {"f": np.float32(0.5), "i": jnp.int32(3), "a": np.arange(3), "j": jnp.ones(2), "p": Path("x/y"), "n": None}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "f": 0.5, "i": 3, "a": [0, 1, 2], "j": [1.0, 1.0], "p": os.path.join("x", "y"), "n": None,
    }  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), np.float32("inf"), object()])
def test_what_json_cannot_say_is_an_error_and_leaves_no_file(tmp_path, value):
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "a.json", {"x": value})
    assert list(tmp_path.iterdir()) == []


def test_rounding_to_8_bit_is_to_nearest_and_back_is_exact():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(levels / np.float32(255)), levels)
    np.testing.assert_array_equal(to_uint8(np.array([-1.0, 0.4999 / 255, 0.5001 / 255, 2.0])), [0, 0, 1, 255])


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_png_keeps_the_pixels(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write_png(tmp_path / "a.png", pixels / np.float32(255))
    np.testing.assert_array_equal(iio.imread(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), int), "float in \\[0, 1\\] or uint8, got int64"),
        (np.full((4, 4), np.nan), "16 values that are not a number"),
        (np.zeros((4, 4, 2)), r"got \(4, 4, 2\)"),
        (np.zeros(4), r"got \(4,\)"),
    ],
)
def test_what_is_no_picture_is_an_error(tmp_path, image, message):
    with pytest.raises(ValueError, match=message):
        write_png(tmp_path / "a.png", image)
