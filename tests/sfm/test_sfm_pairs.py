"""Which photos are compared, and which of them are the same."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsm_jax.sfm.matches import Matches
from ipsm_jax.sfm.pairs import NEIGHBORS, all_pairs, sequence_pairs
from ipsm_jax.sfm.photos import Photo
from ipsm_jax.sfm.progress import StageClock, silent, with_forecast
from ipsm_jax.sfm.repeats import repeats


@given(st.integers(3, 300))
def test_a_video_compares_neighbors_and_few_others(count):
    pairs = sequence_pairs(count)
    assert set(pairs) <= set(all_pairs(count)) and len(set(pairs)) == len(pairs)
    assert {(i, j) for i, j in all_pairs(count) if j - i <= NEIGHBORS} <= set(pairs)
    assert len(pairs) <= count * (NEIGHBORS + np.log2(count))
    # Frames that are far apart are few steps from each other, so that errors do not add up along the way.
    apart = {j - i for i, j in pairs}
    assert all(1 << k in apart for k in range(count.bit_length()) if 1 << k < count)


def test_pairs_of_photos_without_order_are_all_there_are():
    assert all_pairs(4) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def photo(width, height):
    return Photo(Path("a.jpg"), "a.jpg", width, height, None, "", width, height)


def known(count, pairs):
    """Matches of photos with 1000 features; pairs maps (a, b) to (shared, moved)."""
    shared, moved = np.zeros((count, count), int), np.full((count, count), np.inf)
    for (a, b), (number, distance) in pairs.items():
        shared[a, b] = shared[b, a] = number
        moved[a, b] = moved[b, a] = distance
    return Matches(np.full(count, 1000), shared, np.zeros((count, count), bool), moved)


@pytest.mark.parametrize(
    ("pairs", "found"),
    [
        ({(0, 1): (900, 0.0002)}, {1: 0}),  # saved again
        ({(0, 1): (900, 0.01)}, {}),  # a step aside
        ({(0, 1): (100, 0.0)}, {}),  # a date in the corner of both
        ({(0, 1): (900, 0.0), (1, 2): (900, 0.0005), (0, 2): (900, 0.0005)}, {1: 0, 2: 0}),
        ({(0, 2): (600, 0.0005)}, {2: 0}),
    ],
)
def test_repeats(pairs, found):
    assert repeats([photo(1600, 1200)] * 3, known(3, pairs)) == found


def test_the_larger_of_two_equal_photos_is_kept():
    photos = [photo(400, 300), photo(1600, 1200), photo(1600, 1200)]
    assert repeats(photos, known(3, {(0, 1): (700, 0.0011)})) == {0: 1}


def test_clock_adds_up_what_each_stage_took(monkeypatch):
    now = iter([0.0, 1.0, 4.0, 5.0, 10.0, 12.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock, told = StageClock(), []
    report = clock.around(lambda *words: told.append(words))
    clock("read", 0, 1)  # at 1
    report("match", 0, 9)  # at 4
    report("match", 3, 9)  # at 5
    clock("place", 0, 1)  # at 10
    assert clock.spent() == "read 3, match 6, place 2"
    assert told == [("match", 0, 9), ("match", 3, 9)]


def test_long_stages_are_announced_once(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    report = with_forecast(silent, said.append)
    for stage, each in (("short", 1.0), ("long", 3.0)):
        for done in range(0, 101, 10):
            report(stage, done, 100)
            now[0] += 10 * each
    assert said == ["long: 10 of 100; about 4 minutes for the others"]  # 270 seconds
