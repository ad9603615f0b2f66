"""What the paper claims about pairs of methods, and whether runs of the same seeds bear it out."""

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
    Claim("G2 as published [C] beats equation 12's sign [P]", "ipsm", "ipsm-paper-sign"),
)


class Verdict(NamedTuple):
    """Differences seed by seed, and what they say of a claim: yes, no, or cannot be told."""

    gains: list[float]
    word: str


def judge(better: Sequence[float], worse: Sequence[float]) -> Verdict:
    """Compare runs of the same seeds by a paired t test, two-sided, at 5 %.

    Raises:
      ValueError: for different numbers of runs.
    """
    if len(better) != len(worse):
        raise ValueError(f"runs of the same seeds are compared, got {len(better)} and {len(worse)}")
    gains = np.subtract(better, worse)
    if len(gains) < 2:
        return Verdict(gains.tolist(), "one seed cannot tell")
    margin = stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains)
    if abs(gains.mean()) <= margin:
        return Verdict(gains.tolist(), "cannot be told")
    return Verdict(gains.tolist(), "yes" if gains.mean() > 0 else "**no**")
