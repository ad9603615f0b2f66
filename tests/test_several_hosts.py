"""Grids on several processes: the same results as in one, whoever is killed, and a word on what went wrong."""

import contextlib
import importlib.util
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from tiny_grid import run_grid, write_scenes

from ipsm_jax.training.recorder import read_log

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
from grid.cluster import ClusterError, find_slots
from grid.hosts import deal, smallest_share
from grid.ledger import Ledger
from grid.packing import Work

sys.path.pop(0)

MANY = ["--iterations", "300", "--checkpoint-every", "20", "--density-interval", "100", "--evaluate"]
"""So many that a process can be killed in the middle."""
pytestmark = pytest.mark.usefixtures("own_caches")


@pytest.fixture(autouse=True, scope="module")
def programs_compiled_quickly():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def alone(scenes, tmp_path_factory, own_caches, programs_compiled_quickly):
    """The grid in one process, undisturbed, in batches as two processes would choose them."""
    out = tmp_path_factory.mktemp("alone")
    program = run_grid(scenes, out, *MANY, grid=["--most", "2"])
    text = program.communicate(timeout=500)[0]
    assert program.returncode == 0, text
    return out


def assert_same(out, alone):
    """Run folders are equal bit for bit, but for where they are, and the ledger knows all of them."""
    folders = sorted(alone.glob("*-base-*"))
    assert len(folders) == 4 and {folder.name for folder in folders} == {path.name for path in out.glob("*-base-*")}
    for folder in folders:
        other = out / folder.name
        for name in ("point_cloud.ply", "metrics.json"):
            assert (folder / name).read_bytes() == (other / name).read_bytes(), name
        checkpoints = [{path.name: arrays(path) for path in (f / "checkpoints").iterdir()} for f in (folder, other)]
        assert checkpoints[0] == checkpoints[1] and "000300.safetensors" in checkpoints[0]
    entries, expected = ({entry.hash: entry for entry in Ledger(root).entries()} for root in (out, alone))
    assert entries.keys() == expected.keys() and {entry.state for entry in entries.values()} == {"finished"}
    for name, entry in entries.items():
        assert entry.metrics == expected[name].metrics and entry.metrics["psnr"] > 5
        assert entry.environment["seed"] == entry.seed and len(entry.environment["devices"]) == 1
        assert entry.facts["gaussians"] == expected[name].facts["gaussians"]


def arrays(path):
    """What follows the header of a safetensors file, which names the run folder."""
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def wait_for_checkpoint(out, iteration, programs):
    while not list(out.glob(f"two-*/checkpoints/{iteration:06d}.safetensors")):
        for program in programs:
            assert program.poll() is None, program.communicate()[0]
        time.sleep(0.02)


def start_two(scenes, out, *more, seeds=(2, 2), lost_after=15):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    shared = ["--coordinator", address, "--processes", "2", "--lost-after", str(lost_after)]
    return [
        run_grid(scenes, out, *more, grid=[*shared, "--process", str(i)], seeds=count) for i, count in enumerate(seeds)
    ]


def end(programs):
    """Exit codes and outputs."""
    texts = [program.communicate(timeout=300)[0] for program in programs]
    return [program.returncode for program in programs], texts


def test_two_processes_train_what_one_does(scenes, tmp_path, alone):
    codes, texts = end(start_two(scenes, tmp_path, *MANY))
    assert codes == [0, 0], texts
    assert "batch 2, predicted" in texts[0]
    assert_same(tmp_path, alone)


def test_a_grid_goes_on_after_a_process_was_killed(scenes, tmp_path, alone):
    programs = start_two(scenes, tmp_path, *MANY, lost_after=8)
    wait_for_checkpoint(tmp_path, 40, programs)
    programs[1].send_signal(signal.SIGKILL)
    (code, killed), (text, _) = end(programs)
    assert (code, killed) == (1, -9)
    assert "process 1 has not been heard of for 8 s, so the grid ends. Start all processes with the same" in text
    newest = max(path.stem for path in tmp_path.glob("two-*/checkpoints/*"))
    assert "000040" <= newest < "000300"
    codes, texts = end(start_two(scenes, tmp_path, *MANY))
    assert codes == [0, 0] and "going on after iteration" in "".join(texts), texts
    assert_same(tmp_path, alone)


def test_an_error_of_one_process_ends_the_grid_after_the_others_have_done_their_share(scenes, tmp_path):
    codes, (first, second) = end(start_two(scenes, tmp_path, seeds=(2, 1)))
    assert codes[0] == 2 and codes[1] != 0
    for text in (first, second):
        assert re.search(r"process 0 speaks of unknown runs \['[0-9a-f]{16}'\]: start all with the same command", text)
    states = {(entry.scene[-3:], entry.state) for entry in Ledger(tmp_path).entries()}
    assert states == {("one", "finished"), ("two", "planned")}


def test_what_is_missing_to_come_together_is_said(scenes, tmp_path):
    program = run_grid(scenes, tmp_path, grid=["--coordinator", "auto"])
    text = program.communicate(timeout=100)[0]
    assert program.returncode == 2 and "the processes do not come together at auto" in text
    program = run_grid(scenes, tmp_path, grid=["--coordinator", "127.0.0.1:1"])
    assert "--coordinator HOST:PORT needs --processes and --process" in program.communicate(timeout=100)[0]


def test_work_and_memory_are_shared_evenly():
    works = [Work([None] * runs, 0) for runs in (1, 2, 3, 1, 1)]
    assert [[len(work.batch) for work in share] for share in deal(works, 2)] == [[3, 1], [2, 1, 1]]
    assert deal([], 2) == [[], []]
    assert smallest_share([("a", "cpu", 80), ("a", "cpu", 90), ("b", "cpu", 60)]) == 40
    assert smallest_share([("a", "gpu", 80), ("a", "gpu", 90)]) == 80


def test_a_batch_gets_a_gpu_or_the_cores_of_a_node():
    nodes = [{"CPU": 8.0, "memory": 1.0}, {"CPU": 16.0, "GPU": 4.0}, {"memory": 1.0}]
    assert find_slots(nodes, None) == ({"num_cpus": 1, "num_gpus": 1}, 4, 4)
    assert find_slots(nodes, 8) == ({"num_cpus": 8, "num_gpus": 1}, 2, 2)
    assert find_slots(nodes[:1], None) == ({"num_cpus": 8, "num_gpus": 0}, 1, 1)
    assert find_slots([*nodes[:1], {"CPU": 4.0}], 4) == ({"num_cpus": 4, "num_gpus": 0}, 3, 2)
    with pytest.raises(ClusterError, match="no node of the cluster has 32 CPUs and 1 GPUs"):
        find_slots(nodes, 32)


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the workers in /proc")
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='Ray is not installed: pip install ".[cluster]"')
def test_ray_does_again_what_killed_workers_were_at(scenes, tmp_path, alone):
    program = run_grid(scenes, tmp_path, *MANY, grid=["--ray", "local", "--cpus", "1"])
    wait_for_checkpoint(tmp_path, 40, [program])
    killed = [worker for worker in tasks() if program.pid in ancestors(worker)]
    for worker in killed:
        os.kill(worker, signal.SIGKILL)
    assert killed
    reached = [path.parents[1] for path in tmp_path.glob("two-*/checkpoints/000040.safetensors")]
    before = {folder: log_until(folder, 20) for folder in reached}
    assert max(path.stem for path in tmp_path.glob("two-*/checkpoints/*")) < "000300"
    text = program.communicate(timeout=300)[0]
    assert program.returncode == 0, text
    assert_same(tmp_path, alone)
    assert all(lines and lines == log_until(folder, 20) for folder, lines in before.items())  # not done again


def tasks():
    """Processes that train for Ray, which gives them this title."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            found += [int(path.parent.name)] if path.read_bytes().startswith(b"ray::train_task") else []
    return found


def ancestors(process):
    while process > 1:
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        yield process


def log_until(folder, iteration):
    """Lines of a run's log, each with the seconds it took."""
    return [line for line in read_log(folder) if line["iteration"] <= iteration]
