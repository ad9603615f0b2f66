"""The published figures (METHOD section 9), to print beside one's own: averages over all scenes."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """One row of a published table.

    Attributes:
      title: of the method.
      ssim, lpips, psnr, avge: the figures; LPIPS is that of pictures not rescaled to [-1, 1]; AVGE None if not given.
      method: what reproduces it, a name in ablation.METHODS; None if there is nothing here.
      seeds: number of runs that it is the mean of, None if not known.
    """

    title: str
    ssim: float
    lpips: float
    psnr: float
    avge: float | None
    method: str | None = None
    seeds: int | None = 3


PUBLISHED: dict[tuple[str, int], tuple[Published, ...]] = {
    ("llff", 3): (
        Published("3DGS", 0.456, 0.385, 14.97, 0.208),
        Published("Base", 0.625, 0.254, 19.00, 0.125, "base"),
        Published("Base + SDS (7.5)", 0.647, 0.267, 18.80, 0.128, "sds"),
        Published("Base + SDS (100)", 0.576, 0.367, 17.53, 0.162, "sds-100"),
        Published("Base + G1", 0.636, 0.245, 19.22, 0.121, "g1"),
        Published("Base + IPSM", 0.670, 0.229, 19.60, 0.113, "ipsm"),
        Published("Base + depth", 0.688, 0.211, 20.12, 0.105, "depth"),
        Published("Base + geometry", 0.652, 0.233, 19.35, 0.117, "geometry"),
        Published("Base + IPSM + depth", 0.697, 0.211, 20.20, 0.104, "ipsm+depth"),
        Published("IPSM-Gaussian", 0.702, 0.207, 20.44, 0.101, "ipsm-gaussian"),
        Published("FSGS", 0.682, 0.248, 20.43, None, seeds=None),
        Published("CoR-GS", 0.712, 0.196, 20.45, None, seeds=None),
        Published("SYN3R", 0.705, 0.201, 20.61, None, seeds=None),
        Published("Binocular3DGS + Gaussian dropout", 0.777, 0.154, 22.12, None, seeds=None),
        Published("ICO-GS", 0.778, 0.157, 22.20, None, seeds=None),
    ),
    ("llff", 6): (Published("IPSM-Gaussian", 0.818, 0.135, 23.94, 0.061, "ipsm-gaussian"),),
    ("llff", 9): (Published("IPSM-Gaussian", 0.855, 0.111, 25.13, 0.051, "ipsm-gaussian"),),
    ("dtu", 3): (
        Published("3DGS", 0.795, 0.178, 15.06, 0.136),
        Published("Base", 0.836, 0.134, 19.12, 0.087, "base"),
        Published("Base + depth", 0.851, 0.122, 19.82, 0.079, "depth"),
        Published("Base + geometry", 0.835, 0.135, 19.18, 0.087, "geometry"),
        Published("Base + IPSM", 0.852, 0.123, 19.60, 0.080, "ipsm"),
        Published("IPSM-Gaussian", 0.856, 0.121, 19.99, 0.077, "ipsm-gaussian"),
    ),
}
"""By data set and number of training views."""
