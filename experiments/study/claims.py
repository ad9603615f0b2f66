"""What the paper and its code claim about pairs of methods, and whether runs of the same seeds bear it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from study.methods import published


class Claim(NamedTuple):
    """The method `better` reaches a higher PSNR than `worse`."""

    text: str
    better: str
    worse: str

    @property
    def published(self) -> float | None:
        """By how many dB, in the paper's table of LLFF with 3 views; None if it has not both."""
        better, worse = published(self.better), published(self.worse)
        return None if better is None or worse is None else better.psnr - worse.psnr


CLAIMS = (
    Claim("SDS makes Base worse", "base", "sds"),
    Claim("strong guidance makes SDS still worse", "sds", "sds-100"),
    Claim("G1 improves Base", "g1", "base"),
    Claim("G1 + G2 improves Base", "ipsm", "base"),
    Claim("G1 + G2 improves on G1 alone", "ipsm", "g1"),
    Claim("G1 + G2 beats SDS", "ipsm", "sds"),
    Claim("the code's sign of G2 [C] beats that of equation 12 [P]", "ipsm", "ipsm-paper-sign"),
)
"""The last is the code's alone: the paper's equation has the other sign."""
LEVEL = 0.05
"""Of the tests: so often does one tell a difference where there is none."""


UNTOLD, ONE_SEED = "cannot be told", "one seed cannot tell"


class Verdict(NamedTuple):
    """Differences seed by seed, and what they say of a claim: yes, no, or cannot be told."""

    gains: list[float]
    word: str

    @property
    def told(self) -> bool:
        """Whether the runs tell the two apart."""
        return self.word not in (UNTOLD, ONE_SEED)


def judge(better: Sequence[float], worse: Sequence[float]) -> Verdict:
    """Compare runs of the same seeds by a paired t test, two-sided, at `LEVEL`, each for itself.

    Raises:
      ValueError: for different numbers of runs.
    """
    if len(better) != len(worse):
        raise ValueError(f"runs of the same seeds are compared, got {len(better)} and {len(worse)}")
    gains = np.subtract(better, worse)
    if len(gains) < 2:
        return Verdict(gains.tolist(), ONE_SEED)
    margin = stats.t.ppf(1 - LEVEL / 2, len(gains) - 1) * stats.sem(gains)
    if abs(gains.mean()) <= margin:
        return Verdict(gains.tolist(), UNTOLD)
    return Verdict(gains.tolist(), "yes" if gains.mean() > 0 else "**no**")
