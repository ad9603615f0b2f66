"""Kernels on the emulation compute what CUDA's programming guide says they do, in whatever order threads run."""

import hypothesis.strategies as st
import numpy as np
import pytest
from cuda_on_host.examples import call, library
from hypothesis import given, settings

ORDERS = (0, 1, 2)  # ascending; shuffled with blocks backwards; shuffled with blocks forwards
LANES = np.arange(32)


@pytest.fixture(params=ORDERS, autouse=True)
def order(request):
    library().cuda_on_host_set_order(request.param)
    yield request.param
    library().cuda_on_host_set_order(0)


def ints(count, low=-1000, high=1000, seed=0):
    return np.random.default_rng(seed).integers(low, high, count, dtype=np.int32)


@pytest.mark.parametrize("count", [1, 127, 128, 1000])
def test_sum_over_blocks(count):
    values, total = ints(count), np.array([5], np.int32)
    call("block_sum", values, count, total)
    assert total[0] == 5 + values.sum()


def source_lane(kind, lane, argument, width):
    """Which lane is read, in the words of the guide; its own where the guide says that the value stays."""
    first = lane // width * width
    if kind == "i":
        return first + argument % width
    if kind == "u":
        return lane - argument if lane - argument >= first else lane
    if kind == "d":
        return lane + argument if lane + argument < first + width else lane
    return lane ^ argument if lane ^ argument < first + width else lane


@settings(max_examples=60)
@given(
    kind=st.sampled_from("iudx"),
    arguments=st.lists(st.integers(0, 31), min_size=32, max_size=32),
    width=st.sampled_from([1, 2, 4, 8, 16, 32]),
    mask=st.just(0xFFFFFFFF) | st.integers(1, 0xFFFFFFFF),
    dtype=st.sampled_from(["int", "double"]),
)
def test_shuffles(kind, arguments, width, mask, dtype):
    taking_part = mask >> LANES & 1 == 1
    # A lane must not read one that stays away; those whose argument would do so read themselves instead.
    arguments = np.array(arguments, np.int32)
    sources = np.array([source_lane(kind, lane, arguments[lane], width) for lane in LANES])
    astray = ~taking_part[sources]
    arguments[astray] = LANES[astray] % width if kind == "i" else 0
    sources[astray] = LANES[astray]
    values = np.random.default_rng(mask).integers(-(2**31), 2**31, 32).astype({"int": np.int32, "double": float}[dtype])
    if dtype == "double":
        values += 2.0**-20  # not in 32 bits
    got = np.zeros_like(values)
    call(f"shuffle_{dtype}", kind, mask, arguments, width, values, got)
    np.testing.assert_array_equal(got, np.where(taking_part, values[sources], 0))


@pytest.mark.parametrize("argument", [-1, 32, 45])
def test_a_lane_number_beyond_the_width_wraps(argument):
    values, got = ints(32), np.zeros(32, np.int32)
    call("shuffle_int", "i", 0xFFFFFFFF, np.full(32, argument, np.int32), 8, values, got)
    np.testing.assert_array_equal(got, values[LANES // 8 * 8 + argument % 8])


@settings(max_examples=30)
@given(st.lists(st.integers(-1, 1), min_size=1, max_size=100))
def test_votes_count_those_that_have_not_exited(values):
    values = np.array(values, np.int32)
    got = np.full((len(values), 6), -7, np.int32)
    call("votes", values, len(values), got)
    expected = np.full_like(got, -7)
    staying = values >= 0
    for i in np.flatnonzero(staying):
        lanes = np.arange(i // 32 * 32, min(i // 32 * 32 + 32, len(values)))
        positive, there = values[lanes] > 0, staying[lanes]
        ballot = np.uint32(sum(1 << int(lane) for lane in lanes[positive] % 32)).view(np.int32)
        whole = values[staying] > 0
        expected[i] = ballot, positive.any(), positive[there].all(), whole.sum(), whole.any(), whole.all()
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("count", [1, 20, 100])
def test_items_streaming_through_a_warp(count):
    rng = np.random.default_rng(1)
    items, scale, shift = (rng.integers(0, 2**32, n, dtype=np.uint32) for n in (count, 32, 32))
    got, seen = np.zeros(count, np.uint32), np.zeros(32, np.uint32)
    call("pipeline", items, count, scale, shift, got, seen)
    expected = items.copy()
    for lane in LANES:
        assert seen[lane] == expected.sum(dtype=np.uint32), lane
        expected = expected * scale[lane] + shift[lane]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("grid", "block"), [((1, 1, 1), (1024, 1, 1)), ((3, 2, 4), (5, 7, 3)), ((2, 1, 1), (1, 1, 64))]
)
def test_each_thread_runs_once(grid, block):
    blocks, threads = int(np.prod(grid)), int(np.prod(block))
    got = np.zeros((blocks, threads), np.int32)
    call("coordinates", np.array(grid, np.uint32), np.array(block, np.uint32), got)
    np.testing.assert_array_equal(got, np.broadcast_to(1 + np.arange(threads), got.shape))


def test_atomics():
    values = ints(3 * 50)
    integers = np.array([0, 9999, -9999, 0, -1, 0, -1], np.int32)
    unsigned = np.array([0, 2**32 - 1, 0], np.uint32)
    floats = np.array([0, -0.5], np.float32)
    tickets = np.full(150, -1, np.int32)
    call("atomics", 3, 50, values, integers, unsigned, floats, tickets)
    either, both = np.bitwise_or.reduce(values), np.bitwise_and.reduce(values)
    assert integers[:6].tolist() == [150, values.min(), values.max(), either, both, 1]
    assert 0 <= integers[6] < 150
    as_unsigned = values.view(np.uint32)
    assert unsigned.tolist() == [as_unsigned.sum(dtype=np.uint32), as_unsigned.min(), as_unsigned.max()]
    assert floats[0] == values.sum()
    assert floats[1] in values
    np.testing.assert_array_equal(np.sort(tickets), np.arange(150))


@pytest.mark.parametrize(("lower", "upper"), [(3, 3), (0, 5), (20, 1)])
def test_halves_of_a_warp_on_their_own(lower, upper):
    values, got = ints(32), np.zeros(32, np.int32)
    call("halves", lower, upper, values, got)
    rotated = np.concatenate([np.roll(values[:16], -lower), np.roll(values[16:], -upper)])
    np.testing.assert_array_equal(got, rotated[LANES ^ 16])


def test_lanes_meet_in_a_shuffle_that_they_reach_on_two_ways():
    values, got = ints(32), np.zeros(32, np.int32)
    call("two_ways", values, got)
    np.testing.assert_array_equal(got, values[LANES ^ 1] * np.where(LANES % 2 == 0, 1, -1))


@pytest.mark.parametrize("rounds", [1, 7, 33])
def test_syncwarp_separates_writing_from_reading(rounds):
    values, got = ints(32), np.zeros(32, np.int32)
    call("neighbors", values, got, rounds)
    np.testing.assert_array_equal(got, np.roll(values, -rounds))


@pytest.mark.parametrize(("threads", "staying"), [(64, 64), (100, 70), (1024, 33), (40, 0)])
def test_a_barrier_waits_for_those_that_have_not_exited(threads, staying):
    values = ints(threads)
    got = values.copy()
    call("reverse", got, threads, staying)
    np.testing.assert_array_equal(got, np.concatenate([values[:staying][::-1], values[staying:]]))


def test_functions_on_bits():
    values = np.concatenate([ints(80, -(2**31), 2**31 - 1), [0, 1, -1, 2**31 - 1, -(2**31), 6, 7, 8]]).astype(np.int32)
    got = np.zeros((len(values), 5), np.int32)
    call("bits", values, len(values), got)
    for value, (ones, first, zeros, same, least) in zip(values.tolist(), got.tolist(), strict=True):
        digits = format(value % 2**32, "032b")
        assert ones == digits.count("1")
        assert first == (32 - digits.rindex("1") if value else 0)
        assert zeros == (digits.index("1") if value else 32)
        assert same == value
        assert least == min(value, 7)


def test_a_race_shows_in_some_order(order):
    values = np.arange(64, dtype=np.float32)
    call("reverse_without_barrier", values)
    # Each thread reads NaN, unless its partner came first; in ascending order the lower half comes too early.
    right = values == np.arange(64)[::-1]
    assert not right.all()
    if order == 0:
        np.testing.assert_array_equal(right, np.arange(64) >= 32)
