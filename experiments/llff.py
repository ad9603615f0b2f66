"""LLFF as the papers report it: all eight scenes, averaged, beside the published figures (METHOD sections 1, 8 and 9).

python experiments/llff.py --data-root data                        # nerf_llff_data, unpacked into data
python experiments/llff.py --data-root data --methods base depth geometry ipsm-gaussian -- --caption-file captions.txt
python experiments/llff.py --views 6
python experiments/llff.py --table-only                            # again from the JSON, nothing is trained
"""

from __future__ import annotations

from protocol import Protocol, run_protocol

from ipsm_jax.data.locate import LLFF_HELP

LLFF = Protocol(
    key="llff",
    title="LLFF",
    scenes={name: (name,) for name in ("fern", "flower", "fortress", "horns", "leaves", "orchids", "room", "trex")},
    masked=False,
    help=LLFF_HELP,
)

if __name__ == "__main__":
    run_protocol(LLFF, __doc__)
