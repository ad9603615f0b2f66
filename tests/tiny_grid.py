"""Grids of trainings that take a moment: two scenes of a few pixels, a start of a few Gaussians, a dozen iterations."""

import subprocess
import sys
from pathlib import Path

from tiny_run import tiny_gaussians, write_scene

from ipsm_jax.data.ply import write_gaussians_ply

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
FEW = ["--iterations", "12", "--downscale", "1", "--capacity", "64", "--density-from", "5", "--density-interval", "5"]
FEW += ["--checkpoint-every", "4", "--no-evaluate"]


def write_scenes(folder):
    """Scenes `one` and `two`, and `blobs.ply` to start from; returns the folder."""
    for name in ("one", "two"):
        write_scene(folder / name)
    write_gaussians_ply(folder / "blobs.ply", *tiny_gaussians())
    return folder


def options_for(scenes):
    """For every training."""
    return [*FEW, "--init", str(scenes / "blobs.ply")]


def run_grid(scenes, out, *more, grid=(), seeds=2, **options):
    """Start a grid of both scenes: `grid` are options of its own, `more` those of the trainings."""
    command = [sys.executable, str(EXPERIMENTS / "run_grid.py"), "--scenes", str(scenes / "one"), str(scenes / "two")]
    command += ["--seeds", str(seeds), "--out", str(out), *grid, "--", *options_for(scenes), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
