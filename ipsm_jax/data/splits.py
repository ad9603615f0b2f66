"""Which views train and which test (METHOD section 1).

Indices are positions in the list of names sorted by file name.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from ipsm_jax.data.errors import DataError

SPLITS = ("auto", "llff", "dtu", "listed", "all")
TEST_EVERY = 8
DTU_TRAIN = (25, 22, 28, 40, 44, 48, 0, 8, 13)
DTU_UNUSED = (*range(3, 8), *range(16, 22), *range(36, 40))
DTU_VIEWS = 49


def is_dtu_scan(name: str) -> bool:
    """Whether a scene folder is called like a scan of DTU: scan30, scan_30, dtu_scan30, in any case."""
    return re.fullmatch(r"(dtu_)?scan_?\d+", name, re.IGNORECASE) is not None


class Split(NamedTuple):
    """Training and test views, the name of the split ("auto" resolved), and the rule in words."""

    train: tuple[int, ...]
    test: tuple[int, ...]
    name: str
    rule: str


def spread(candidates: tuple[int, ...], views: int | None) -> tuple[int, ...]:
    """`views` of the candidates, evenly spread: positions round(linspace(0, len - 1, views)), halves to even.

    Raises:
      DataError: if there are fewer candidates, or views < 1.
    """
    if views is None:
        return candidates
    if views < 1:
        raise DataError(f"at least one training view is needed, got views = {views}")
    if views > len(candidates):
        raise DataError(f"{views} training views are asked for, but only {len(candidates)} are left for training")
    return tuple(candidates[round(float(i))] for i in np.linspace(0, len(candidates) - 1, views))


def llff_split(count: int, views: int | None) -> Split:
    """Every eighth view tests, starting with the first; training views are spread over the rest."""
    test = tuple(range(0, count, TEST_EVERY))
    rest = tuple(i for i in range(count) if i % TEST_EVERY)
    return Split(
        spread(rest, views), test, "llff", "every 8th view tests, training views are spread evenly over the rest"
    )


def dtu_split(count: int, views: int | None) -> Split:
    """The fixed views of the DTU protocol; `views` of None means all nine.

    Raises:
      DataError: for fewer than 49 images or more than 9 views.
    """
    if count < DTU_VIEWS:
        raise DataError(f"the dtu split needs the {DTU_VIEWS} images of a DTU scan, found {count}; use --split llff")
    views = len(DTU_TRAIN) if views is None else views
    if not 1 <= views <= len(DTU_TRAIN):
        raise DataError(f"the dtu split has 1 to {len(DTU_TRAIN)} training views, got {views}")
    left_out = {*DTU_TRAIN, *DTU_UNUSED}
    test = tuple(i for i in range(DTU_VIEWS) if i not in left_out)
    return Split(DTU_TRAIN[:views], test, "dtu", "the training and test views of the DTU protocol")


def listed_split(listed: dict[str, tuple[int, ...]] | None, views: int | None) -> Split:
    """The source's own lists; training views are spread over its training list.

    Raises:
      DataError: if it has none, or they are empty once photos that do not exist are left out.
    """
    if not listed or not listed.get("train") or not listed.get("test"):
        raise DataError("the scene lists no training and test views of its own that exist; use --split llff")
    return Split(spread(listed["train"], views), listed["test"], "listed", "the scene's own lists")


def all_split(count: int, views: int | None) -> Split:
    """No view is held back for tests: training views are spread over all, the others test.

    If none are left over the training views test, and scores then say nothing about new views. Where fewer images exist
    than are asked for, all train.
    """
    short = f"{views} training views are asked for and there are {count} photos: " if (views or 0) > count else ""
    train = spread(tuple(range(count)), count if views is None else min(views, count))
    test = tuple(i for i in range(count) if i not in train)
    if not test:
        return Split(
            train,
            train,
            "all",
            f"{short}all views train, and the same are rendered as tests: scores say nothing about new views",
        )
    return Split(train, test, "all", "training views are spread evenly over all, the others test")


def choose_split(
    split: str, count: int, views: int | None, *, name: str = "", listed: dict[str, tuple[int, ...]] | None = None
) -> Split:
    """Training and test views of a scene.

    Args:
      split: one of `SPLITS`. "auto" is the scene's own lists where it has them, "dtu" for 49 or more images in a folder
        called like a DTU scan (`is_dtu_scan`), "all" where every image (or more) is asked for as a training view, else
        "llff".
      count: number of images.
      views: number of training views, None for all that are not test views.
      name: name of the scene's folder.
      listed: the source's own lists of indices.

    Raises:
      DataError: if the split does not exist or the scene has too few images for it.
    """
    if split not in SPLITS:
        raise DataError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")
    if split == "auto":
        if listed and listed.get("train") and listed.get("test"):
            split = "listed"
        elif is_dtu_scan(name) and count >= DTU_VIEWS:
            split = "dtu"
        elif views is not None and views >= count:  # three photos, three views: none can be held back
            split = "all"
        else:
            split = "llff"
    try:
        match split:
            case "listed":
                return listed_split(listed, views)
            case "dtu":
                return dtu_split(count, views)
            case "all":
                return all_split(count, views)
            case _:
                return llff_split(count, views)
    except DataError as error:
        if split == "llff":
            raise DataError(
                f"{error} (the scene has {count} images and every {TEST_EVERY}th is kept for tests). "
                "Ask for fewer --views, or use --split all, which holds none back"
            ) from None
        raise DataError(f"scene {name}: {error}") from None
