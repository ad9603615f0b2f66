"""The train command with diffusion priors of the real layouts and tiny size: SDS, G1, G1 + G2, and what it refuses."""

import json

import numpy as np
import pytest
from tiny_checkpoint import write_pair
from tiny_embedded import write_embedded_prior
from tiny_run import tiny_gaussians, write_scene

from ipsm_jax.data.ply import write_gaussians_ply
from ipsm_jax.train import main
from ipsm_jax.training.checkpoint import load_run

pytestmark = pytest.mark.usefixtures("own_caches", "compiled_quickly")

SCHEDULE = ["--pseudo-from", "2", "--pseudo-until", "12", "--pseudo-ramp", "1"]
GUIDED = [*SCHEDULE, "--prompt", "a wall of noise"]
METHODS = {
    "base": [],
    "sds": ["--guidance", "sds", *SCHEDULE],
    "ipsm": ["--guidance", "ipsm", *SCHEDULE],
    "paper-sign": ["--guidance", "ipsm", "--g2-sign", "paper", *SCHEDULE],
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = write_scene(tmp_path_factory.mktemp("scenes") / "noise")
    write_gaussians_ply(folder / "blobs.ply", *tiny_gaussians())
    return folder


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    return write_embedded_prior(tmp_path_factory.mktemp("embedded"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("priors")
    write_pair(folder)
    return folder


def command(scene, out, *more):
    options = ["--scene", scene, "--downscale", 1, "--init", scene / "blobs.ply", "--iterations", 12, "--capacity", 64]
    options += ["--density-from", 100, "--out", out, "--no-video", "--no-evaluate", "--diagnostics-every", 4]
    return [str(part) for part in (*options, *more)]


def test_each_guidance_trains_its_own_way_and_leaves_pictures(scene, embedded, tmp_path):
    states = {}
    for name, options in METHODS.items():
        prior = ["--prior", "embedded", "--prior-path", embedded] if options else []
        assert main(command(scene, tmp_path, "--name", name, *options, *prior)) == 0
        _, states[name] = load_run(tmp_path / name)
        log = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        pictures = sorted(path.name for path in (tmp_path / name / "diagnostics").glob("*"))
        if name == "base":
            assert not pictures and not any("diagnostics" in line for line in log)
            continue
        assert pictures == ["iteration_000005.png", "iteration_000009.png"]
        seen = [line["diagnostics"] for line in log if "diagnostics" in line]
        assert all(figures["distillation"] > 0 and figures["distillation_gradient"] > 0 for figures in seen)
        assert ("guidance_known" in seen[0]) == (name != "sds")
        assert any(line.get("terms", {}).get("distillation", 0) > 0 for line in log)
    means = {name: np.asarray(state.gaussians.means) for name, state in states.items()}
    assert all(np.isfinite(array).all() for array in means.values())
    names = list(METHODS)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not np.array_equal(means[one], means[other]), f"{one} and {other} trained alike"


def test_a_run_by_stable_diffusion_that_was_stopped_ends_as_an_uninterrupted_one(scene, weights, tmp_path):
    guided = ["--guidance", "ipsm", *GUIDED, "--geometry", "--prior-path", weights]
    assert main(command(scene, tmp_path, "--name", "whole", *guided)) == 0
    assert main(command(scene, tmp_path, "--name", "parts", *guided, "--checkpoint-every", 5)) == 0
    for path in (tmp_path / "parts" / "checkpoints").glob("*12*"):
        path.unlink()
    assert main(command(scene, tmp_path, "--name", "parts", "--resume")) == 0
    log = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert all(
        line["terms"]["distillation"] > 0 for line in log if line.get("iteration", 0) in (8, 12) and "terms" in line
    )
    whole, parts = (load_run(tmp_path / name)[1] for name in ("whole", "parts"))
    assert np.asarray(whole.gaussians.means).tobytes() == np.asarray(parts.gaussians.means).tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--guidance", "ipsm", *GUIDED[:6]], "--guidance ipsm needs to know what the photos show: --prompt"),
        (["--guidance", "sds", *GUIDED, "--prior-path", "nowhere"], "nowhere"),
        (["--guidance", "sds", "--prompt", "x"], "begin with iteration 2001, and training ends after 12"),
        (["--geometry", *GUIDED, "--pseudo-until", "3"], "--pseudo-until must be at least --pseudo-from + 2"),
        (["--depth", "exact"], "has no exact depth"),
        (["--depth", "maps"], "--depth maps needs --depth-path"),
        (["--depth", "maps", "--depth-path", "nowhere"], "nowhere"),
        (["--depth", "network", "--depth-path", "nowhere", *GUIDED[:4]], "nowhere"),
        (["--guidance", "sds", *GUIDED, "--prior", "embedded"], "embedded prior understands no words"),
        (["--guidance", "sds", *SCHEDULE, "--prior", "embedded", "--prior-path", "nowhere"], "nowhere is incomplete"),
        # What is missing is said before anything that takes time, like dense stereo.
        (["--guidance", "ipsm", *GUIDED, "--prior-path", "nowhere", "--init", "stereo"], "nowhere"),
    ],
)
def test_what_cannot_be_done_ends_in_a_sentence(scene, tmp_path, capsys, options, message):
    try:
        code = main(command(scene, tmp_path, *options))
    except SystemExit as stop:  # the command line's own refusals
        code = stop.code
    assert code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not list(tmp_path.iterdir())
