"""Judge the embedded prior on held-out photos: JSON first, then tables and sheets made from it.

    python experiments/evaluate_prior.py --photos FOLDER [--weights FOLDER] [--log runs/prior/log.jsonl] [--card FILE]

FOLDER holds train/ (for the linear denoisers that the prior is compared with) and val/. Writes <out>/evaluation.json,
samples.png and inpainting.png. --log takes steps, speed and settings from the training's log; --card puts the tables
between the two marks of a model card. LPIPS needs the extra `lpips`.
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

WHOLE = {
    "plain": "plain",
    "described": "described",
    "linear": "linear",
    "linear_expected": "linear, expected",
    "alone": "each latent alone",
}
PARTLY = {
    "described_in_hole": "described, in the hole",
    "inpaint_in_hole": "inpainting, in the hole",
    "linear_in_hole": "linear, in the hole",
    "inpaint_known": "inpainting, known",
}
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


def read_log(path: Path) -> dict[str, Any]:
    """Steps, samples per second (median), the last losses on held-out photos, and the settings of a training.

    `settings` has an entry for each step from which they were others, with that `step`; it is empty for logs without.
    """
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    speeds = sorted(line["samples_per_second"] for line in lines if "samples_per_second" in line)
    found: dict[str, Any] = {"steps": max(line["step"] for line in lines), "settings": []}
    if speeds:
        found["samples_per_second"] = speeds[len(speeds) // 2]
    for line in lines:
        if "settings" in line:
            # A killed training goes on from its last checkpoint: what it was told after that did not last.
            lasting = [entry for entry in found["settings"] if entry["step"] < line["step"]]
            entry = {"step": line["step"], **line["settings"]}
            new = not lasting or {**lasting[-1], "step": 0} != {**entry, "step": 0}
            found["settings"] = [*lasting, entry] if new else lasting
    held_out = [line for line in lines if "val_plain" in line]
    return {**found, **(held_out[-1] if held_out else {})}


def settings_text(settings: list[dict[str, Any]]) -> str:
    """A sentence on how a training was set up, and one for each change; "" if its log does not say."""
    sentences: list[str] = []
    before: dict[str, Any] = {}
    for entry in settings:
        values = {name: value for name, value in entry.items() if name != "step"}
        changed = [f"{name} {value}" for name, value in values.items() if before.get(name) != value]
        sentences.append(f"From step {entry['step']:,}: {'; '.join(changed)}.")
        before = values
    if settings and settings[0]["step"]:
        sentences.append("The log says nothing of the steps before.")
    return " ".join(sentences)


def tables(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    training = results.get("training", {})
    trained = f", trained for {training['steps']:,} steps" if "steps" in training else ""
    lines = [
        f"{results['weights']:,} weights, {results['megabytes']} MB in all files{trained}; judged on "
        f"{results['photos']['val']} held-out photos.",
        "",
        *([text, ""] if (text := settings_text(training.get("settings", []))) else []),
        "Mean squared error of the predicted noise, everything to fill:",
        "",
        *loss_table(results["loss"], WHOLE),
        "",
        "The same of partly known pictures, in the holes alone; last, of what the inpainting model is shown:",
        "",
        *loss_table(results["loss"], PARTLY),
    ]
    lines += [
        "",
        "Filled holes of 5 to 60 % of the picture:",
        "",
        "| filled by | PSNR in the hole | LPIPS |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {row['psnr']:.2f} | {row['lpips']:.4f} |" for name, row in results["inpainting"].items()]
    return "\n".join(lines)


def loss_table(rows: list[dict[str, float]], columns: dict[str, str]) -> list[str]:
    """Markdown: a row per hundred timesteps, and their mean."""
    lines = [f"| timesteps | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        lines.append(f"| {row['first']}-{row['last']} | " + " | ".join(f"{row[key]:.4f}" for key in columns) + " |")
    mean = {key: sum(row[key] for row in rows) / len(rows) for key in columns}
    return [*lines, "| all | " + " | ".join(f"{value:.4f}" for value in mean.values()) + " |"]


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
