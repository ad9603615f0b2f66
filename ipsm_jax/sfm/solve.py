"""Photos without poses to posed ones: the whole way through features, matches and mapping, and who was left behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ipsm_jax.data.errors import DataError
from ipsm_jax.data.triangulate import import_pycolmap, quiet
from ipsm_jax.sfm.mapping import Mapping, Solution, place_cameras
from ipsm_jax.sfm.matches import LEAST_MATCHES, find_matches
from ipsm_jax.sfm.photos import LEAST, Photo
from ipsm_jax.sfm.progress import Report, silent
from ipsm_jax.sfm.reasons import why_no_scene, why_not_placed
from ipsm_jax.sfm.world import level

_LEAST_POINTS = 50  # of a solution of three or more photos; with fewer it is chance


class Solved(NamedTuple):
    """The solution in a convenient world, and a reason for every photo that is not in it, by index."""

    solution: Solution
    not_placed: dict[int, str]


def solve(photos: Sequence[Photo], work: Path, report: Report = silent) -> Solved:
    """Find the cameras of photos. The same photos give the same result.

    Args:
      photos: three or more, with their small copies in `work`.
      work: folder for these and for the database.
      report: told about what is done.

    Raises:
      MissingPycolmapError: if pycolmap is not installed.
      DataError: no three photos fit together; says why, of each.
    """
    pycolmap = import_pycolmap("finding the cameras of photos")
    database = work / "database.db"
    with quiet(pycolmap):
        matches = find_matches(pycolmap, database, work, photos, report)
        mapping = place_cameras(pycolmap, database, work, photos, report)
    solution = mapping.solution
    if solution is None or len(solution.points.positions) < _LEAST_POINTS:
        # What one sentence says of all of them is not said again of each: only those that match none are listed.
        alone = matches.shared.max(axis=1) < LEAST_MATCHES
        reasons = {i: why for i, why in why_not_placed(photos, matches, Mapping(None, ())).items() if alone[i]}
        listed = "".join(f"\n  {photos[i].name}: {reason}" for i, reason in list(reasons.items())[:8])
        more = f"\n  ... and {len(reasons) - 8} more" if len(reasons) > 8 else ""
        raise DataError(
            f"the cameras of fewer than {LEAST} photos can be found: {why_no_scene(photos, matches)}.{listed}{more}"
        )
    return Solved(level(solution), why_not_placed(photos, matches, mapping))
