"""The published splits, by their check values and by their definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsm_jax.data.errors import DataError
from ipsm_jax.data.splits import choose_split, is_dtu_scan


@pytest.mark.parametrize(
    ("count", "views", "train"),
    [(20, 3, (1, 10, 19)), (62, 3, (1, 30, 61)), (11, 3, (1, 5, 10)), (20, 1, (1,)), (9, None, tuple(range(1, 8)))],
)
def test_llff_check_values(count, views, train):
    split = choose_split("llff", count, views)
    assert split.train == train
    assert split.test == tuple(range(0, count, 8))


def test_dtu_check_values():
    split = choose_split("auto", 49, 3, name="scan8")
    assert split.train == (25, 22, 28)
    assert split.test == (
        1, 2, 9, 10, 11, 12, 14, 15, 23, 24, 26, 27, 29, 30, 31, 32, 33, 34, 35, 41, 42, 43, 45, 46, 47,
    )  # fmt: skip
    assert choose_split("dtu", 49, 9).train == (25, 22, 28, 40, 44, 48, 0, 8, 13)
    assert choose_split("dtu", 49, 3).test == choose_split("dtu", 49, None).test


@given(st.integers(1, 300), st.integers(1, 50))
def test_llff_training_views_are_never_test_views(count, views):
    try:
        split = choose_split("llff", count, views)
    except DataError:
        assert views > count - len(range(0, count, 8))
        return
    assert len(split.train) == len(set(split.train)) == views
    assert not set(split.train) & set(split.test)
    assert list(split.train) == sorted(split.train)


def test_auto_prefers_own_lists_then_dtu_then_llff():
    listed = {"train": (0, 2, 4, 6), "test": (1, 3)}
    own = choose_split("auto", 49, 2, name="scan8", listed=listed)
    assert (own.train, own.test) == ((0, 6), (1, 3))
    assert choose_split("auto", 49, 3, name="fern") == choose_split("llff", 49, 3)
    assert choose_split("auto", 20, 3, name="scan8") == choose_split("llff", 20, 3)
    assert choose_split("auto", 4, 3) == choose_split("llff", 4, 3)


def test_auto_holds_none_back_where_all_are_asked_for():
    assert choose_split("auto", 3, 3) == choose_split("all", 3, 3)
    assert choose_split("auto", 3, 3).train == (0, 1, 2)
    two = choose_split("auto", 2, 3)
    assert two.train == two.test == (0, 1)
    assert two.rule.startswith("3 training views are asked for and there are 2 photos: all views train")


@pytest.mark.parametrize(
    ("name", "is_scan"),
    [
        ("scan30", True),
        ("Scan_30", True),
        ("dtu_scan8", True),
        ("scan", False),
        ("scan30b", False),
        ("myscan30", False),
    ],
)
def test_scans_of_dtu_are_known_by_name(name, is_scan):
    assert is_dtu_scan(name) == is_scan
    assert choose_split("auto", 49, 3, name=name).name == ("dtu" if is_scan else "llff")


def test_all_holds_none_back():
    split = choose_split("all", 7, 3)
    assert (split.train, split.test) == ((0, 3, 6), (1, 2, 4, 5))
    three = choose_split("all", 3, 3)
    assert three.train == three.test == (0, 1, 2)
    assert "nothing about new views" in three.rule
    assert choose_split("all", 3, None).train == (0, 1, 2)


@pytest.mark.parametrize(
    ("split", "count", "views", "message"),
    [
        ("llff", 3, 3, r"3 training views.*only 2 are left.*3 images.*--split all"),
        ("llff", 20, 0, "at least one training view"),
        ("dtu", 20, 3, "needs the 49 images.*found 20"),
        ("dtu", 49, 10, "1 to 9 training views, got 10"),
        ("listed", 20, 3, "lists no training and test views"),
        ("random", 20, 3, "no split 'random'; choose one of auto, llff"),
    ],
)
def test_impossible_splits(split, count, views, message):
    with pytest.raises(DataError, match=message):
        choose_split(split, count, views)
