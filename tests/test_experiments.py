"""The scripts: figures and table of base runs, the check of all gradients, the phases of an iteration, guidance."""

import dataclasses
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from ipsm_jax.config import parse_command_line, to_json


def load(name):
    path = Path(__file__).parents[1] / "experiments" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"experiments_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ablation(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "experiments"))
    return load("ablation")


@pytest.mark.parametrize(("memory", "cell"), [({"peak_memory_mib": 3072}, "3.0"), ({}, "not known")])
def test_figures_of_finished_runs_become_a_file_and_a_table(ablation, tmp_path, monkeypatch, capsys, memory, cell):
    for seed, psnr in enumerate((20.0, 22.0)):
        folder = tmp_path / f"fern-random-seed{seed}"
        folder.mkdir()
        metrics = {"psnr": psnr, "ssim": 0.5, "lpips_vgg": None}
        (folder / "metrics.json").write_text(json.dumps({"mean": metrics}))
        lines = [{"iteration": 10, "loss": 0.1, "gaussians": 40, "seconds": 90.0, **memory}]
        lines.append({"iteration": 10, "test_psnr": 1.0})
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["ablation.py", "--scenes", "fern", "--methods", "random", "--seeds", "2", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    ablation.main()
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| fern"))
    assert row.startswith("| fern | random | 2 | 21.00 ± 1.41 | 0.500 ± 0.000 | not computed |")
    assert row.endswith(f"| 40 | 1.5 ± 0.0 | {cell} |")
    runs = json.loads((tmp_path / "ablation.json").read_text())[0]["runs"]
    assert [run["psnr"] for run in runs] == [20.0, 22.0]
    assert [run["peak_memory_gib"] for run in runs] == [3.0 if memory else None] * 2
    assert not list(tmp_path.glob(".*"))


def test_an_ablation_trains_what_is_missing_and_shows_what_each_method_adds(ablation, tmp_path, monkeypatch, capsys):
    trained = []

    def finish(folder, scene, seed, data_root, options):
        trained.append((folder.name, seed, options))
        folder.mkdir()
        name = folder.name.split("-seed")[0]
        psnr = {"fern-base": 20.0, "fern-geometry": 20.5, "fern-depth": 19.0}[name] + 2 * seed
        (folder / "metrics.json").write_text(json.dumps({"mean": {"psnr": psnr, "ssim": 0.5}}))
        (folder / "log.jsonl").write_text('{"iteration": 10, "loss": 0.1, "gaussians": 40, "seconds": 90.0}\n')

    monkeypatch.setattr(ablation, "train_once", finish)
    options = ["--methods", "base", "geometry", "depth", "--depth", "maps", "--depth-path", "maps", "--seeds", "2"]
    monkeypatch.setattr(
        sys, "argv", ["ablation.py", "--scenes", "a/fern", "--out", str(tmp_path), *options, "--", "--x"]
    )
    ablation.main()
    assert [name for name, _, _ in trained[:3]] == ["fern-base-seed0", "fern-geometry-seed0", "fern-depth-seed0"]
    assert trained[5] == ("fern-depth-seed1", 1, ["--depth", "maps", "--depth-path", "maps", "--x"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| fern | base | 2 | 21.00 ± 1.41 | 0.500 ± 0.000 | not computed |")
    assert [line for line in lines if line.startswith("| depth | -1.00 ± 0.00 | +0.000 ± 0.000 | not computed |")]
    saved = json.loads((tmp_path / "ablation.json").read_text())
    assert [(r["scene"], r["method"]) for r in saved] == [("fern", "base"), ("fern", "geometry"), ("fern", "depth")]
    with pytest.raises(SystemExit, match="ipsm-gaussian needs --depth exact, stereo, maps or network"):
        ablation.options_of("ipsm-gaussian", None, None)


def test_a_run_with_other_settings_is_not_taken_for_this_one(ablation, tmp_path):
    folder = tmp_path / "demo-base-seed0"
    folder.mkdir()
    config = parse_command_line(["--scene", "demo", "--geometry"])
    limited = dataclasses.replace(config.density, max_gaussians=1000)  # filled in by a run
    (folder / "config.json").write_bytes(to_json(dataclasses.replace(config, density=limited)))
    (folder / "metrics.json").write_text("{}")
    ablation.train_once(folder, "demo", 0, None, ["--geometry"])
    with pytest.raises(SystemExit, match=r"demo-base-seed0 holds a run with other settings.*geometry True -> False"):
        ablation.train_once(folder, "demo", 0, None, [])


def test_scenes_of_one_name_are_refused(ablation, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["ablation.py", "--methods", "base", "--scenes", "a/x", "b/x", "--out", str(tmp_path)]
    )
    with pytest.raises(SystemExit):
        ablation.main()
    assert "two scenes have the same name" in capsys.readouterr().err


@pytest.fixture
def check_gradients(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "experiments"))
    jax.config.update("jax_disable_most_optimizations", True)  # the reference takes long to compile and runs once
    yield importlib.import_module("check_gradients")
    jax.config.update("jax_disable_most_optimizations", False)


def test_gradients_are_checked_in_a_mode_and_pixels_at_a_threshold_left_out(check_gradients, monkeypatch):
    gaussians, camera = check_gradients.builtin_scene(150)
    # A piece of the scene that takes the reference no time.
    camera = dataclasses.replace(camera, intrinsics=camera.intrinsics / 16, width=32, height=24)
    mode = check_gradients.Mode(channels=1, absolute=True)
    monkeypatch.setattr(check_gradients, "ALPHA_MARGIN", 1e-2)  # so many Gaussians, so few pixels: some must be near
    errors, left_out = check_gradients.compare(gaussians, camera, mode)
    assert 0 < left_out < 32 * 24 / 2
    named = ["color", "depth", "alpha", "features", "d/d features", "d/d mean2d_absolute", "d/d intrinsics"]
    assert set(named) < set(errors) and len(errors) == 4 + 6 + 2 + 4
    assert 0 < min(errors.values()) <= max(errors.values()) < check_gradients.TOLERANCE


def test_a_profile_finds_all_phases_and_becomes_a_file_and_a_table(tmp_path):
    """The phases are recognized by names in the compiled program, which a new version of JAX may write differently."""
    root = Path(__file__).parents[1]
    options = ["--scene", "demo", "--warmup", "1", "--gaussians", "300", "--rounds", "1", "--steps", "2"]
    command = [
        sys.executable,
        str(root / "experiments/profile_step.py"),
        *options,
        "--json",
        str(tmp_path / "out.json"),
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    result = json.loads((tmp_path / "out.json").read_text())
    assert result == json.loads(output.splitlines()[0])
    assert (result["gaussians"], result["slots"]) == (300, 300)
    phases = ("render backward", "render forward", "loss", "optimizer", "statistics", "density control", "iteration")
    assert all(result["here"][phase] > 0 for phase in phases)
    assert result["here"]["other"] < 0.5 * result["here"]["iteration"]
    assert [line.split("|")[1].strip() for line in output.splitlines()[3:]] == list(result["here"])


def test_guidance_is_timed_part_by_part(tmp_path):
    script = Path(__file__).parents[1] / "experiments/time_guidance.py"
    options = ["--tiny", "--cpu", "--repeats", "1", "--parts", "encode", "gradient of SDS"]
    command = [sys.executable, str(script), *options, "--json", str(tmp_path / "out.json")]
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compilation is what takes time here
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600, env=environment).stdout
    result = json.loads((tmp_path / "out.json").read_text())
    assert result == json.loads(output.splitlines()[0])
    assert [row["part"] for row in result["rows"]] == ["encode", "gradient of SDS"]
    assert result["weights"] == "random, tiny" and 0 < result["weights_gb"]["float32"] < 0.01
    for row in result["rows"]:
        assert 0 < row["seconds_min"] <= row["seconds_median"] and row["processor_seconds"] > 0
        assert row["temporary_gb"] < row["peak_gb"] < 10
    assert output.splitlines()[3].startswith("| encode | ")


def test_every_script_finds_what_it_imports():
    folder = Path(__file__).parents[1] / "experiments"
    names = sorted(path.stem for path in folder.glob("*.py"))
    assert len(names) > 20
    program = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "diffusers", "transformers"):
            raise
"""
    command = [sys.executable, "-c", program, *names]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
