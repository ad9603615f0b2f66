"""Grids: what counts as the same run, what trains together, what is done again, and what a kill costs."""

import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_grid import options_for, run_grid, write_scenes

from ipsm_jax.training.checkpoint import load_run

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
from grid.ledger import Ledger, LedgerError
from grid.packing import Loader, divide, pack, plan_work, together
from grid.plan import expand

from ipsm_jax.training.batch_loop import predicted_bytes

sys.path.pop(0)


@pytest.fixture(autouse=True, scope="module")
def programs_compiled_quickly(compiled_quickly):
    """Here and in the programs that the tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        yield


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"))


def plan(scenes, out, names=("one", "two"), methods=None, seeds=(0, 1), more=()):
    options = [*options_for(scenes), "--max-gaussians", "64", *more]
    return expand([str(scenes / name) for name in names], methods or {"base": []}, seeds, options, None, out)


def test_a_run_is_known_by_what_decides_its_result(scenes, tmp_path):
    runs = plan(scenes, tmp_path, methods={"base": [], "dropout": ["--dropout", "0.2"]})
    assert len({run.hash for run in runs}) == len({run.folder for run in runs}) == 8
    moved = plan(scenes, tmp_path / "elsewhere", methods={"base": [], "dropout": ["--dropout", "0.2"]})
    assert [run.hash for run in moved] == [run.hash for run in runs]
    changed = plan(scenes, tmp_path, more=["--means-lr", "1e-4"])
    assert not {run.hash for run in changed} & {run.hash for run in runs}
    with pytest.raises(ValueError, match="have the same settings"):
        plan(scenes, tmp_path, methods={"base": [], "again": ["--dropout", "0"]})


def test_the_ledger_remembers_and_lets_one_program_write(scenes, tmp_path):
    ledger, (first, second) = Ledger(tmp_path), plan(scenes, tmp_path, names=("one",))
    with pytest.raises(LedgerError, match="there is no ledger in"):
        ledger.entries()
    with ledger.locked():
        other = Ledger(tmp_path).locked()
        with pytest.raises(LedgerError, match=r"another program \(process \d+\) is working on"), other:
            pass
        for run in (first, second):
            ledger.plan(run)
        ledger.change(first, "finished", metrics={"psnr": 20.5}, facts={"gaussians": 40})
        ledger.change(second, "running", environment={"jax": "1"})
        ledger.plan(first)  # planned once more, it is still finished
        with pytest.raises(ValueError, match="a run is planned, running, finished, failed"):
            ledger.change(first, "done")
    one, two = ledger.entries()
    assert (one.state, one.metrics, one.facts, one.seed) == ("finished", {"psnr": 20.5}, {"gaussians": 40}, 0)
    assert (two.state, two.environment, two.metrics, two.config["seed"]) == ("running", {"jax": "1"}, None, 1)
    with ledger.locked():  # whoever was running is not any more
        assert ledger.entries()[1].state == "planned"
        ledger.change(second, "failed", error="no number")
        assert ledger.entries()[1].error == "no number"
        ledger.plan(second)  # to be tried again
        assert ledger.entries()[1].state == "planned"
    ledger.path.write_text("nonsense" * 1000)
    with pytest.raises(LedgerError, match="not a database"):
        ledger.entries()


def test_what_has_equal_settings_and_sizes_trains_together_within_the_memory(scenes, tmp_path):
    methods = {"base": [], "dropout": ["--dropout", "0.2"], "two-views": ["--views", "2"]}
    loader = Loader(lambda sentence: None)
    groups = pack([loader.ready(run) for run in plan(scenes, tmp_path, methods=methods)])
    assert [{ready.run.method for ready in group} for group in groups] == [{"base"}, {"dropout"}, {"two-views"}]
    assert [len({ready.run.scene for ready in group}) for group in groups] == [2, 2, 2]
    group = groups[0]
    batch, states = together(group)
    assert states.gaussians.means.shape == (4, 64, 3)
    needed = predicted_bytes(group[0].config, batch, states)
    assert divide(group, needed) == ([group], needed)
    halves, half = divide(group, needed - 1)
    assert [len(part) for part in halves] == [2, 2] and half < needed
    assert [len(part) for part in divide(group, needed, most=3)[0]] == [2, 2]  # even
    with pytest.raises(MemoryError, match="alone is predicted to take"):
        divide(group, 1000)


def test_what_was_started_together_stays_together_and_the_rest_is_divided_for_all(scenes, tmp_path):
    ledger, loader, said = Ledger(tmp_path), Loader(lambda sentence: None), []
    runs = plan(scenes, tmp_path, names=("one",), seeds=range(6))
    with ledger.locked():
        assert ledger.waiting(runs, said.append) == runs and said.pop() == "6 runs, 0 of them finished before"
        ready = [loader.ready(run) for run in runs]

        def sizes(most, parts):
            works = plan_work(ready, ledger.started(), 2**40, most, parts, said.append)
            return [[one.config.seed for one in work.batch] for work in works]

        assert sizes(None, 2) == [[0, 1, 2], [3, 4, 5]]
        assert len(said) == 2 and "seed5" in said[1]
        assert sizes(None, 9) == sizes(1, 2) == [[seed] for seed in range(6)]
        assert sizes(3, 1) == [[0, 1, 2], [3, 4, 5]]
        for run in runs[1:5]:
            ledger.change(run, "running", facts={"batch": [other.hash for other in runs[1:5]]})
        ledger.change(runs[4], "finished", facts={"gaussians": 40})
        ready.pop(4)
    with ledger.locked():
        assert sizes(None, 2) == [[0], [5], [1, 2, 3]]
        assert sizes(2, 1) == [[0, 5], [1, 2], [3]]


@pytest.mark.usefixtures("own_caches")
def test_a_killed_grid_goes_on_and_ends_as_one_that_was_left_alone(scenes, tmp_path):
    """Density control asks for more than the 64 slots at first, so the capacity of the batch grows as well."""
    whole = run_grid(scenes, tmp_path / "whole")
    text = whole.communicate(timeout=500)[0]
    assert whole.returncode == 0 and "batch 1, predicted" in text and "batch 2" not in text, text
    killed = run_grid(scenes, tmp_path / "killed")
    while not list((tmp_path / "killed").glob("two-*/checkpoints/000004.safetensors")):
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=100)
    again = run_grid(scenes, tmp_path / "killed")
    text = again.communicate(timeout=500)[0]
    assert again.returncode == 0, text
    for folder in sorted((tmp_path / "whole").glob("*-base-*")):
        one, other = (load_run(root / folder.name)[1] for root in (tmp_path / "whole", tmp_path / "killed"))
        assert int(one.step) == int(other.step) == 12
        assert np.asarray(one.gaussians.means).tobytes() == np.asarray(other.gaussians.means).tobytes()
        assert (tmp_path / "killed" / folder.name / "point_cloud.ply").exists()
        log = (tmp_path / "killed" / folder.name / "log.jsonl").read_text().splitlines()
        assert json.loads(log[-1])["iteration"] == 12 and json.loads(log[-1])["loss"] > 0
    entries = Ledger(tmp_path / "killed").entries()
    assert len(entries) == 4 and {entry.state for entry in entries} == {"finished"}
    assert all(entry.facts["runs_in_batch"] == 4 and entry.environment["packages"]["jax"] for entry in entries)
    third = run_grid(scenes, tmp_path / "killed")
    assert "4 runs, 4 of them finished before" in third.communicate(timeout=100)[0]
