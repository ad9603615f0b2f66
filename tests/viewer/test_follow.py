"""Checkpoints of a run that is being trained, found as they appear."""

import dataclasses
import os
import shutil
import threading

import jax
import jax.numpy as jnp
import pytest
from tiny_run import tiny_gaussians, write_run, write_scene

from ipsm_jax.config import TrainConfig
from ipsm_jax.training.checkpoint import checkpoint_path, list_checkpoints, save_checkpoint
from ipsm_jax.training.state import init_state
from ipsm_jax.viewer import follow as module
from ipsm_jax.viewer.follow import Follower, follow, wait_for_checkpoint

pytestmark = pytest.mark.usefixtures("own_caches")


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", write_scene(tmp_path / "scene"))


def save(run, step):
    state = init_state(jax.random.key(0), *tiny_gaussians())
    save_checkpoint(run, dataclasses.replace(TrainConfig()), state._replace(step=jnp.int32(step)))


def test_each_newest_checkpoint_is_read_once(run):
    follower = Follower(run)
    assert int(follower.poll().step) == 30
    assert follower.poll() is None
    save(run, 40)
    assert int(follower.poll().step) == 40
    assert follower.poll() is None


def test_a_run_started_anew_in_the_same_folder_is_followed(run):
    follower = Follower(run)
    follower.poll()
    shutil.rmtree(run / "checkpoints")
    assert follower.poll() is None
    save(run, 10)
    assert int(follower.poll().step) == 10


def test_the_same_iteration_written_again_is_read_again(run):
    follower = Follower(run)
    follower.poll()
    path = checkpoint_path(run, 30)
    os.utime(path, ns=(1, 1))
    assert int(follower.poll().step) == 30


def test_a_file_cut_short_is_passed_over_until_it_is_whole(run):
    follower = Follower(run)
    follower.poll()
    save(run, 40)
    path = checkpoint_path(run, 40)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert follower.poll() is None and follower.poll() is None
    path.write_bytes(whole)
    assert int(follower.poll().step) == 40


def test_a_file_that_vanishes_between_two_looks_is_no_error(run, monkeypatch):
    missing = {50: run / "checkpoints" / "000050.safetensors"}
    monkeypatch.setattr(module, "list_checkpoints", lambda folder: missing)
    assert Follower(run).poll() is None
    status = checkpoint_path(run, 30).stat()
    monkeypatch.setattr(type(run), "stat", lambda self, **_: status)  # it vanishes a moment later
    assert Follower(run).poll() is None


def test_a_folder_that_is_gone_is_no_error(tmp_path):
    assert Follower(tmp_path / "nowhere").poll() is None


def test_new_states_are_shown_until_told_to_stop(run, monkeypatch):
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    stop, shown = threading.Event(), []

    def show(state):
        shown.append(int(state.step))
        if state.step == 30:
            save(run, 50)
        else:
            stop.set()

    follow(Follower(run), show, stop)  # returns
    assert shown == [30, 50]


def test_the_first_checkpoint_is_waited_for(run, tmp_path, monkeypatch):
    said = []
    wait_for_checkpoint(run, said.append)
    wait_for_checkpoint(tmp_path / "nowhere", said.append)  # that is for others to complain about
    assert not said
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    shutil.rmtree(run / "checkpoints")
    wait_for_checkpoint(run, lambda sentence: (said.append(sentence), save(run, 10)))
    assert len(said) == 1 and "waiting for the first checkpoint" in said[0] and list(list_checkpoints(run)) == [10]
