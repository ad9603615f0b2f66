"""Train a grid of runs: scenes x methods x seeds, as many at once as the memory holds.

    python experiments/run_grid.py --scenes demo fern --methods base best --seeds 4 --data-root data --out runs/grid
    python experiments/run_grid.py --scenes demo --methods base --seeds 8 -- --iterations 1000 --downscale 2

Runs with the same settings and sizes train in one program. Each leaves an ordinary run folder, and <out>/ledger.sqlite
knows them all: a finished run is never done twice, and an interrupted grid goes on where it was with the same command.
Options after -- go to every training. `report.py` makes tables and a page of the ledger.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ablation import METHODS, options_of
from grid.execute import train_ready
from grid.ledger import Ledger, LedgerError
from grid.packing import Loader, divide, free_memory, pack
from grid.plan import expand

from ipsm_jax.train import check_device
from ipsm_jax.trained import EXPECTED_ERRORS
from ipsm_jax.training.environment import enable_compilation_cache


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", required=True)
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=["base"], metavar="METHOD", help=" ".join(METHODS)
    )
    parser.add_argument("--depth", choices=["exact", "stereo", "maps", "network"])
    parser.add_argument("--depth-path", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/grid"))
    parser.add_argument(
        "--memory", type=float, metavar="GIB", help="that a batch may take; default: 70 %% of what is free"
    )
    parser.add_argument("--most", type=int, metavar="RUNS", help="in a batch; default: as many as fit")
    parser.add_argument("extra", nargs="*", help="options for every training, after --")
    args = parser.parse_args()
    enable_compilation_cache()
    methods = {method: options_of(method, args.depth, args.depth_path) for method in args.methods}
    ledger = Ledger(args.out)
    try:
        check_device()
        runs = expand(args.scenes, methods, range(args.seeds), args.extra, args.data_root, args.out)
        with ledger.locked():
            for run in runs:
                ledger.plan(run)
            states = {entry.hash: entry.state for entry in ledger.entries()}
            waiting = [run for run in runs if states[run.hash] != "finished"]
            print(f"{len(runs)} runs, {len(runs) - len(waiting)} of them finished before", flush=True)
            loader = Loader(_say)
            memory = free_memory() if args.memory is None else int(args.memory * 2**30)
            for group in pack(loader.ready(run) for run in waiting):
                batches, predicted = divide(group, memory, args.most)
                for number, batch in enumerate(batches, 1):
                    _say(
                        f"batch {number} of {len(batches)}, predicted to take {predicted / 2**30:.1f} GiB: "
                        f"{', '.join(ready.run.name for ready in batch)}"
                    )
                    train_ready(batch, ledger, predicted, _say)
    except (*EXPECTED_ERRORS, LedgerError, MemoryError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoints", file=sys.stderr)
        return 130
    failed = [entry for entry in ledger.entries() if entry.state == "failed"]
    for entry in failed:
        print(f"failed: {Path(entry.folder).name}: {entry.error}")
    return 1 if failed else 0


def _say(sentence: str) -> None:
    print(sentence, flush=True)


if __name__ == "__main__":
    sys.exit(main())
