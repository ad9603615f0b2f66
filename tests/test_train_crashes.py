"""Trainings that the system stops: a full disk, a read-only folder, another training in the same folder.

`experiments/crash_training.py` kills trainings at random moments, many more of them than there is time for here.
"""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from blobs import command, refusal, write_capture

from ipsm_jax.config import ConfigError
from ipsm_jax.data.load import load_scene
from ipsm_jax.train import main
from ipsm_jax.training import recorder
from ipsm_jax.training.checkpoint import list_checkpoints, load_run, save_checkpoint
from ipsm_jax.training.lock import locked
from ipsm_jax.training.recorder import read_log

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import crash_training

sys.path.pop(0)

pytestmark = pytest.mark.usefixtures("own_caches")
SMALL = ("--iterations", "40", "--checkpoint-every", "10", "--log-every", "5", "--no-video", "--no-evaluate")


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return write_capture(tmp_path_factory.mktemp("capture") / "blobs")


@pytest.fixture(scope="module")
def undisturbed(capture, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    assert main(command(capture, out, *SMALL)) == 0
    return out / "blobs"


def bits(folder):
    """All arrays of the newest checkpoint of a run."""
    _, state = load_run(folder)
    return [np.asarray(a).tobytes() for a in jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))]


@contextlib.contextmanager
def largest_file(size):
    """No file of this process may grow beyond `size` bytes; Python ignores the signal and gets an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_cannot_be_written_costs_nothing_but_itself(
    capture, undisturbed, tmp_path, monkeypatch, capsys
):
    def save(folder, config, state):
        with largest_file(4096) if int(state.step) == 30 else contextlib.nullcontext():
            return save_checkpoint(folder, config, state)

    folder = tmp_path / "blobs"
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "save_checkpoint", save)
        code, sentence = refusal(command(capture, tmp_path, *SMALL), capsys)
    assert code == 2
    assert "000030.safetensors cannot be written: " in sentence
    assert "File too large" in sentence and "--resume goes on from them" in sentence and "\n" not in sentence
    assert list(list_checkpoints(folder)) == [10, 20]
    assert not list(folder.rglob(".*.tmp*"))
    assert main(command(capture, tmp_path, *SMALL, "--resume")) == 0
    assert bits(folder) == bits(undisturbed)


def test_a_log_that_cannot_be_written_ends_training_with_its_name(capture, undisturbed, tmp_path, monkeypatch, capsys):
    write = recorder.Recorder._write

    def write_little(self, line):
        with largest_file(700):  # a few lines
            write(self, line)

    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "_write", write_little)
        code, sentence = refusal(command(capture, tmp_path, *SMALL), capsys)
    assert (code, "log.jsonl" in sentence, "File too large" in sentence) == (2, True, True)
    assert read_log(tmp_path / "blobs")  # the last line was cut in the middle
    assert main(command(capture, tmp_path, *SMALL, "--resume")) == 0
    assert bits(tmp_path / "blobs") == bits(undisturbed)
    assert [line["iteration"] for line in read_log(tmp_path / "blobs")] == list(range(5, 41, 5))


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of so many bytes, and options; what it gives back mounts it again with others."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], capture_output=True)
        if done.returncode:
            pytest.skip(f"mounting a small disk needs root: {done.stderr.decode().strip()}")
        return disk

    if sys.platform != "linux":
        pytest.skip("mounts as Linux does")
    yield mount
    subprocess.run(["umount", str(disk)], capture_output=True)


def remount(disk, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def test_a_full_disk_ends_training_and_with_more_room_it_goes_on(capture, undisturbed, small_disk, capsys):
    size = max(path.stat().st_size for path in list_checkpoints(undisturbed).values())
    disk = small_disk(f"size={int(2.5 * size)}")  # two checkpoints, and not a third beside them
    code, sentence = refusal(command(capture, disk, *SMALL), capsys)
    assert code == 2
    assert "cannot be written: " in sentence and "No space left on device" in sentence and "\n" not in sentence
    assert list(list_checkpoints(disk / "blobs")) == [10, 20]
    remount(disk, f"size={10 * size}")
    assert main(command(capture, disk, *SMALL, "--resume")) == 0
    assert bits(disk / "blobs") == bits(undisturbed)


def test_a_read_only_disk_is_named(capture, undisturbed, small_disk, capsys):
    disk = small_disk("size=100m")
    assert main(command(capture, disk, *SMALL, "--iterations", "10")) == 0
    before = bits(disk / "blobs")
    remount(disk, "ro")
    for extra in (["--resume"], ["--name", "other"]):
        code, sentence = refusal(command(capture, disk, *SMALL, "--iterations", "10", *extra), capsys)
        assert (code, "Read-only file system" in sentence, str(disk) in sentence) == (2, True, True)
        assert "\n" not in sentence
    assert bits(disk / "blobs") == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into any folder")
def test_a_folder_without_permission_is_named(capture, tmp_path, capsys):
    tmp_path.chmod(0o500)
    try:
        code, sentence = refusal(command(capture, tmp_path, *SMALL), capsys)
    finally:
        tmp_path.chmod(0o700)
    assert (code, "Permission denied" in sentence, str(tmp_path) in sentence) == (2, True, True)


def test_the_second_training_in_a_folder_is_refused_at_once(capture, undisturbed, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "blobs"
    assert main(command(capture, tmp_path, *SMALL)) == 0
    monkeypatch.setattr("ipsm_jax.train.load_scene_from_config", lambda config: pytest.fail("loaded"))
    with locked(folder):
        code, sentence = refusal(command(capture, tmp_path, *SMALL, "--resume"), capsys)
    assert (code, f"another training is working in {folder}. " in sentence) == (2, True)
    assert bits(folder) == bits(undisturbed)


@pytest.mark.parametrize("other", ["works", "has ended"])
def test_a_training_that_began_while_this_one_was_loading_is_left_alone(other, capture, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "blobs"
    with contextlib.ExitStack() as stack:

        def load(config):
            """As the loader, while another training begins (and ends)."""
            if other == "works":
                stack.enter_context(locked(folder))
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text("of another")
            return load_scene(str(capture), downscale=1)

        monkeypatch.setattr("ipsm_jax.train.load_scene_from_config", load)
        code, sentence = refusal(command(capture, tmp_path, *SMALL), capsys)
    words = "is working in" if other == "works" else "has been working in"
    assert (code, f"another training {words} {folder}" in sentence) == (2, True)
    assert {path.name for path in folder.iterdir()} == {"config.json"}
    assert (folder / "config.json").read_text() == "of another"


def test_the_experiment_sees_what_a_kill_may_break(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(crash_training, "ITERATIONS", 40)
    monkeypatch.setattr(crash_training, "LOG_EVERY", 5)
    folder = tmp_path / "killed"
    shutil.copytree(undisturbed, folder)
    expected = crash_training.last_arrays(undisturbed)
    assert crash_training.state_of(folder)["phase"] == "after its last checkpoint"
    assert crash_training.faults(folder, expected, []) == ["nothing was measured"]
    (folder / "metrics.json").write_text("{}")
    assert crash_training.faults(folder, expected, []) == []
    (folder / "checkpoints" / ".000040.0123456789ab.tmp.safetensors").touch()
    log = (folder / "log.jsonl").read_text().split("\n")
    (folder / "log.jsonl").write_text("\n".join(log[:2] + log[3:]))
    path = list_checkpoints(folder)[40]
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    first, second, third = crash_training.faults(folder, expected, [])
    assert first.endswith("differs") and "the log has gaps" in second and "unfinished file left" in third
    path.write_bytes(path.read_bytes()[:-1])
    assert len(crash_training.state_of(folder)["damaged"]) == 1
    path.unlink()
    assert crash_training.state_of(folder)["phase"] == "while training"
    assert crash_training.faults(folder, expected, []) == ["the last checkpoint is not there"]


HOLD = """
import sys, time
from pathlib import Path
from ipsm_jax.training.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(1000)
"""


def test_the_lock_of_a_killed_process_is_gone(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"locked\n"
    with pytest.raises(ConfigError, match=f"another training is working in {tmp_path}"), locked(tmp_path):
        pytest.fail("two have it")
    process.kill()
    process.communicate()
    with locked(tmp_path):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("environment.json", b"\xff{", "environment.json is not JSON"),
        ("environment.json", b'{"starting_points": 5}', "environment.json: starting_points should be a sentence"),
        ("log.jsonl", b'{"iteration": 5}\n{"loss": \xff}\n', "line 2 of "),
        ("log.jsonl", b'{"loss": 0.5}\n{"iteration": 7}\n', "log.jsonl is no record of a training"),
    ],
)
def test_damaged_files_of_a_run_are_named_when_resuming(name, content, message, undisturbed, capture, capsys):
    path = undisturbed / name
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        code, sentence = refusal(command(capture, undisturbed.parent, *SMALL, "--resume"), capsys)
    finally:
        path.write_bytes(before)
    assert (code, message in sentence) == (2, True)
