"""The train command on a small made-up capture: what it leaves, what it refuses, how it stops and goes on."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from blobs import command, refusal, write_capture

from ipsm_jax.config import load_config
from ipsm_jax.data.ply import read_gaussians_ply
from ipsm_jax.train import main
from ipsm_jax.training.checkpoint import list_checkpoints, load_run
from ipsm_jax.training.recorder import read_log

pytestmark = pytest.mark.usefixtures("own_caches")


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return write_capture(tmp_path_factory.mktemp("capture") / "blobs")


def bits(folder):
    """All arrays of the newest checkpoint of a run."""
    _, state = load_run(folder)
    return [np.asarray(a).tobytes() for a in jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))]


@pytest.fixture(scope="module")
def finished(capture, tmp_path_factory):
    """A run that nobody disturbed, and what it printed."""
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        assert main(command(capture, out, "--video-frames", "4", "--eval-every", "200")) == 0
    return out / "blobs"


def test_psnr_rises_and_the_run_folder_is_complete(finished, capture):
    expected = {"config.json", "environment.json", "split.json", "log.jsonl", "checkpoints", "point_cloud.ply"}
    expected |= {"renders", "metrics.json", "report.html", "video.mp4"}
    assert {path.name for path in finished.iterdir()} >= expected
    assert not list(finished.rglob("*.tmp*"))
    log = read_log(finished)
    training = [line for line in log if "loss" in line]
    assert [line["iteration"] for line in training] == list(range(50, 401, 50))
    assert training[-1]["psnr"] > training[0]["psnr"] + 2
    assert training[-1]["loss"] < training[0]["loss"]
    assert all(a["seconds"] < b["seconds"] for a, b in itertools.pairwise(training))
    tests = [line for line in log if "test_psnr" in line]
    assert [line["iteration"] for line in tests] == [200, 400]
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["mean"]["psnr"] == pytest.approx(tests[-1]["test_psnr"], abs=0.05)  # 8-bit rounding
    assert metrics["mean"]["ssim"] == pytest.approx(tests[-1]["test_ssim"], abs=0.01)
    assert list(list_checkpoints(finished)) == [300, 400]
    config, state = load_run(finished)
    assert config == load_config(finished / "config.json")
    assert config.data.scene == str(capture)
    points = read_gaussians_ply(finished / "point_cloud.ply")
    np.testing.assert_allclose(points.means, state.gaussians.means[state.alive], rtol=1e-6)
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["seed"] == 0
    assert environment["packages"]["jax"] == jax.__version__
    assert "random" in environment["starting_points"]
    split = json.loads((finished / "split.json").read_text())
    assert len(split["train"]) == 3
    assert not set(split["train"]) & set(split["test"])


def test_a_second_run_with_the_same_seed_has_the_same_bits(finished, capture, tmp_path):
    assert main(command(capture, tmp_path, "--no-evaluate", "--no-video")) == 0
    assert bits(tmp_path / "blobs") == bits(finished)


def test_an_existing_run_is_not_overwritten(finished, capture, capsys):
    before = bits(finished)
    code, sentence = refusal(command(capture, finished.parent), capsys)
    assert code == 2
    assert re.fullmatch(
        r"error: .*blobs already holds a run, with a checkpoint after iteration 400. "
        r"Continue it with --resume, or choose another --name",
        sentence,
    )
    assert bits(finished) == before


def test_resuming_refuses_other_settings_and_a_run_that_is_not_there(finished, capture, tmp_path, capsys):
    code, sentence = refusal(command(capture, finished.parent, "--resume", "--ssim-weight", "0.3"), capsys)
    assert (code, "ssim_weight 0.2 -> 0.3" in sentence) == (2, True)
    code, sentence = refusal(command(capture, tmp_path, "--resume"), capsys)
    assert (code, "there is no run to resume in" in sentence) == (2, True)


def start(arguments, folder):
    """The command as a process of its own; returns when it has saved a checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ipsm_jax.train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not list_checkpoints(folder):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    return process


LONG = ("--iterations", "100000", "--no-evaluate", "--no-video", "--checkpoint-every", "20")


def test_ctrl_c_saves_and_says_how_to_go_on(capture, tmp_path):
    folder = tmp_path / "blobs"
    process = start(command(capture, tmp_path, *LONG), folder)
    saved_before = max(list_checkpoints(folder))
    os.kill(process.pid, signal.SIGINT)
    printed, _ = process.communicate()
    assert process.returncode == 130, printed
    iteration = int(re.search(r"stopped after iteration (\d+), checkpoint saved. To go on: .* --resume", printed)[1])
    assert max(list_checkpoints(folder)) == iteration >= saved_before
    assert "Traceback" not in printed


def test_a_killed_run_goes_on_from_its_last_checkpoint_with_the_same_bits(finished, capture, tmp_path):
    folder = tmp_path / "blobs"
    quiet = ("--no-evaluate", "--no-video", "--checkpoint-every", "20")
    process = start(command(capture, tmp_path, *quiet), folder)
    process.kill()
    process.communicate()
    assert process.returncode in (-signal.SIGKILL, 0)
    with open(folder / "log.jsonl", "a") as log:
        log.write('{"iteration": 99999, "lo')  # as if killed in the middle of a line
    load_run(folder)
    assert main(["--name", "blobs", "--out", str(tmp_path), "--resume", *quiet]) == 0
    assert bits(folder) == bits(finished)
    iterations = [line["iteration"] for line in read_log(folder)]
    assert iterations == sorted(iterations)
    assert iterations[-1] == 400
