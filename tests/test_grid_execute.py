"""Batches of a grid leave what single trainings leave in the log, and fail a run that has no Gaussian left."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_grid import options_for, write_scenes

from ipsm_jax.train import main
from ipsm_jax.trained import limit_note
from ipsm_jax.training.recorder import read_log

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
from grid.execute import train_ready
from grid.ledger import Ledger
from grid.packing import Loader
from grid.plan import expand
from grid.tables import comma_separated

sys.path.pop(0)

LONGER = ["--iterations", "30", "--prune-from", "15", "--prune-interval", "10", "--checkpoint-every", "8"]
LONGER += ["--log-every", "10", "--gradient-threshold", "1e-5", "--prune-opacity", "0.85"]
COUNTS = ["cloned", "split", "unpooled", "pruned", "refused"]
pytestmark = pytest.mark.usefixtures("own_caches", "compiled_quickly")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"))


def train_grid(runs, change=lambda ready: ready):
    """Train all of them in one batch, from what `change` makes of them; returns those that were finished."""
    ledger, loader = Ledger(runs[0].folder.parent), Loader(lambda sentence: None)
    with ledger.locked():
        for run in runs:
            ledger.plan(run)
        done = train_ready([change(loader.ready(run)) for run in runs], ledger, 0, lambda sentence: None)
        return done, ledger.entries()


def test_the_log_is_that_of_a_single_training(scenes, tmp_path):
    options = [*options_for(scenes), *LONGER, "--max-gaussians", "72"]
    runs = expand([str(scenes / "one")], {"base": []}, range(2), options, None, tmp_path / "grid")
    train_grid(runs)
    for seed, run in enumerate(runs):
        single = ["--scene", str(scenes / "one"), "--seed", str(seed), "--out", str(tmp_path), "--name", f"seed{seed}"]
        assert main([*single, "--no-video", *options]) == 0
        lines, expected = read_log(run.folder), read_log(tmp_path / f"seed{seed}")
        for line, other in zip(lines, expected, strict=True):
            exact = ["iteration", "gaussians", *COUNTS]
            assert {name: line.get(name) for name in exact} == {name: other.get(name) for name in exact}
            assert line.keys() == other.keys()
            np.testing.assert_allclose([line["loss"], line["psnr"]], [other["loss"], other["psnr"]], rtol=1e-3)
        # Density control follows every fifth iteration; checkpoints at 8, 16 and 24 have lines of their own.
        assert [line["iteration"] for line in lines if "cloned" in line] == [8, 10, 16, 20, 30]
        assert sum(line.get("pruned", 0) for line in lines) > 0 and lines[-1]["gaussians"] <= 72
        assert limit_note(run.folder) == limit_note(tmp_path / f"seed{seed}") is not None


def test_a_run_without_gaussians_fails_and_the_others_go_on(scenes, tmp_path):
    """Opacities of one run are so low at the start that all of it is pruned."""
    options = [*options_for(scenes), "--prune-from", "10", "--prune-interval", "10", "--prune-opacity", "0.01"]
    runs = expand([str(scenes / "one")], {"base": []}, range(3), options, None, tmp_path)

    def faint(ready):
        if ready.config.seed != 1:
            return ready
        gaussians = ready.start.gaussians
        faint = gaussians._replace(opacity_logits=jnp.full_like(gaussians.opacity_logits, -9.0))
        return ready._replace(start=ready.start._replace(gaussians=faint))

    done, entries = train_grid(runs, faint)
    assert [ready.config.seed for ready in done] == [0, 2]
    assert [entry.state for entry in entries] == ["finished", "failed", "finished"]
    assert "all Gaussians of run 1 of the batch were pruned between iterations" in entries[1].error
    assert all(entries[run].facts["gaussians"] > 0 for run in (0, 2))
    assert (runs[0].folder / "point_cloud.ply").exists() and not (runs[1].folder / "point_cloud.ply").exists()


def test_what_a_batch_took_can_be_unknown(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("grid.execute.MemoryWatch.taken_mib", lambda watch: None)
    runs = expand([str(scenes / "one")], {"base": []}, range(1), options_for(scenes), None, tmp_path)
    (entry,) = train_grid(runs)[1]
    assert entry.state == "finished" and entry.facts["taken_mib"] is None
    head, row = (line.split(",") for line in comma_separated([entry]).splitlines())
    assert row[head.index("taken_mib")] == "" and int(row[head.index("gaussians")]) > 0
