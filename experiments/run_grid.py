"""Train a grid of runs: scenes x methods x values of options x seeds, as many at once as the memory holds.

    python experiments/run_grid.py --scenes demo fern --methods base best --seeds 4 --data-root data --out runs/grid
    python experiments/run_grid.py --scenes demo --methods base --seeds 8 -- --iterations 1000 --downscale 2
    python experiments/run_grid.py --scenes demo --methods g1 ipsm --vary g1-weight 0.02 0.06 0.2

Runs with the same settings and sizes train in one program. Each leaves an ordinary run folder, and <out>/ledger.sqlite
knows them all: a finished run is never done twice, and an interrupted grid goes on where it was with the same command.
Options after -- go to every training (no pictures of pseudo views and no measuring in between: see those of a single
training). `report.py` makes tables and a page of the ledger.

On several hosts, each process trains batches of its own on its own devices. --out and the data have to be on storage
that all of them see. Either the same command on each, process 0 being on HOST, or in a job of Slurm or Open MPI:

    python experiments/run_grid.py ... --coordinator HOST:PORT --processes 2 --process 0      # and 1 on the other
    srun python experiments/run_grid.py ... --coordinator auto

On a Ray cluster (pip install "ipsm_jax[cluster]"), each batch is a task, done again on another node if one is lost: its
runs go on from their last checkpoints. The nodes need this program and the folder it is started in under the same
paths, on storage that they share:

    python experiments/run_grid.py ... --ray                # the cluster that this node belongs to; or HOST:PORT, local
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ablation import METHODS, options_of
from grid.axes import vary
from grid.cluster import ClusterError
from grid.cluster import train_grid as train_on_ray
from grid.execute import train_ready
from grid.hosts import AUTOMATIC, Hosts, HostsError
from grid.hosts import train_grid as train_on_hosts
from grid.ledger import Ledger, LedgerError
from grid.memory import free_memory
from grid.packing import Loader, plan_work
from grid.plan import Run, expand

from ipsm_jax.train import check_device
from ipsm_jax.trained import EXPECTED_ERRORS
from ipsm_jax.training.environment import enable_compilation_cache


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", required=True)
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=["base"], metavar="METHOD", help=" ".join(METHODS)
    )
    parser.add_argument(
        "--vary",
        nargs="+",
        action="append",
        default=[],
        metavar=("OPTION", "VALUE"),
        help="of the trainings, which each method is to have in turn (a switch: yes no); may be given several times",
    )
    parser.add_argument("--depth", choices=["exact", "stereo", "maps", "network"])
    parser.add_argument("--depth-path", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/grid"))
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="that a batch may take of each GPU, or of the host; default: 70 %% of what is free",
    )
    parser.add_argument("--most", type=int, metavar="RUNS", help="in a batch; default: as many as fit")
    hosts = parser.add_argument_group("several hosts")
    hosts.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0; auto: what the job scheduler says")
    hosts.add_argument("--processes", type=int, metavar="N", help="how many there are")
    hosts.add_argument("--process", type=int, metavar="I", help="which this is, from 0")
    hosts.add_argument(
        "--lost-after",
        type=int,
        default=60,
        metavar="SECONDS",
        help="of silence of a process; then all end; default 60",
    )
    ray = parser.add_argument_group("Ray")
    ray.add_argument("--ray", nargs="?", const=AUTOMATIC, metavar="ADDRESS", help="host:port, local or auto (default)")
    ray.add_argument("--cpus", type=int, help="that a batch asks for; default: a node's, or 1 where there are GPUs")
    parser.add_argument("extra", nargs="*", help="options for every training, after --")
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {args.seeds}")
    if args.ray and args.coordinator:
        parser.error("--ray and --coordinator are two ways to use several hosts: choose one")
    if args.coordinator is None and (args.process is not None or args.processes is not None):
        parser.error("--processes and --process need --coordinator HOST:PORT")
    if args.coordinator not in (None, AUTOMATIC) and (args.process is None or args.processes is None):
        parser.error("--coordinator HOST:PORT needs --processes and --process")
    return args


def main() -> int:
    args = parse()
    enable_compilation_cache()
    methods = {method: options_of(method, args.depth, args.depth_path) for method in args.methods}
    memory = None if args.memory is None else int(args.memory * 2**30)
    ledger = Ledger(args.out)
    try:
        methods = vary(methods, args.vary)
        runs = expand(args.scenes, methods, range(args.seeds), args.extra, args.data_root, args.out)
        if args.coordinator is not None:
            hosts = Hosts(args.coordinator, args.processes, args.process, args.lost_after)
            train_on_hosts(hosts, runs, ledger, memory, args.most)
        with ledger.locked():
            if args.ray is None:
                train_here(runs, ledger, memory, args.most)
            else:
                train_on_ray(args.ray, args.cpus, ledger.waiting(runs, say), ledger, memory, args.most, say)
    except (*EXPECTED_ERRORS, LedgerError, HostsError, ClusterError, MemoryError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoints", file=sys.stderr)
        return 130
    return ledger.report(say)


def train_here(runs: list[Run], ledger: Ledger, memory: int | None, most: int | None) -> None:
    """In this process, one batch after the other."""
    check_device()
    loader = Loader(say)
    ready = [loader.ready(run) for run in ledger.waiting(runs, say)]
    memory = free_memory() if memory is None else memory
    for work in plan_work(ready, ledger.started(), memory, most, 1, say):
        train_ready(work.batch, ledger, work.predicted, say)


def say(sentence: str) -> None:
    print(sentence, flush=True)


if __name__ == "__main__":
    sys.exit(main())
