"""Photos that repeat another: the same file saved again, in another size, or two of the same thing from the same place.

They place no camera better and, as training views, waste one; of two that look alike the mapper may even start from
that pair, and fail.
"""

from __future__ import annotations

from collections.abc import Sequence

from ipsm_jax.sfm.matches import LEAST_MATCHES, Matches
from ipsm_jax.sfm.photos import Photo

_MOVED = 0.001
"""Of the longer side, 1.6 pixels of 1600, three times what features are off by: a step aside moves things by far more,
and only a turn of a twentieth of a degree by less."""
_PIXELS = 0.5  # but never less than this many pixels of the copies: features of small pictures are no more exact
_ALIKE = 0.3  # of the features are the same: more than a watermark or a date in the corner


def repeats(photos: Sequence[Photo], matches: Matches) -> dict[int, int]:
    """For each photo that repeats one that is kept, by index, which: the one kept has more pixels, or comes first."""
    order = sorted(range(len(photos)), key=lambda i: (-photos[i].width * photos[i].height, i))
    kept: list[int] = []
    found: dict[int, int] = {}
    for i in order:
        same = next((k for k in kept if _same(i, k, photos, matches)), None)
        if same is None:
            kept.append(i)
        else:
            found[i] = same
    return found


def _same(a: int, b: int, photos: Sequence[Photo], matches: Matches) -> bool:
    smaller = min(max(photos[k].work_width, photos[k].work_height) for k in (a, b))
    few = max(LEAST_MATCHES, _ALIKE * min(matches.features[a], matches.features[b]))
    return bool(matches.shared[a, b] >= few and matches.moved[a, b] < max(_MOVED, _PIXELS / smaller))
