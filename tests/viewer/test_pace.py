"""Sizes of frames that keep a viewer quick."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsm_jax.viewer.pace import GRAIN, MEMORY, SMALLEST, Pace, frame_sizes

SIZES = frame_sizes(1280, 720, 1600)


def area(size):
    return size[0] * size[1]


def test_sizes_of_a_usual_window():
    assert SIZES == [(160, 96), (224, 128), (320, 176), (448, 256), (640, 352), (912, 512), (1280, 720)]
    assert frame_sizes(3840, 2160, 1600)[-1] == (1600, 896)


@given(st.integers(1, 1 << 14), st.integers(1, 1 << 14), st.integers(SMALLEST, 4096))
def test_sizes_fit_the_window_and_the_limit(width, height, largest):
    sizes = frame_sizes(width, height, largest)
    assert sizes == sorted(sizes, key=area) and len(set(sizes)) == len(sizes)
    for size in sizes:
        assert all(side >= GRAIN and side % GRAIN == 0 for side in size)
        assert max(size) <= largest + GRAIN / 2
        assert all(side <= whole + GRAIN for side, whole in zip(size, (width, height), strict=True))
    assert min(map(max, sizes)) <= 2 * SMALLEST
    if max(width, height) <= largest:
        assert all(abs(side - whole) < GRAIN for side, whole in zip(sizes[-1], (width, height), strict=True))


@given(st.floats(0, 0.3), st.floats(1e-9, 1e-6), st.floats(0.02, 1))
def test_what_a_frame_costs_is_learned_from_two_sizes(fixed, per_pixel, budget):
    """A machine that takes a constant time and some for each pixel; the oracle knows both."""

    def takes(size):
        return fixed + per_pixel * area(size)

    pace = Pace()
    for size in (SIZES[0], SIZES[-1]):
        pace.record(size, takes(size))
    for size in SIZES:
        assert pace.expected(size) == pytest.approx(takes(size))
    chosen = pace.choose(SIZES, budget)
    affordable = [size for size in SIZES if takes(size) <= budget * (1 - 1e-9)]
    assert chosen in ({affordable[-1]} if affordable else {SIZES[0]}) or takes(chosen) == pytest.approx(budget)


def test_a_slow_machine_gets_the_smallest_while_moving_and_a_limited_one_at_rest():
    pace = Pace()
    for _ in range(5):
        pace.record(SIZES[0], 0.8)
        pace.record(SIZES[2], 1.2)
    assert pace.choose(SIZES, 0.1) == SIZES[0]
    assert SIZES[2] == pace.choose(SIZES, 1.5)  # the next size might take twice as long


def test_unknown_sizes_beyond_the_known_are_taken_for_proportional():
    pace = Pace()
    pace.record((320, 176), 0.1)
    assert pace.expected((640, 352)) == pytest.approx(0.4)
    assert pace.expected((160, 96)) == pytest.approx(0.1)


def test_before_the_first_frame_a_small_window_is_drawn_whole():
    assert Pace().choose(frame_sizes(400, 300, 1600), 0.1) == (400, 304)
    assert area(Pace().choose(frame_sizes(4000, 3000, 8000), 0.1)) < area((1000, 1000))


def test_old_times_are_forgotten():
    pace = Pace()
    pace.record(SIZES[3], 9.0)  # once, the machine was busy
    for _ in range(MEMORY + 1):
        pace.record(SIZES[0], 0.01)
    assert pace.choose(SIZES, 0.1) == SIZES[3]
