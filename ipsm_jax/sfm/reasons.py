"""Why a photo was not placed, in a sentence that says what to do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ipsm_jax.sfm.mapping import Mapping
from ipsm_jax.sfm.matches import LEAST_MATCHES, Matches
from ipsm_jax.sfm.photos import Photo

_FEW_FEATURES = 100


def why_not_placed(photos: Sequence[Photo], matches: Matches, mapping: Mapping) -> dict[int, str]:
    """A reason for each photo that is not in the solution, by index; for all photos if there is no solution."""
    placed = () if mapping.solution is None else mapping.solution.photos
    group = {i: members for members in reversed(mapping.separate) for i in members}
    return {
        i: _reason(i, photos, matches, placed, group.get(i)) + _other_camera(i, photos, placed)
        for i in range(len(photos))
        if i not in placed
    }


def _reason(
    i: int, photos: Sequence[Photo], matches: Matches, placed: tuple[int, ...], group: tuple[int, ...] | None
) -> str:
    shared = matches.shared[i]
    best = int(np.argmax(shared))
    if matches.features[i] < _FEW_FEATURES:
        return (
            f"only {matches.features[i]} features were found in it: it is blurred, dark, or shows little texture; "
            "take it again"
        )
    if shared[best] < LEAST_MATCHES:
        return (
            f"no other photo shows enough of the same ({matches.features[i]} features, but fewer than {LEAST_MATCHES} "
            "match any other photo): it does not belong, or lacks a photo taken from in between"
        )
    if group is not None:
        others = ", ".join(photos[k].name for k in group if k != i)
        return (
            f"it fits together with {others}, but nothing connects these photos with the others; add photos taken "
            "from in between"
        )
    best_placed = max(placed, key=lambda k: shared[k], default=None)
    if best_placed is None or shared[best_placed] < LEAST_MATCHES:
        return (
            f"it overlaps with {photos[best].name} alone ({shared[best]} matches), which has no place either; add "
            "photos taken from in between"
        )
    return (
        f"it shares {shared[best_placed]} matches with {photos[best_placed].name}, but too few of them agree on one "
        "position of the camera; add a photo taken from in between, or take it again if it is blurred"
    )


def _other_camera(i: int, photos: Sequence[Photo], placed: tuple[int, ...]) -> str:
    """A remark if another camera or zoom took it: its focal length then has to be found from this photo alone."""
    cameras = {photos[k].camera for k in placed}
    if not cameras or photos[i].camera in cameras:
        return ""
    return f" (another camera or zoom took it: {photos[i].camera})"


def why_no_scene(photos: Sequence[Photo], matches: Matches) -> str:
    """Why no three photos could be placed together."""
    shared = np.triu(matches.shared, 1)
    a, b = (int(k) for k in np.unravel_index(np.argmax(shared), shared.shape))
    linked = np.triu(matches.shared >= LEAST_MATCHES, 1)
    pair = f"{photos[a].name} and {photos[b].name}"
    if not linked.any():
        most = f"the most alike, {pair}, share {shared[a, b]} matches" if shared[a, b] else "none share any matches"
        return (
            f"no two of the {len(photos)} photos show enough of the same: {most}, and {LEAST_MATCHES} are needed. Take "
            "photos that overlap by more than half, of things with texture, without blur"
        )
    if (matches.shared >= LEAST_MATCHES).any(axis=1).sum() < 3:
        return (
            f"only {pair} overlap ({shared[a, b]} matches), and three photos that do are needed. Add photos that show "
            "the same things from places in between"
        )
    if matches.flat[linked].mean() > 0.5:
        return (
            "the photos look as if they were all taken from one place, the camera only turned, or as if they show one "
            "flat thing: depth cannot be seen from them. Take a step to the side between photos"
        )
    return (
        f"the photos overlap (most in {pair}, {shared[a, b]} matches), but no three of them agree on the positions of "
        "their cameras. They may be too close together or too far apart: take a step to the side between photos, and "
        "keep more than half of the picture the same"
    )
