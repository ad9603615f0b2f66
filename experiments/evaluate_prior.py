"""Judge the embedded prior on held-out photos: JSON first, then tables and sheets made from it.

    python experiments/evaluate_prior.py --photos FOLDER [--weights FOLDER] [--log runs/prior/log.jsonl] [--card FILE]

FOLDER holds train/ (for the linear denoisers that the prior is compared with) and val/. Writes <out>/evaluation.json,
samples.png and inpainting.png. --log takes steps and speed from the training's log; --card puts the tables between
the two marks of a model card. LPIPS needs the extra `lpips`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from prior.judging import inpainting, latents_of_crops, loss_by_timestep
from prior.photos import list_photos, read_squares
from prior.sheets import sample_sheet, write_sheet
from prior.wiener import channels_only, fit_spectrum

from ipsm_jax.metrics.perceptual import load_lpips, lpips
from ipsm_jax.priors.embedded.load import WEIGHTS, check_embedded_prior, load_embedded_prior
from ipsm_jax.reporting.files import write_json

MARKS = ("<!-- figures -->", "<!-- end of figures -->")


def main() -> None:
    args = _arguments()
    checked, prior = check_embedded_prior(args.weights), load_embedded_prior(folder=args.weights)
    train, _ = read_squares(list_photos(args.photos / "train"))
    val, _ = read_squares(list_photos(args.photos / "val"))
    if args.fewer:
        train, val = train[:: len(train) // 64], val[: args.fewer]
    files = [path for path in args.weights.rglob("*") if path.is_file()]
    results: dict[str, Any] = {
        "megabytes": round(sum(path.stat().st_size for path in files) / 1e6, 2),
        "weights": checked.size_in_bytes(jnp.float32) // 4,
        "photos": {"train": len(train), "val": len(val)},
    }
    if args.log is not None:
        results["training"] = read_log(args.log)
    crops = latents_of_crops(prior, checked.patch_config, train)
    spectra = {"linear": fit_spectrum(crops), "alone": channels_only(crops)}
    results["loss"] = loss_by_timestep(prior, checked, val, spectra)
    write_json(args.out / "evaluation.json", results)

    network = load_lpips("vgg")
    distance = jax.jit(lambda a, b: lpips(network, a, b))
    results["inpainting"], pictures = inpainting(prior, checked, val, distance, args.sampling_steps, args.draws)
    write_json(args.out / "evaluation.json", results)

    chosen = slice(None, None, max(1, len(val) // 8))
    write_sheet(args.out / "inpainting.png", [rows[chosen][:8] for rows in pictures.values()])
    sample_sheet(args.out / "samples.png", prior, checked.patch_config, val)
    text = tables(json.loads((args.out / "evaluation.json").read_text(encoding="utf-8")))
    print(text)
    if args.card is not None:
        put_into_card(args.card, text)


def put_into_card(path: Path, text: str) -> None:
    """Replace what stands between the two marks of a Markdown file."""
    before, rest = path.read_text(encoding="utf-8").split(MARKS[0], 1)
    after = rest.split(MARKS[1], 1)[1]
    path.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}", encoding="utf-8")


def read_log(path: Path) -> dict[str, float]:
    """Steps, samples per second (median) and the last losses on held-out photos of a training."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    speeds = sorted(line["samples_per_second"] for line in lines if "samples_per_second" in line)
    found: dict[str, float] = {"steps": max(line["step"] for line in lines)}
    if speeds:
        found["samples_per_second"] = speeds[len(speeds) // 2]
    held_out = [line for line in lines if "val_plain" in line]
    return {**found, **(held_out[-1] if held_out else {})}


def tables(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    training = results.get("training", {})
    trained = f", trained for {training['steps']:,} steps" if "steps" in training else ""
    lines = [
        f"{results['weights']:,} weights, {results['megabytes']} MB in all files{trained}; judged on "
        f"{results['photos']['val']} held-out photos.",
        "",
        "Mean squared error of the predicted noise:",
        "",
        "| timesteps | plain | described | into holes | linear | linear, expected | each latent alone |",
        "|---|---|---|---|---|---|---|",
    ]
    keys = ("plain", "described", "inpaint", "linear", "linear_expected", "alone")
    for row in results["loss"]:
        lines.append(f"| {row['first']}-{row['last']} | " + " | ".join(f"{row[key]:.4f}" for key in keys) + " |")
    mean = {key: sum(row[key] for row in results["loss"]) / len(results["loss"]) for key in keys}
    lines.append("| all | " + " | ".join(f"{mean[key]:.4f}" for key in keys) + " |")
    lines += [
        "",
        "Filled holes of 5 to 60 % of the picture:",
        "",
        "| filled by | PSNR in the hole | LPIPS |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {row['psnr']:.2f} | {row['lpips']:.4f} |" for name, row in results["inpainting"].items()]
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--log", type=Path, help="log.jsonl of the training")
    parser.add_argument("--card", type=Path, help="Markdown file whose figures are replaced")
    parser.add_argument("--out", type=Path, default=Path("runs/prior_evaluation"))
    parser.add_argument("--sampling-steps", type=int, default=25)
    parser.add_argument("--draws", type=int, default=4, help="samples that are averaged")
    parser.add_argument("--fewer", type=int, help="judge on so many photos only, for a quick look")
    return parser.parse_args()


if __name__ == "__main__":
    main()
