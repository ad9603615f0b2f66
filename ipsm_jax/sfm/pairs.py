"""Which pairs of photos are compared: all of a folder's, and of a video's those near in time and some further apart.

The pairs of N photos grow as N squared, and comparing them is most of the work.
"""

from __future__ import annotations

import itertools

NEIGHBORS = 6  # frames of a video, in one direction, that are certain to show the same things

Pairs = list[tuple[int, int]]


def all_pairs(count: int) -> Pairs:
    """Every pair (i, j), i < j, of `count` photos: nothing is known about their order."""
    return list(itertools.combinations(range(count), 2))


def sequence_pairs(count: int) -> Pairs:
    """Pairs of `count` frames of a video that are at most 6, or a power of two, apart: about count x log2(count).

    Neighbors place each frame; pairs at growing distances keep small errors from adding up along the way, and find
    places that the camera comes back to.
    """
    powers = {1 << k for k in range(count.bit_length())}
    return [(a, b) for a, b in all_pairs(count) if b - a <= NEIGHBORS or b - a in powers]
