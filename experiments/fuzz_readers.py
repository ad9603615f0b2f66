"""Give every reader of foreign files tens of thousands of damaged ones, and count what comes of it.

    python experiments/fuzz_readers.py                              all readers
    python experiments/fuzz_readers.py --rounds 500 --only "COLMAP, binary"

A reader may return something valid or raise the error that it documents, with a sentence that names the file. Anything
else is a fault: another exception, a crash of the process, no answer, more than 1 GiB of memory for these small files.
So that faults are counted and end nothing, each reader works in a process of its own with bounded memory, which is
started again after the input that killed it. The readers and the damage are those of tests/fuzz, where a few hundred
inputs of each are part of the tests. Writes fuzz.json, fuzz.md and the inputs that made faults.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ipsm_jax.reporting.files import atomic_write, write_json

MEMORY = 1 << 30  # bytes that a process may take beyond what it has after reading valid files
PATIENCE = 60.0  # seconds for one input, on a machine that has other things to do
BEGINNING = 300.0  # seconds for imports and valid files
WORKER = (sys.executable, __file__, "--worker")


def work(name: str, rounds: int, seed: int, first: int) -> None:
    """The process of one reader: for each input a line when it begins and a line with the outcome."""
    from readers import READERS
    from trials import Bench

    reader = next(reader for reader in READERS if reader.name == name)
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
        bench = Bench(reader, Path(folder))
        for _ in range(2):  # what libraries load and keep at their first use does not count
            bench.trial(seed, 0)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        for number in range(first, rounds):
            print(json.dumps({"begins": number}), flush=True)
            outcome = bench.trial(seed, number)
            print(json.dumps({"number": number, **outcome._asdict()}), flush=True)


def lines(process: subprocess.Popen[bytes], patience: float) -> Iterator[dict[str, Any] | None]:
    """What a worker prints; None when it has been silent for too long."""
    assert process.stdout is not None
    waiting, rest = BEGINNING, b""
    while True:
        if not select.select([process.stdout], [], [], waiting)[0]:
            yield None
            return
        chunk = os.read(process.stdout.fileno(), 1 << 16)
        if not chunk:
            return
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            waiting = patience
            yield json.loads(line)


def fuzz(
    name: str, rounds: int, seed: int, worker: Sequence[str] = WORKER, patience: float = PATIENCE
) -> dict[str, Any]:
    """All inputs of one reader: counts, and the faults.

    Args:
      name: of the reader.
      rounds: number of inputs.
      seed: of the damage.
      worker: the command that reads; it is given name, rounds, seed and the first input's number.
      patience: seconds for one input.

    Raises:
      SystemExit: the worker cannot even begin.
    """
    counts: Counter[str] = Counter()
    faults: list[dict[str, Any]] = []
    first, began = 0, time.perf_counter()
    env = {**os.environ, "MALLOC_ARENA_MAX": "2"}  # each arena reserves much and uses little
    while first < rounds:
        number, silent = None, False
        with tempfile.TemporaryFile() as errors:
            command = [*worker, name, str(rounds), str(seed), str(first)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=env)
            for line in lines(process, patience):
                if line is None:
                    silent = True
                    process.kill()
                elif "begins" in line:
                    number = line["begins"]
                else:
                    number, first = None, line["number"] + 1
                    counts[line["kind"]] += 1
                    faults += [line] if line["kind"] == "fault" else []
            process.communicate()
            errors.seek(0)
            said = errors.read().decode(errors="replace")[-1500:]
        if number is None and first < rounds:
            raise SystemExit(f"{name}: its process ended between two inputs:\n{said}")
        if number is not None:
            what = f"no answer for {patience:g} s" if silent else f"the process died ({process.returncode}): {said}"
            counts["fault"] += 1
            faults.append({"number": number, "kind": "fault", "damage": "", "detail": what})
            first = number + 1
    found = {kind: counts[kind] for kind in ("accepted", "refused", "fault")}
    return {"reader": name, "inputs": rounds, **found, "seconds": round(time.perf_counter() - began), "faults": faults}


def save_inputs(out: Path, name: str, faults: list[dict[str, Any]], seed: int) -> None:
    """Write the files that made faults, to look at."""
    from readers import READERS
    from trials import Bench

    reader = next(reader for reader in READERS if reader.name == name)
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
        bench = Bench(reader, Path(folder))
        for fault in faults:
            damage = bench.damage(seed, fault["number"])
            target = out / "inputs" / f"{name.replace(' ', '_')}-{fault['number']}-{damage.path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(damage.data)


def table(results: list[dict[str, Any]]) -> str:
    """The counts as Markdown."""
    rows = ["| reader | inputs | accepted | refused | faults |", "|---|---:|---:|---:|---:|"]
    keys = ("inputs", "accepted", "refused", "fault")
    for result in [*results, {"reader": "all", **{key: sum(result[key] for result in results) for key in keys}}]:
        rows.append(f"| {result['reader']} | " + " | ".join(str(result[key]) for key in keys) + " |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """The command."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fuzz"))
    if sys.argv[1:2] == ["--worker"]:
        name, *numbers = sys.argv[2:]
        return work(name, *map(int, numbers))
    from readers import READERS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4000, help="inputs of the fastest readers; slow ones get fewer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=[reader.name for reader in READERS], metavar="READER")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    args = parser.parse_args()
    results = []
    for reader in READERS:
        if args.only and reader.name not in args.only:
            continue
        result = fuzz(reader.name, max(1, args.rounds // reader.cost), args.seed)
        save_inputs(args.out, reader.name, result["faults"], args.seed)
        results.append(result)
        print({key: value for key, value in result.items() if key != "faults"}, flush=True)
        write_json(args.out / "fuzz.json", {"seed": args.seed, "readers": results})
        with atomic_write(args.out / "fuzz.md") as temporary:
            temporary.write_text(table(results), encoding="utf-8")
    print(table(results))
    if any(result["fault"] for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
