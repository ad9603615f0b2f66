"""The train command at its edges: input it refuses, what killed and stopped runs leave, the limit of Gaussians."""

import json
import os
import signal

import numpy as np
import pytest
from blobs import command, refusal, write_capture

from ipsm_jax.config import load_config
from ipsm_jax.data.ply import write_gaussians_ply
from ipsm_jax.rasterizer import NativeUnavailableError
from ipsm_jax.reporting.files import atomic_write
from ipsm_jax.scene.gaussians import gaussians_from_points
from ipsm_jax.train import main
from ipsm_jax.training import loop
from ipsm_jax.training.checkpoint import list_checkpoints
from ipsm_jax.training.recorder import read_log

pytestmark = pytest.mark.usefixtures("own_caches")


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return write_capture(tmp_path_factory.mktemp("capture") / "blobs")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--scene", "/no/such/place"], "/no/such/place"),
        (["--init", "/no/such/points.ply"], "points.ply"),
        (["--views", "1"], "extent"),
        (["--max-gaussians", "10"], "more than --max-gaussians 10"),
        (["--init", "near.ply"], "Multiply all positions (of cameras, points and depth bounds) by 100"),
    ],
)
def test_unusable_input_is_named(capture, tmp_path, extra, message, monkeypatch, capsys):
    monkeypatch.chdir(capture)
    code, sentence = refusal(command(capture, tmp_path, *extra), capsys)
    assert code == 2
    assert message in sentence
    assert not any(tmp_path.iterdir())  # nothing was begun


SHORT = ("--iterations", "12", "--no-video", "--log-every", "5", "--checkpoint-every", "100")


def fail(*_, **__):
    pytest.fail("called")


def test_ctrl_c_in_the_last_iterations_ends_without_measuring_and_resuming_only_measures(
    capture, tmp_path, monkeypatch, capsys
):
    def train_and_stop(*arguments):
        state = loop.train(*arguments)
        os.kill(os.getpid(), signal.SIGINT)
        return state

    folder = tmp_path / "blobs"
    with monkeypatch.context() as patch:
        patch.setattr("ipsm_jax.train.train", train_and_stop)
        assert main(command(capture, tmp_path, *SHORT)) == 130
    assert "stopped after iteration 12, checkpoint saved. To go on: " in capsys.readouterr().err
    assert list(list_checkpoints(folder)) == [12]
    assert not (folder / "metrics.json").exists()
    monkeypatch.setattr(loop, "_run_steps", fail)
    assert main(command(capture, tmp_path, *SHORT, "--resume")) == 0
    assert json.loads((folder / "metrics.json").read_text())["iteration"] == 12
    assert [line["iteration"] for line in read_log(folder)] == [5, 10, 12]


def test_what_a_run_killed_at_its_first_file_left_is_no_run_and_vanishes(capture, tmp_path):
    folder = tmp_path / "blobs"
    unfinished = []
    for path in (folder / "config.json", folder / "checkpoints" / "000012.safetensors"):
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            unfinished.append((temporary, temporary.read_bytes()))
        path.unlink()
    (folder / "checkpoints").rmdir()
    unfinished[0][0].write_bytes(unfinished[0][1])
    assert main(command(capture, tmp_path, *SHORT, "--no-evaluate")) == 0
    unfinished[1][0].write_bytes(unfinished[1][1])
    assert main(command(capture, tmp_path, *SHORT, "--no-evaluate", "--resume")) == 0
    assert not [temporary for temporary, _ in unfinished if temporary.exists()]
    assert list(list_checkpoints(folder)) == [12]


def test_foreign_files_are_in_the_way(capture, tmp_path, capsys):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / ".notes.tmp.json").write_text("mine")
    code, sentence = refusal(command(capture, tmp_path), capsys)
    assert (code, "is no run of this program" in sentence) == (2, True)
    assert (tmp_path / "blobs" / ".notes.tmp.json").read_text() == "mine"


def test_the_limit_is_saved_and_what_it_kept_out_is_said(capture, tmp_path, capsys):
    short = ("--iterations", "21", "--density-from", "10", "--density-interval", "10", "--gradient-threshold", "1e-7")
    quiet = ("--no-video", "--capacity", "4")
    write_gaussians_ply(tmp_path / "start.ply", *gaussians_from_points(np.eye(4, 3), np.eye(4, 3)))
    few = (*short, *quiet, "--init", str(tmp_path / "start.ply"))
    assert main(command(capture, tmp_path / "few", *few, "--max-gaussians", "5")) == 0
    folder = tmp_path / "few" / "blobs"
    refused = sum(line.get("refused", 0) for line in read_log(folder))
    assert refused > 0
    note = f"limited to 5 (--max-gaussians): in all, density control asked for {refused} more than there was room for"
    assert note in capsys.readouterr().out
    assert note in (folder / "report.html").read_text()
    unlimited = ("--max-gaussians", "None", "--iterations", "2", "--no-evaluate")
    assert main(command(capture, tmp_path / "many", *few, *unlimited)) == 0
    assert load_config(tmp_path / "many" / "blobs" / "config.json").density.max_gaussians == 50_000
    assert "limited to" not in capsys.readouterr().out
    arguments = ["--name", "blobs", "--out", str(tmp_path / "many"), "--resume", "--no-video", "--no-evaluate"]
    assert main(arguments) == 0
    assert load_config(tmp_path / "many" / "blobs" / "config.json").density.max_gaussians == 50_000


def test_training_fails_at_once_without_its_kernels(capture, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ipsm_jax.train.load_scene_from_config", fail)
    with monkeypatch.context() as patch:
        patch.setattr("jax.default_backend", lambda: "gpu")
        code, sentence = refusal(command(capture, tmp_path), capsys)
        assert (code, "Or set JAX_PLATFORMS=cpu" in sentence) == (2, True)

    with monkeypatch.context() as patch:

        def no_device():
            raise AssertionError

        patch.setenv("JAX_PLATFORMS", "cuda")
        patch.setattr("jax.default_backend", no_device)
        code, sentence = refusal(command(capture, tmp_path), capsys)
        assert (code, "JAX_PLATFORMS=cuda asks for (no such device)" in sentence) == (2, True)

    def missing():
        raise NativeUnavailableError("not built")

    monkeypatch.setattr("ipsm_jax.train.load_library", missing)
    assert refusal(command(capture, tmp_path, "--backend", "reference"), capsys) == (2, "error: not built")
