"""The log of a run: unfinished and broken lines, cutting it where a run is resumed; requests to stop."""

import json
import os
import signal

import pytest

from ipsm_jax.training.environment import describe_environment, git_revision
from ipsm_jax.training.interrupt import StopRequest
from ipsm_jax.training.recorder import read_log, truncate_log


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
