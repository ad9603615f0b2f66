"""The view command: what it refuses, in one sentence, and a whole life of it, while checkpoints appear."""

import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from tiny_run import tiny_gaussians, write_run, write_scene

from ipsm_jax.config import DataConfig, TrainConfig
from ipsm_jax.data.ply import write_gaussians_ply
from ipsm_jax.training.checkpoint import save_checkpoint
from ipsm_jax.training.state import init_state
from ipsm_jax.view import ViewOptions, main, sources_of
from ipsm_jax.viewer.viewpoint import Viewpoint

pytestmark = pytest.mark.usefixtures("own_caches")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a run, an empty one, a PLY file and a file that is none."""
    write_run(tmp_path / "run", write_scene(tmp_path / "scene"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.ply").write_text("hello")
    write_gaussians_ply(tmp_path / "cloud.ply", *tiny_gaussians())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(arguments, capsys) -> str:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one run folder or PLY file, or two to compare; got 0"),
        (["run", "cloud.ply", "--ply", "cloud.ply"], "got 3"),
        (["cloud.ply", "--live"], "--live follows the checkpoints of a run folder, and cloud.ply is a file"),
        (["run", "--live", "--iteration", "20"], "leave --iteration away"),
        (["run", "--largest", "10"], "--largest must be between 128 and 8192, got 10"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments, message, place, capsys):
    assert message in refusal(arguments, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "there is no run folder missing"),
        (["missing", "--live"], "there is no run folder missing"),
        (["missing.ply"], "missing.ply: there is no such file"),
        (["text.ply"], "text.ply: not a PLY file"),
        (["run", "missing"], "there is no run folder missing"),
        (["empty"], "empty holds no checkpoint"),
        (["run", "--iteration", "5"], "not after 5"),
        (["run", "--scene", "nowhere"], "nowhere"),
        (["run", "--host", "203.0.113.7"], "cannot listen on 203.0.113.7"),
        (["run", "--port", "-1"], "--port must be between 0 and 65535"),
    ],
)
def test_what_cannot_be_shown_is_said(arguments, message, place, capsys):
    pytest.importorskip("viser")
    assert message in refusal(arguments, capsys)


def test_a_port_that_is_taken_is_said_before_anything_is_read(capsys):
    pytest.importorskip("viser")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert f"port {port} on 127.0.0.1 is taken" in refusal(["not read", "--port", port], capsys)


def test_without_viser_it_is_said_what_to_install(place, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("viser", "ipsm_jax.viewer.server"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "viser", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "ipsm_jax.viewer.panel", raising=False)
    assert 'pip install "ipsm_jax[view]"' in refusal(["run"], capsys)


def test_each_path_becomes_a_source(place):
    options = ViewOptions(run=Path("run"), other=Path("cloud.ply"), scene="scene", downscale=1, backend="native")
    run, ply = sources_of(options)
    assert (run.run, run.ply, ply.run, ply.ply) == (Path("run"), None, None, Path("cloud.ply"))
    assert all((s.scene, s.downscale, s.backend) == ("scene", 1, "native") for s in (run, ply))
    assert [s.ply for s in sources_of(ViewOptions(ply=Path("x.ply")))] == [Path("x.ply")]
    assert sources_of(ViewOptions(run=Path("missing")))[0].run == Path("missing")


def save(run: Path, scene: Path, step: int) -> None:
    state = init_state(jax.random.key(0), *tiny_gaussians())
    config = TrainConfig(data=DataConfig(scene=str(scene), downscale=1))
    save_checkpoint(run, config, state._replace(step=jnp.int32(step)))


def read_until(stream, text: str) -> str:
    """Lines up to the one that holds a text."""
    lines = []
    for line in stream:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"it ended without saying {text!r}: {''.join(lines)}")


@pytest.fixture
def interruptible():
    """What a shell starts in the background may ignore Ctrl-C, and so does what that starts in turn."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_run_is_followed_from_before_its_first_checkpoint_until_ctrl_c(place):
    pytest.importorskip("viser", reason='the viewer needs viser: pip install "ipsm_jax[view]"')
    from viser_client import ViserClient

    run, scene = place / "run", place / "scene"
    shutil.rmtree(run / "checkpoints")
    command = [sys.executable, "-m", "ipsm_jax", "view", str(run), "--live", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as viewer:
        try:
            read_until(viewer.stdout, "waiting for the first checkpoint")
            save(run, scene, 10)
            said = read_until(viewer.stdout, "Ctrl-C ends")
            assert "run: 40 Gaussians, iteration 10" in said
            port = int(said.rpartition("http://127.0.0.1:")[2].split()[0])
            with ViserClient(port) as client:
                client.look(Viewpoint((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0.8, 160, 96))
                client.picture()
                save(run, scene, 20)
                client.wait(lambda m: m["type"] == "GuiUpdateMessage" and "iteration 20" in str(m["updates"]))
                client.picture()
                viewer.send_signal(signal.SIGINT)
                assert viewer.wait(60) == 0
            rest = viewer.stdout.read()
            assert "viewer ended" in rest and "Traceback" not in rest and "rror" not in rest
        finally:
            viewer.kill()
