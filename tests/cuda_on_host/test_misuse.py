"""What CUDA leaves undefined ends in an error that says which thread did what where, and the next launch is right."""

import re

import numpy as np
import pytest
from cuda_on_host.build import HERE
from cuda_on_host.examples import call, error_of, library

SOURCE = (HERE / "mistakes.cuh").read_text()
BLOCK = r"block \(\d,0,0\): "
WAITS = r"thread \(\d+,0,0\) waits"
PLACE = r"at \S*mistakes\.cuh:\d+"

# In the order of the enumeration in mistakes.cuh.
EXPECTED = {
    "kTwoBarriers": f"barrier divergence: thread .* waits in __syncthreads {PLACE}, thread .* in __syncthreads {PLACE}",
    "kTwoKindsOfBarrier": f"barrier divergence: thread .* waits in __syncthreads(_or)? {PLACE}, thread .*",
    "kLaneAtBarrier": rf"{WAITS} in __ballot_sync with mask 0xffffffff {PLACE} for lane 5 .* in __syncthreads {PLACE}",
    "kTwoKindsOfVote": rf"{WAITS} in __any_sync with mask 0xffffffff {PLACE} for lane 5 .* in __all_sync .*",
    "kTwoMasks": rf"{WAITS} in __syncwarp with mask 0xffffffff {PLACE} for lane 6 .* with mask 0x00000060 {PLACE}",
    "kTwoSizes": rf"{WAITS} in __shfl_sync with mask .* {PLACE} for lane 5 .* on 8 bytes {PLACE}",
    "kReadsExitedLane": rf"thread \(4,0,0\) reads lane 5, which does not take part, in __shfl_down_sync .* {PLACE}",
    "kReadsExcludedLane": rf"thread .* reads lane \d+, which does not take part, in __shfl_xor_sync .* {PLACE}",
    "kMaskWithoutItself": rf"thread \(5,0,0\): __any_sync with mask 0xffffffdf {PLACE} leaves out its own lane 5",
    "kOddWidth": f"thread .*: __shfl_sync .* {PLACE} has width 12, not a power of 2 up to 32",
    "kThrows": r"thread \(5,0,0\) threw an exception: no such element",
    "kLaunches": "thread .* threw an exception: a kernel is launched while one runs: by a kernel, or by two threads .*",
}


def test_every_mistake_is_expected_here():
    listed = re.search(r"enum Refused \{(.*?)kRefusedCount", SOURCE, re.DOTALL)
    assert listed is not None
    assert re.findall(r"\b(k\w+),", listed[1]) == list(EXPECTED)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("name", EXPECTED)
def test_refused(name, order):
    library().cuda_on_host_set_order(order)
    message = error_of("refused", list(EXPECTED).index(name))
    library().cuda_on_host_set_order(0)
    assert message is not None
    assert re.fullmatch(BLOCK + EXPECTED[name], message), message
    assert library().alive() == 0  # all threads have unwound
    values, total = np.arange(500, dtype=np.int32), np.zeros(1, np.int32)
    call("block_sum", values, 500, total)
    assert total[0] == values.sum()


@pytest.mark.parametrize("grid", [(0, 1, 1), (1, 65536, 1), (2**31, 1, 1)])
def test_impossible_grid(grid):
    message = error_of("coordinates", np.array(grid, np.uint32), np.ones(3, np.uint32), np.zeros(1, np.int32))
    assert message is not None and message.startswith(f"a grid of ({grid[0]},{grid[1]},{grid[2]}) blocks: ")


@pytest.mark.parametrize("block", [(1025, 1, 1), (64, 64, 1), (1, 1, 65), (32, 0, 1)])
def test_impossible_block(block):
    message = error_of("coordinates", np.ones(3, np.uint32), np.array(block, np.uint32), np.zeros(1, np.int32))
    assert message is not None and message.startswith(f"a block of ({block[0]},{block[1]},{block[2]}) threads: ")


def test_a_barrier_outside_of_a_kernel():
    assert error_of("barrier_outside_of_kernel") == "a barrier, vote or shuffle outside of a kernel"
