"""A viewer inside the process that trains."""

import contextlib
import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import tiny_gaussians, tiny_scene

from ipsm_jax.config import TrainConfig
from ipsm_jax.data.ply import write_gaussians_ply
from ipsm_jax.train import main
from ipsm_jax.training.checkpoint import load_run
from ipsm_jax.training.state import init_state
from ipsm_jax.viewer import training as module
from ipsm_jax.viewer.training import TrainingView
from ipsm_jax.viewer.viewpoint import fitted, viewpoint_of

pytest.importorskip("viser", reason='the viewer needs viser: pip install "ipsm_jax[view]"')
from viser_client import ViserClient

pytestmark = pytest.mark.usefixtures("own_caches")


def new_state(step: int):
    return init_state(jax.random.key(0), *tiny_gaussians())._replace(step=jnp.int32(step))


def says(iteration: int):
    return lambda m: m["type"] == "GuiUpdateMessage" and f"iteration {iteration}" in str(m["updates"])


@pytest.fixture
def scene(tmp_path):
    return tiny_scene(tmp_path / "scene")


def test_states_are_shown_while_somebody_looks_and_may_be_given_up(scene, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN", 0.0)
    state = new_state(0)
    with TrainingView(TrainConfig(), scene, state, host="127.0.0.1", port=0) as shown:
        port = int(shown.address.rpartition(":")[2])
        shown.show(new_state(5))  # nobody looks
        with ViserClient(port) as client:
            client.look(fitted(viewpoint_of(scene.cameras[0]), 160, 96))
            client.picture()
            assert not any(says(5)(message) for message in client.messages)
            state = new_state(10)
            shown.show(state)
            jax.tree.map(lambda array: array.delete(), (state.gaussians, state.alive))  # as a training does
            client.wait(says(10))
            client.picture()
            client.look(fitted(viewpoint_of(scene.cameras[1]), 160, 96))
            client.picture()


def test_states_that_follow_too_soon_are_left_out_but_for_the_last(scene, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN", 1e9)
    with (
        TrainingView(TrainConfig(), scene, new_state(0), host="127.0.0.1", port=0) as shown,
        ViserClient(int(shown.address.rpartition(":")[2])) as client,
    ):
        client.look(fitted(viewpoint_of(scene.cameras[0]), 160, 96))
        client.picture()
        shown.show(new_state(10))
        client.wait(says(10))
        shown.show(new_state(20))
        shown.show(new_state(30), last=True)
        client.wait(says(30))
        assert not any(says(20)(m) for m in client.messages)


def test_the_last_state_has_arrived_when_the_viewer_ends(scene):
    with contextlib.ExitStack() as afterwards:
        with TrainingView(TrainConfig(), scene, new_state(0), host="127.0.0.1", port=0) as shown:
            client = afterwards.enter_context(ViserClient(int(shown.address.rpartition(":")[2])))
            client.look(fitted(viewpoint_of(scene.cameras[0]), 160, 96))
            client.picture()
            shown.show(new_state(30), last=True)
        client.wait(says(30))
        client.picture()


def test_a_viewer_that_fails_is_said_once_and_ends_nothing(scene, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(module.Stage, "picture", broken)
    with TrainingView(TrainConfig(), scene, new_state(0), host="127.0.0.1", port=0) as shown:
        with ViserClient(int(shown.address.rpartition(":")[2])) as client:
            client.look(fitted(viewpoint_of(scene.cameras[0]), 160, 96))
            assert shown._server.stopping.wait(60)
        with pytest.warns(UserWarning, match=r"viewer has ended, the training goes on: out of memory"):
            shown.show(new_state(1))
        shown.show(new_state(2))


def test_the_train_command_can_be_watched_and_trains_the_same(scene, tmp_path, capsys):
    write_gaussians_ply(tmp_path / "blobs.ply", *tiny_gaussians())
    few = ["--scene", str(scene.path), "--downscale", "1", "--iterations", "6", "--no-evaluate", "--no-video"]
    few += ["--init", str(tmp_path / "blobs.ply"), "--out", str(tmp_path / "runs")]
    assert main([*few, "--name", "watched", "--view", "--view-port", "0"]) == 0
    assert "to watch: http://127.0.0.1:" in capsys.readouterr().out
    assert main([*few, "--name", "alone"]) == 0
    watched, alone = (load_run(tmp_path / "runs" / name)[1] for name in ("watched", "alone"))
    assert np.asarray(watched.gaussians.means).tobytes() == np.asarray(alone.gaussians.means).tobytes()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main([*few, "--name", "refused", "--view", "--view-port", port]) == 2
    assert f"{port}" in capsys.readouterr().err and not (tmp_path / "runs" / "refused").exists()
