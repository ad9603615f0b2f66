"""Train the embedded prior on a folder of photos, or go on with a training.

    python experiments/train_prior.py --photos FOLDER [--out runs/prior] [--minutes 120]

FOLDER holds train/ and val/ with pictures. <out>/ gets checkpoint.safetensors (a run that finds it goes on there, bit
for bit as if it had not stopped), log.jsonl (losses, losses on held-out photos, samples per second), samples-*.png,
and weights/, the prior as the package carries it: copy it to ipsm_jax/priors/embedded/weights. Works as it is on a
GPU, with `--batch 512 --rate 0.002`. Stop it with Ctrl-C, or let --minutes or --steps end it. The checkpoint knows what
decides about the training, and is not gone on from with other photos, channels, seed, loss and so on; batch and rate
may change on the way, and the log says at which step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from prior.basis import fit_basis
from prior.export import SCHEDULER, export
from prior.network import unet_json
from prior.photos import list_photos, read_squares
from prior.sheets import sample_sheet
from prior.training import Setup, State, changeable, first_state, kept, load_state, save_state, train_step
from prior.validation import held_out, validate
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ipsm_jax.priors.diffusion import scaled_linear_schedule
from ipsm_jax.priors.embedded.load import assemble, gray_latents
from ipsm_jax.priors.embedded.patches import PatchConfig
from ipsm_jax.priors.unet import UNetConfig

LATENT_SIZE, LATENT_CHANNELS, PATCH, POOLING = 32, 16, 4, 4
LINE_EVERY = 50  # steps between two lines of the log


def main() -> None:
    args = _arguments()
    started = time.perf_counter()
    squares, names = read_squares(list_photos(args.photos / "train"))
    val_squares, val_names = read_squares(list_photos(args.photos / "val"))
    print(f"{len(names)} photos to train on, {len(val_names)} held out, {jax.devices()[0].device_kind}", flush=True)

    patch_config = PatchConfig(POOLING, PATCH, LATENT_CHANNELS)
    basis, share = fit_basis(squares, patch_config)
    structure = unet_json(args.channels, LATENT_CHANNELS, LATENT_SIZE)
    setup = Setup(UNetConfig.from_json(structure), patch_config, args.batch, args.rate, args.seed)
    state = first_state(setup)
    same = {**kept(setup), "photos": str(len(names))}
    header = same | changeable(setup)
    checkpoint = args.out / "checkpoint.safetensors"
    if checkpoint.is_file():
        state, found = load_state(checkpoint, state, same)
        for sentence in _changes(checkpoint, int(state.step), found, header):
            print(sentence, flush=True)
    _log(args.out, {"step": int(state.step), "settings": header})
    size = sum(value.size for value in state.params.values())
    print(
        f"{size:,} weights, basis holds {share:.1%} of the patches' variance, from step {int(state.step)}", flush=True
    )

    vae = {name: jnp.asarray(value) for name, value in basis.items()}
    alphas = jnp.asarray(scaled_linear_schedule(1000, SCHEDULER["beta_start"], SCHEDULER["beta_end"]))
    data = jnp.asarray(squares)
    val_batch, gray = held_out(val_squares, patch_config, vae, LATENT_SIZE), gray_latents(patch_config, vae)

    def keep(state: State, sheet: bool) -> None:
        """Everything that can be looked at or gone on from."""
        save_state(checkpoint, state, header)
        export(args.out / "weights", structure, state.average, patch_config, basis)
        params = {"unet": state.average, "vae": vae, "alphas_cumprod": alphas}
        losses = validate(setup.unet, params, val_batch, gray)
        _log(args.out, {"step": int(state.step), **{f"val_{name}": round(v, 5) for name, v in losses.items()}})
        if sheet:
            prior = assemble(setup.unet, patch_config, params, None)
            sample_sheet(args.out / f"samples-{int(state.step):07d}.png", prior, patch_config, val_squares)

    stop: list[int] = []
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda number, _: stop.append(number))
    last_kept = last_sheet = line_time = time.perf_counter()
    line_step, losses, rate = int(state.step), [], None
    with _progress() as (progress, task):
        while not stop and int(state.step) < args.steps and time.perf_counter() - started < 60 * args.minutes:
            state, loss = train_step(setup, state, vae, alphas, data)
            losses.append(loss)
            step, now = int(state.step), time.perf_counter()
            passed, left = (now - started) / 60, _minutes_left(args, step, (now - started) / 60, rate)
            progress.update(task, completed=passed, total=passed + left, step=step, left=left)
            if step % LINE_EVERY == 0:
                rate = args.batch * (step - line_step) / (now - line_time)
                mean = float(np.mean(jax.device_get(losses)))
                if not np.isfinite(mean):
                    raise SystemExit(f"the loss is {mean} at step {step}; the checkpoint before is {checkpoint}")
                _log(args.out, {"step": step, "loss": round(mean, 5), "samples_per_second": round(rate, 2)})
                progress.update(task, figures=f"loss {mean:.4f}, {rate:.1f} samples/s")
                line_step, line_time, losses = step, now, []
            if now - last_kept > 60 * args.keep_minutes:
                sheet = now - last_sheet > 60 * args.sheet_minutes
                keep(state, sheet)
                last_kept = line_time = time.perf_counter()
                line_step, last_sheet = step, last_kept if sheet else last_sheet
    keep(state, sheet=not stop)  # whoever stops it will not wait for pictures
    print(f"stopped at step {int(state.step)}; go on with the same command", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/prior"))
    parser.add_argument("--minutes", type=float, default=120.0, help="stop after so many, start included")
    parser.add_argument("--steps", type=int, default=10**7, help="stop at this step")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate at its highest")
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 128], help="of the network, finest first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep-minutes", type=float, default=5.0, help="between two checkpoints")
    parser.add_argument("--sheet-minutes", type=float, default=30.0, help="between two sheets of samples")
    return parser.parse_args()


def _changes(checkpoint: Path, step: int, found: dict[str, str], header: dict[str, str]) -> list[str]:
    """Sentences on what a checkpoint's header says otherwise, or not at all."""
    sentences = [
        f"{name} was {found[name]} until step {step}, and is {value} from now on"
        for name, value in header.items()
        if name in found and found[name] != value
    ]
    unsaid = [name for name in header if name not in found]
    if unsaid:
        sentences.append(f"{checkpoint} does not say its {', '.join(unsaid)}: taken to be as they are now")
    return sentences


def _minutes_left(args: argparse.Namespace, step: int, passed: float, rate: float | None) -> float:
    """Until --minutes or, at so many samples per second, --steps end the training."""
    until_steps = math.inf if rate is None else (args.steps - step) * args.batch / rate / 60
    return max(0.0, min(args.minutes - passed, until_steps))


@contextlib.contextmanager
def _progress() -> Iterator[tuple[Progress, TaskID]]:
    """A bar of minutes on a terminal, nothing elsewhere: the log has the figures."""
    console = Console()
    columns = (
        TextColumn("step {task.fields[step]}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}, {task.fields[left]:.0f} min left"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield progress, progress.add_task("training", total=None, figures="compiling", step=0, left=math.nan)


def _log(folder: Path, line: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
