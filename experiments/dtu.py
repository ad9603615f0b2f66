"""DTU as the papers report it: fifteen scans, averaged, beside the published figures (METHOD sections 1, 8 and 9).

    python experiments/dtu.py --data-root data                         # scan8, scan21, ... in data or data/DTU
    python experiments/dtu.py --data-root data --methods base geometry depth --depth network --depth-path priors
    python experiments/dtu.py --table-only                             # again from the JSON, nothing is trained

The published figures are over the object only. Scans without object masks are measured over whole pictures; the tables
then say so.
"""

from __future__ import annotations

from protocol import Protocol, run_protocol

SCANS = (8, 21, 30, 31, 34, 38, 40, 41, 45, 55, 63, 82, 103, 110, 114)
DTU = Protocol(
    key="dtu",
    title="DTU",
    scenes={f"scan{n}": (f"scan{n}", f"scan_{n}", f"dtu_scan{n}", f"dtu_scan_{n}") for n in SCANS},
    masked=True,
    help="""A scan is a folder scan8 (or scan_8, dtu_scan8) with the 49 rectified photos of one light and their poses
in a layout that is understood (a COLMAP model, poses_bounds.npy or transforms.json), and object masks in scan8/mask or
idrmasks/scan8 beside it. Nothing is downloaded by itself: pass --data-root FOLDER, set IPSM_JAX_DATA=FOLDER, or put the
scans into ./data.""",
)

if __name__ == "__main__":
    run_protocol(DTU, __doc__)
