"""Settings of the stereo, with the values that were measured to serve narrow and wide baselines alike."""

from __future__ import annotations

import dataclasses

LARGEST_PENALTY = 10.0  # sums over 8 directions must fit into 16 bits


class StereoError(ValueError):
    """Dense stereo cannot be done with what it was given; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class StereoOptions:
    """How depth is searched, smoothed and checked.

    Attributes:
      sources: most views that one view is matched with.
      falloff: weight of a source in a pixel's cost, relative to that of the next cheaper source.
      largest_angle: degrees between the optical axes of two views that are matched with each other.
      wide_angle: degrees; where views of a common point differ by more, slanted planes are swept too and a pixel's
        cost is that of its cheapest source alone.
      slants: degrees (horizontal, vertical) between the normals of the slanted planes and the optical axis.
      slant_penalty: added to the cost of slanted planes, in units of 1 - ZNCC.
      planes: inverse depths searched at; None takes one per half pixel of the widest disparity range.
      most_planes: bound for that; time and memory grow with it.
      most_cells: entries of the volume of costs; larger images are matched in strips of rows.
      coarse_above: pixels of the longer side above which depth is found at half the size first, then refined.
      small_penalty, large_penalty: P1 and P2 of semi-global matching, in units of 1 - ZNCC.
      contrast: P2 is divided by 1 + contrast x the difference of neighboring gray values in [0, 1].
      reprojection: pixels by which a pixel may miss itself after a trip to another view and back.
      depth_difference: relative difference of two views' depths of one point that still agree.
      agreeing: other views that must agree; None takes 1, or 2 where there are six views or more.
      highest_cost: a pixel whose 1 - ZNCC at its depth is above this is not confident.

    Raises:
      StereoError: for numbers that make no sense.
    """

    sources: int = 4
    falloff: float = 0.4
    largest_angle: float = 70.0
    wide_angle: float = 20.0
    slants: tuple[tuple[float, float], ...] = ((-60, 0), (-40, 0), (40, 0), (60, 0), (0, -45), (0, 45))
    slant_penalty: float = 0.02
    planes: int | None = None
    most_planes: int = 384
    most_cells: int = 64_000_000
    coarse_above: int = 700
    small_penalty: float = 0.06
    large_penalty: float = 1.0
    contrast: float = 10.0
    reprojection: float = 1.0
    depth_difference: float = 0.01
    agreeing: int | None = None
    highest_cost: float = 0.9

    def __post_init__(self) -> None:
        least: dict[str, float] = {
            "sources": 1,
            "most_planes": 3,
            "coarse_above": 32,
            "slant_penalty": 0,
            "small_penalty": 0,
        }
        least |= {"large_penalty": self.small_penalty, "contrast": 0, "highest_cost": 0, "falloff": 0}
        if self.planes is not None:
            least["planes"] = 3
        for name, lowest in least.items():
            if not getattr(self, name) >= lowest:
                raise StereoError(f"{name} of the stereo must be at least {lowest}, got {getattr(self, name)}")
        if self.large_penalty > LARGEST_PENALTY:
            raise StereoError(
                f"large_penalty of the stereo must be at most {LARGEST_PENALTY}, got {self.large_penalty}"
            )
