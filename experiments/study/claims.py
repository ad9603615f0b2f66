"""What the paper claims about pairs of methods, and whether runs of the same seeds bear it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Claim(NamedTuple):
    """`better` reaches a higher PSNR than `worse`, by `published` dB on LLFF with 3 views."""

    text: str
    better: str
    worse: str
    published: float | None


CLAIMS = (
    Claim("SDS makes Base worse", "base", "sds", 0.20),
    Claim("strong guidance makes SDS still worse", "sds", "sds-100", 1.27),
    Claim("G1 improves Base", "g1", "base", 0.22),
    Claim("G1 + G2 improves Base", "ipsm", "base", 0.60),
    Claim("G1 + G2 improves on G1 alone", "ipsm", "g1", 0.38),
    Claim("G1 + G2 beats SDS", "ipsm", "sds", 0.80),
    Claim("G2 as published [C] beats equation 12's sign [P]", "ipsm", "ipsm-paper-sign", None),
)


class Verdict(NamedTuple):
    """Differences seed by seed, and what they say of a claim: yes, no, or cannot be told."""

    gains: list[float]
    word: str


def judge(better: Sequence[float], worse: Sequence[float]) -> Verdict:
    """Compare runs of the same seeds: it takes a mean difference of more than two standard errors to tell.

    Raises:
      ValueError: for different numbers of runs.
    """
    if len(better) != len(worse):
        raise ValueError(f"runs of the same seeds are compared, got {len(better)} and {len(worse)}")
    gains = np.subtract(better, worse)
    if len(gains) < 2:
        return Verdict(gains.tolist(), "one seed cannot tell")
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    if abs(gains.mean()) <= 2 * error:
        return Verdict(gains.tolist(), "cannot be told")
    return Verdict(gains.tolist(), "yes" if gains.mean() > 0 else "**no**")
