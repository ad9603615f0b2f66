"""The log of a run: unfinished and broken lines, cutting it where a run is resumed; requests to stop."""

import itertools
import json
import os
import signal

import pytest

from ipsm_jax.config import OptimizationConfig, OutputConfig, TrainConfig
from ipsm_jax.training.density import DensityInfo
from ipsm_jax.training.environment import describe_environment, git_revision
from ipsm_jax.training.interrupt import StopRequest
from ipsm_jax.training.progress import ProgressDisplay
from ipsm_jax.training.recorder import Recorder, read_log, truncate_log


def test_log_is_cut_where_a_run_is_resumed_and_an_unfinished_line_is_dropped(tmp_path):
    assert read_log(tmp_path) == []
    lines = [{"iteration": i, "loss": 1 / i} for i in (50, 100, 150)] + [{"iteration": 150, "test_psnr": 20.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"iteration": 2')
    assert read_log(tmp_path) == lines
    truncate_log(tmp_path, 100)
    assert read_log(tmp_path) == lines[:2]
    truncate_log(tmp_path, 0)
    assert (tmp_path / "log.jsonl").read_text() == ""


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"iteration": 50}\nrubbish\n{"iteration": 100}\n')
    with pytest.raises(ValueError, match=r"line 2 of .*log.jsonl is not JSON"):
        read_log(tmp_path)


def test_a_checkpoint_between_two_lines_brings_its_own_so_that_nothing_is_lost(tmp_path, monkeypatch):
    config = TrainConfig(optimization=OptimizationConfig(iterations=30), output=OutputConfig(log_every=10))
    saved = []
    monkeypatch.setattr("ipsm_jax.training.recorder.save_checkpoint", lambda *_: saved.append(len(read_log(tmp_path))))

    def record(*iterations):
        recorder = Recorder(tmp_path, config, ProgressDisplay(0, 30, 10), lambda _: (0.0, 0.0))
        for count, iteration in iterations:
            recorder.densified(iteration, DensityInfo(*range(1, 7)), 64)
            recorder.advanced(iteration, count, loss=float(iteration), psnr=1.0, gaussians=iteration, terms={})
        recorder.save(None)
        recorder.save(None)  # nothing new: no second line

    record((10, 10), (4, 14), (2, 16))  # stopped after 16
    assert saved == [2, 2]  # the line comes before the checkpoint: a kill in between loses neither
    record((4, 20), (10, 30))
    log = read_log(tmp_path)
    assert [line["iteration"] for line in log] == [10, 16, 20, 30]
    assert log[1]["loss"] == pytest.approx((4 * 14 + 2 * 16) / 6, abs=1e-6)
    assert log[1]["gaussians"] == 16
    assert [line["cloned"] for line in log] == [1, 2, 1, 1]
    assert all(a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(log))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_asks_to_stop_and_a_second_stops_at_once(number, capsys):
    before = signal.getsignal(number)
    with StopRequest() as stop_requested:
        assert not stop_requested()
        os.kill(os.getpid(), number)
        assert stop_requested()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
    assert "saving a checkpoint" in capsys.readouterr().err


def test_environment_names_versions_and_revision(tmp_path):
    environment = describe_environment(seed=12)
    assert environment["seed"] == 12
    assert {"jax", "jaxlib", "numpy", "optax"} <= set(environment["packages"])
    assert environment["devices"]
    json.dumps(environment)
    assert git_revision(tmp_path) is None
