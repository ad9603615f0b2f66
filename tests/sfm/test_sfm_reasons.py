"""Why photos were not placed: each cause has its own sentence."""

from pathlib import Path

import numpy as np
import pytest

from ipsm_jax.sfm.mapping import Mapping
from ipsm_jax.sfm.matches import Matches
from ipsm_jax.sfm.photos import Photo
from ipsm_jax.sfm.reasons import why_no_scene, why_not_placed

COUNT = 8


class Placed:
    photos = (0, 1, 2)


@pytest.fixture
def photos():
    return [Photo(Path(f"{i}.jpg"), f"{i}.jpg", 80, 60, None, "A 80x60", 80, 60) for i in range(COUNT)]


def matches(pairs, features=None, turned=()):
    shared, flat = np.zeros((COUNT, COUNT), int), np.zeros((COUNT, COUNT), bool)
    for a, b, count in pairs:
        shared[a, b] = shared[b, a] = count
        flat[a, b] = flat[b, a] = (a, b) in turned
    counts = np.full(COUNT, 3000)
    for i, count in (features or {}).items():
        counts[i] = count
    return Matches(counts, shared, flat, np.where(shared > 0, 0.1, np.inf))


def test_each_photo_that_was_not_placed_has_its_own_reason(photos):
    photos[7] = photos[7]._replace(camera="B 80x60")
    known = matches([(0, 1, 400), (0, 2, 300), (1, 2, 350), (5, 6, 90), (2, 7, 40)], features={3: 20})
    reasons = why_not_placed(photos, known, Mapping(Placed(), ((5, 6),)))
    assert sorted(reasons) == [3, 4, 5, 6, 7]
    assert "only 20 features" in reasons[3]
    assert "no other photo shows enough of the same (3000 features" in reasons[4]
    assert "fits together with 6.jpg" in reasons[5] and "nothing connects" in reasons[5]
    assert "shares 40 matches with 2.jpg" in reasons[7] and "another camera or zoom took it: B 80x60" in reasons[7]
    assert not any("another camera" in reasons[i] for i in (3, 4, 5, 6))


def test_a_pair_that_no_placed_photo_overlaps(photos):
    reasons = why_not_placed(photos, matches([(0, 1, 400), (3, 4, 60)]), Mapping(Placed(), ()))
    assert "overlaps with 4.jpg alone (60 matches)" in reasons[3]


@pytest.mark.parametrize(
    ("pairs", "turned", "message"),
    [
        ([(0, 1, 9)], (), "no two of the 8 photos show enough of the same: the most alike, 0.jpg and 1.jpg, share 9"),
        ([], (), "no two of the 8 photos show enough of the same: none share any matches, and 15 are needed"),
        ([(0, 1, 200), (1, 2, 150)], ((0, 1), (1, 2)), "taken from one place"),
        ([(0, 1, 200)], ((0, 1),), "only 0.jpg and 1.jpg overlap"),
        ([(0, 1, 200), (1, 2, 150)], (), "no three of them agree"),
    ],
)
def test_why_there_is_no_scene(photos, pairs, turned, message):
    assert message in why_no_scene(photos, matches(pairs, turned=turned))
