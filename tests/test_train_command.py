"""The train command on a small made-up capture: what it leaves, what it refuses, how it stops and goes on."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time

import imageio.v3 as iio
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.config import load_config
from ipsm_jax.data.ply import read_gaussians_ply
from ipsm_jax.rasterizer import render
from ipsm_jax.scene.camera import Camera, look_at
from ipsm_jax.scene.gaussians import gaussians_from_points
from ipsm_jax.train import main
from ipsm_jax.training.checkpoint import list_checkpoints, load_run
from ipsm_jax.training.recorder import read_log

WIDTH, HEIGHT, FOCAL = 40, 32, 40.0


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """Nine photos of 150 Gaussians, in nerfstudio's layout, with a point cloud near them."""
    folder = tmp_path_factory.mktemp("capture") / "blobs"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(3)
    points, colors = rng.uniform(-1, 1, (150, 3)), rng.uniform(0, 1, (150, 3))
    truth, alive = gaussians_from_points(points, colors)
    truth = truth._replace(opacity_logits=jnp.full(150, 3.0))
    frames = []
    intrinsics = jnp.array([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2])
    for number, angle in enumerate(np.linspace(-0.5, 0.5, 9)):
        matrix = look_at([4 * np.sin(angle), 0.3 * np.cos(9 * angle), -4 * np.cos(angle)], [0, 0, 0])
        camera = Camera(jnp.asarray(matrix), intrinsics, WIDTH, HEIGHT)
        image = np.clip(render(truth, camera, alive=alive).color, 0, 1)
        name = f"images/{number:03d}.png"
        iio.imwrite(folder / name, np.round(image * 255).astype(np.uint8))
        world_from_camera = np.linalg.inv(matrix.astype(np.float64)) @ np.diag([1, -1, -1, 1])  # OpenGL's axes
        frames.append({"file_path": name, "transform_matrix": world_from_camera.tolist()})
    intrinsics = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2, "w": WIDTH, "h": HEIGHT}
    (folder / "transforms.json").write_text(json.dumps({"camera_model": "PINHOLE", **intrinsics, "frames": frames}))
    return folder


@pytest.fixture(scope="module", autouse=True)
def caches(tmp_path_factory):
    """Keep derived data and compiled programs of these tests out of the user's folders, and share them."""
    root = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPSM_JAX_CACHE", str(root))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(root / "compiled"))  # for subprocesses
        before = jax.config.jax_compilation_cache_dir
        jax.config.update("jax_compilation_cache_dir", str(root / "compiled"))
        yield root
        jax.config.update("jax_compilation_cache_dir", before)


def command(capture, out, *extra):
    settings = {
        "scene": capture,
        "out": out,
        "init": "random",
        "downscale": 1,
        "iterations": 400,
        "density-from": 100,
        "max-gaussians": 16384,
        "checkpoint-every": 150,
        "log-every": 50,
        "sh-degree-interval": 100,
        "means-lr": 1e-3,
    }
    return [text for key, value in settings.items() for text in (f"--{key}", str(value))] + list(extra)


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


def refusal(arguments, capsys):
    """Exit code and what stderr says, which starts like a message to a person."""
    code = main(arguments)
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("error: ")
    return code, printed


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


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--scene", "/no/such/place"], "/no/such/place"),
        (["--init", "/no/such/points.ply"], "points.ply"),
        (["--views", "1"], "extent"),
        (["--max-gaussians", "10"], "more than --max-gaussians 10"),
    ],
)
def test_unusable_input_is_named(capture, tmp_path, extra, message, capsys):
    code, sentence = refusal(command(capture, tmp_path, *extra), capsys)
    assert code == 2
    assert message in sentence
    assert not any(tmp_path.iterdir())  # nothing was begun


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
