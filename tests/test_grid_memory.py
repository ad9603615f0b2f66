"""Memory of batches: what is free, what one takes whatever was taken before it, and what is predicted for devices."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
from grid.memory import MemoryWatch, free_memory

EXPERIMENTS = sys.path.pop(0)

linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux lets a peak begin anew")


def run(program, *arguments, **environment):
    """What a Python program prints that can import the grid."""
    path = os.pathsep.join([EXPERIMENTS, *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"} | environment
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()


def test_some_memory_is_free():
    assert 2**20 < free_memory() < 2**50


COUNTED = """
import numpy
from grid.memory import MemoryWatch

numpy.zeros(2**24).fill(1.0)  # 128 MiB that are given back
watch = MemoryWatch()
print(watch.taken_mib() or 0)
numpy.zeros(2**23).fill(1.0)
print(watch.taken_mib())
"""
# In a process of its own, as below: threads of other tests may take memory at any time.


@linux
def test_memory_is_counted_from_when_it_is_watched():
    before, taken = map(int, run(COUNTED))
    assert before < 16 and 60 <= taken < 80


@linux
def test_what_the_program_took_that_started_this_one_is_not_counted():
    large = np.ones(2**26)  # 512 MiB, more than the other program takes
    program = "import numpy; from grid.memory import MemoryWatch; watch = MemoryWatch(); numpy.zeros(2**23).fill(1.0); "
    (taken,) = run(program + "print(watch.taken_mib())")
    assert 60 <= int(taken) < 80 and large[-1] == 1


HIDDEN = """
import numpy
from pathlib import Path
from grid.memory import MemoryWatch

def refuse(path, text):
    raise PermissionError(13, "Permission denied", str(path))

numpy.zeros(2**24).fill(1.0)  # 128 MiB
Path.write_text = refuse
watch = MemoryWatch()
numpy.zeros(2**22).fill(1.0)
print(watch.taken_mib())
numpy.zeros(2**25).fill(1.0)
print(watch.taken_mib())
"""


@linux
def test_an_earlier_peak_that_stands_hides_what_is_smaller():
    smaller, larger = run(HIDDEN)
    assert smaller == "None" and 240 <= int(larger) < 280


def test_a_gpu_tells_the_peak_of_the_whole_process(monkeypatch):
    statistics = {"bytes_in_use": 100 << 20, "peak_bytes_in_use": 700 << 20}
    gpu = SimpleNamespace(platform="gpu", memory_stats=lambda: statistics)
    monkeypatch.setattr("jax.local_devices", lambda: [gpu])
    watch = MemoryWatch()
    statistics["bytes_in_use"] = 600 << 20
    assert watch.taken_mib() is None  # the 700 MiB were there before
    statistics["peak_bytes_in_use"] = 900 << 20
    assert watch.taken_mib() == 800
    gpu.memory_stats = lambda: None
    assert MemoryWatch().taken_mib() is None


PREDICTED = """
import sys
sys.path[:0] = sys.argv[1:]
import jax
from conftest import make_toy
from test_batch import CONFIG
from ipsm_jax.training.batch import Given, shared, stack_states
from ipsm_jax.training.batch_loop import predicted_bytes, shares

assert shares(4) == (4, 1)
toy = make_toy()
batch, states = shared(Given(toy.views, None)), toy.states * 2
print(*(predicted_bytes(CONFIG, batch, stack_states(states[:count])) for count in (1, 4)))
jax.default_backend = lambda: "gpu"
print(predicted_bytes(CONFIG, batch, stack_states(states)))
"""


def test_devices_of_a_cpu_share_the_memory_of_the_host():
    """On the CPU each of four devices with one run takes what a single run does, and all of it is the host's."""
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    one, four, of_device = map(int, run(PREDICTED, Path(__file__).parent / "training", **environment))
    assert four == 4 * of_device and 0.8 * one < of_device < 1.2 * one
