"""Photos without poses to posed ones: the whole way through features, matches and mapping, and who was left behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ipsm_jax.data.errors import DataError
from ipsm_jax.data.triangulate import import_pycolmap, quiet
from ipsm_jax.sfm.mapping import Mapping, Solution, place_cameras
from ipsm_jax.sfm.matches import LEAST_MATCHES, find_matches
from ipsm_jax.sfm.pairs import Pairs
from ipsm_jax.sfm.photos import LEAST, Photo
from ipsm_jax.sfm.progress import Report, silent
from ipsm_jax.sfm.reasons import why_no_scene, why_not_placed
from ipsm_jax.sfm.repeats import repeats
from ipsm_jax.sfm.world import level

_LISTED = 8  # photos in an error
_LEAST_POINTS = 50  # of a solution of three or more photos; with fewer it is chance


class Solved(NamedTuple):
    """The solution in a convenient world, and a reason for every photo that is not in it, by index."""

    solution: Solution
    not_placed: dict[int, str]


def solve(photos: Sequence[Photo], work: Path, pairs: Pairs, report: Report = silent) -> Solved:
    """Find the cameras of photos. The same photos give the same result.

    Args:
      photos: three or more, with their small copies in `work`.
      work: folder for these and for the database.
      pairs: the photos that are compared with each other.
      report: told about what is done.

    Raises:
      MissingPycolmapError: if pycolmap is not installed.
      DataError: no three photos fit together; says why, of each.
    """
    pycolmap = import_pycolmap("finding the cameras of photos")
    database = work / "database.db"
    with quiet(pycolmap):
        matches = find_matches(pycolmap, database, work, photos, pairs, report)
        same = repeats(photos, matches)
        wanted = [i for i in range(len(photos)) if i not in same]
        repeated = {i: _repeats(photos[k]) for i, k in same.items()}
        if len(wanted) < LEAST:
            raise DataError(
                f"only {len(wanted)} of the {len(photos)} photos differ, and {LEAST} are needed: take more, from "
                f"places a step apart{_listed(photos, repeated)}"
            )
        mapping = place_cameras(pycolmap, database, work, photos, wanted, report)
    solution = mapping.solution
    if solution is None or len(solution.points.positions) < _LEAST_POINTS:
        # What one sentence says of all of them is not said again of each: only those that match none are listed.
        alone = matches.shared.max(axis=1) < LEAST_MATCHES
        reasons = {i: why for i, why in why_not_placed(photos, matches, Mapping(None, ())).items() if alone[i]}
        raise DataError(
            f"the cameras of fewer than {LEAST} photos can be found: {why_no_scene(photos, matches)}."
            f"{_listed(photos, {**reasons, **repeated})}"
        )
    return Solved(level(solution), {**why_not_placed(photos, matches, mapping), **repeated})


def _repeats(photo: Photo) -> str:
    return f"it shows the same as {photo.name} from the same place, so it adds nothing"


def _listed(photos: Sequence[Photo], reasons: dict[int, str]) -> str:
    """A line for each of the first photos."""
    lines = "".join(f"\n  {photos[i].name}: {reason}" for i, reason in sorted(reasons.items())[:_LISTED])
    return lines + (f"\n  ... and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else "")
