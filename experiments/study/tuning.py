"""Weights of the terms, compared on one scene: a batch per term, with a run for each weight and seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from runs import mean_and_deviation

from study.methods import METHODS, Study
from study.trainings import finished, load_checked, start_of, train_and_measure

WEIGHTS = (0.02, 0.06, 0.2, 0.6, 2.0, 6.0)
"""Compared for each term; 0.2 and 2 are the published ones of G1 and of SDS and G2."""


def tune(study: Study, scene: str, downscale: int, seeds: int, folder: Path) -> str:
    """Train with every weight, term after term, and return a Markdown table of mean ± std over seeds.

    SDS alone at both guidance scales; G1 alone; then G2 of both signs, beside G1 at its best weight by PSNR.
    """
    base_config, *configs = [study.config(scene, downscale, METHODS[method].guidance) for method in METHODS]
    start = start_of(base_config, load_checked([base_config, *configs]), range(seeds))
    rows: list[str] = []
    base = _batch(study, start, scene, downscale, "base", None, folder, seeds)
    rows.append(_row("Base", None, base["looks"][-1], range(seeds)))
    best_g1 = 0.0
    for method in ("sds", "sds-100", "g1", "ipsm", "ipsm-paper-sign"):
        pairs = [(best_g1, weight) if method.startswith("ipsm") else (weight,) for weight in WEIGHTS]
        result = _batch(study, start, scene, downscale, method, np.repeat(pairs, seeds, axis=0), folder, seeds)
        last = result["looks"][-1]
        for k, pair in enumerate(pairs):
            rows.append(_row(METHODS[method].title, pair, last, range(k * seeds, (k + 1) * seeds)))
        if method == "g1":
            means = np.reshape(last["psnr"], (len(WEIGHTS), seeds)).mean(1)
            best_g1 = WEIGHTS[int(np.argmax(means))]
    head = "| method | weights | PSNR | SSIM | LPIPS (VGG) |\n|---|---|---|---|---|"
    return "\n".join([head, *rows])


def _batch(
    study: Study,
    start: Any,
    scene: str,
    downscale: int,
    method: str,
    weights: np.ndarray | None,
    folder: Path,
    seeds: int,
) -> dict[str, Any]:
    config = study.config(scene, downscale, METHODS[method].guidance)
    states = start.states if weights is None else start.states * (len(weights) // seeds)
    facts = {"scene": scene, "downscale": downscale, "method": method, "seeds": seeds, **study.facts}
    settings = {"iterations": study.iterations, "weights": None if weights is None else weights.tolist()}
    if (done := finished(folder / method, facts | settings)) is not None:
        return done
    print(f"{scene}, {METHODS[method].title}, {len(states)} runs", flush=True)
    return train_and_measure(config, start, states, folder / method, facts, weights)


def _row(title: str, weights: tuple[float, ...] | None, look: dict[str, Any], runs: range) -> str:
    cells = [title, "" if weights is None else ", ".join(f"{w:g}" for w in weights)]
    for name, digits in (("psnr", 2), ("ssim", 3), ("lpips_vgg", 3)):
        cells.append(mean_and_deviation([look[name][run] for run in runs], digits))
    return f"| {' | '.join(cells)} |"
