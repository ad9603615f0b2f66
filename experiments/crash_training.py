"""Kill trainings at random moments, resume them, and compare what comes out with a training that nobody disturbed.

    python experiments/crash_training.py                  50 trainings of the demo scene, each killed once
    python experiments/crash_training.py --trainings 5 --seed 1

Each training is a process of its own that gets SIGKILL at a moment drawn evenly from the time that one takes. It is
then run again, with --resume if the killed one got as far as a run folder. Its last checkpoint must be that of the
undisturbed training bit for bit, its log must have no gap, and no unfinished file may be left. Trainings are small and
save every other iteration, so that many kills hit a file being written.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from ipsm_jax.reporting.files import write_json
from ipsm_jax.train import main as train
from ipsm_jax.training.checkpoint import list_checkpoints
from ipsm_jax.training.recorder import read_log

ITERATIONS, LOG_EVERY = 150, 3
SETTINGS = {
    "scene": "demo", "downscale": 16, "init": "random", "iterations": ITERATIONS, "checkpoint-every": 2,
    "log-every": LOG_EVERY, "density-from": 20, "density-interval": 10, "opacity-reset-at": 25,
}  # fmt: skip


def start(out: Path, name: str, *extra: str) -> int:
    """Start a training as a process of its own and return its number.

    Forked from this one, which has imported JAX but never used it and so has no threads that a fork would lose: that
    saves each training the seconds of the import.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 3
    try:
        log = os.open(out / "trainings.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        settings = [text for key, value in SETTINGS.items() for text in (f"--{key}", str(value))]
        code = train([*settings, "--no-video", "--out", str(out), "--name", name, *extra])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def whole(out: Path, name: str, *extra: str) -> float:
    """Run a training to its end; its seconds.

    Raises:
      SystemExit: it failed.
    """
    began = time.perf_counter()
    _, status = os.waitpid(start(out, name, *extra), 0)
    if status:
        raise SystemExit(f"the training {name} failed: the reason is in {out / 'trainings.log'}")
    return time.perf_counter() - began


def killed(out: Path, name: str, after: float) -> bool:
    """Run a training and kill it after some seconds; False if it had ended by then.

    Raises:
      SystemExit: it failed by itself.
    """
    child = start(out, name)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)  # a process that has ended and was not waited for still has its number
    _, status = os.waitpid(child, 0)
    if status not in (0, signal.SIGKILL):
        raise SystemExit(f"the training {name} failed: the reason is in {out / 'trainings.log'}")
    return status == signal.SIGKILL


def last_arrays(folder: Path) -> dict[str, bytes]:
    """The arrays of the last checkpoint of a run."""
    path = list_checkpoints(folder)[ITERATIONS]
    return {name: array.tobytes() for name, array in safetensors.numpy.load_file(path).items()}


def state_of(folder: Path) -> dict[str, Any]:
    """What a killed training left: how far it had got, which files are unfinished, which are damaged."""
    found = list_checkpoints(folder)
    damaged = []
    for path in found.values():
        try:
            safetensors.numpy.load_file(path)  # not `load_checkpoint`, which would start JAX before the next fork
        except (OSError, safetensors.SafetensorError) as error:
            damaged.append(f"{path.name}: {error}")
    if not (folder / "config.json").exists():
        phase = "before its run folder was there"
    elif not found:
        phase = "before its first checkpoint"
    elif max(found) < ITERATIONS:
        phase = "while training"
    else:
        phase = "after its last checkpoint"
    unfinished = [path.name for path in folder.rglob(".*.tmp*")]
    return {"phase": phase, "checkpoints": list(found), "unfinished": unfinished, "damaged": damaged}


def faults(folder: Path, expected: dict[str, bytes], damaged: list[str]) -> list[str]:
    """What is wrong with a training that was killed and resumed."""
    found = [f"damaged by the kill: {sentence}" for sentence in damaged]
    if ITERATIONS not in list_checkpoints(folder):
        return [*found, "the last checkpoint is not there"]
    arrays = last_arrays(folder)
    found += [f"{name} differs" for name in expected if arrays.get(name) != expected[name]]
    logged = [line["iteration"] for line in read_log(folder)]
    if logged != sorted(logged) or set(range(LOG_EVERY, ITERATIONS + 1, LOG_EVERY)) - set(logged):
        found.append(f"the log has gaps or goes back: {logged}")
    found += [f"unfinished file left: {path.name}" for path in folder.rglob(".*.tmp*")]
    if not (folder / "metrics.json").is_file():
        found.append("nothing was measured")
    return found


def sentence(results: list[dict[str, Any]]) -> str:
    """The counts in words."""
    hit = [result for result in results if result["killed"]]
    phases = Counter(result["phase"] for result in hit)
    broken = sum(bool(result["faults"]) for result in results)
    unfinished = sum(bool(result["unfinished"]) for result in hit)
    return (
        f"{len(results)} trainings, {len(hit)} killed before they ended ("
        + ", ".join(f"{count} {phase}" for phase, count in phases.most_common())
        + f"); {unfinished} left an unfinished file. Resumed, {len(results) - broken} have the same bits as the "
        f"undisturbed one, {broken} do not."
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path("runs/crashes"), help="must not exist")
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    rng = np.random.default_rng(args.seed)
    whole(args.out, "first")  # fills the caches: of the scene, and of compiled programs
    seconds = whole(args.out, "undisturbed")
    expected = last_arrays(args.out / "undisturbed")
    results: list[dict[str, Any]] = []
    for i in range(args.trainings):
        name, after = f"killed{i:02d}", float(rng.uniform(0, seconds))
        folder = args.out / name
        hit = killed(args.out, name, after)
        result = {"after_seconds": round(after, 3), "killed": hit, **state_of(folder)}
        again = ["--resume"] if (folder / "config.json").exists() else []
        whole(args.out, name, *again)
        result["faults"] = faults(folder, expected, result["damaged"])
        results.append(result)
        print(json.dumps(result), flush=True)
        write_json(args.out / "crashes.json", {"seconds_undisturbed": round(seconds, 2), "trainings": results})
        if not result["faults"]:
            shutil.rmtree(folder)
    print(sentence(results))
    if any(result["faults"] for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
