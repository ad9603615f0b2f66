"""Which term helps how much: the rows of the paper's table 2 on any scene, mean ± std over seeds, against Base.

    python experiments/ablation.py --scene demo --methods base geometry depth geometry+depth --depth exact
    python experiments/ablation.py --scene fern --data-root data --depth maps --depth-path maps/fern --seeds 3
    python experiments/ablation.py --scene fern --methods base sds g1 ipsm -- --prior-path priors --prompt "a fern"

Runs `python -m ipsm_jax.train` once per method and seed, each in a process of its own, all methods of a seed before the
next seed; a run that is finished is not done again and one that was interrupted goes on. Writes <out>/ablation.json
first, then prints Markdown tables made from it: figures, and differences to Base of the same seed. Further options
after `--` go to every training.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from runs import METRICS, mean_and_deviation, read_run, table, train_once

from ipsm_jax.reporting.files import write_json

GEOMETRY = ["--geometry"]
METHODS: dict[str, list[str]] = {
    "base": [],
    "geometry": GEOMETRY,
    "depth": ["DEPTH"],
    "geometry+depth": [*GEOMETRY, "DEPTH"],
    "dropout": ["--dropout", "0.2"],
    "decay": ["--opacity-decay", "0.995"],
    "binocular": ["--binocular"],
    "depth+dropout": ["DEPTH", "--dropout", "0.2"],
    "depth+binocular": ["DEPTH", "--binocular"],
    "depth+dropout+binocular": ["DEPTH", "--dropout", "0.2", "--binocular"],
    "sds": ["--guidance", "sds"],
    "sds-100": ["--guidance", "sds", "--guidance-scale", "100"],
    "g1": ["--guidance", "g1"],
    "ipsm": ["--guidance", "ipsm"],
    "ipsm-paper-sign": ["--guidance", "ipsm", "--g2-sign", "paper"],
    "ipsm+depth": ["--guidance", "ipsm", "DEPTH"],
    "ipsm-gaussian": ["--guidance", "ipsm", *GEOMETRY, "DEPTH"],
}
"""Options of each method; DEPTH stands for the depth options of the command line."""


def options_of(method: str, depth: str | None, depth_path: Path | None) -> list[str]:
    """Options of a method for the train command; raises SystemExit if it needs depth and none was given."""
    if "DEPTH" in METHODS[method] and depth is None:
        raise SystemExit(f"the method {method} needs --depth exact, stereo, maps or network")
    given = ["--depth", str(depth), *([] if depth_path is None else ["--depth-path", str(depth_path)])]
    return [part for option in METHODS[method] for part in (given if option == "DEPTH" else [option])]


def differences(results: list[dict[str, Any]]) -> str:
    """Markdown: what each method adds to Base of the same seed; empty without Base."""
    base = next((result["runs"] for result in results if result["method"] == "base"), None)
    if base is None:
        return ""
    titles = ["method", *(f"{title} - Base" for title, _ in METRICS.values())]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for result in (r for r in results if r["method"] != "base"):
        cells = [result["method"]]
        for name, (_, digits) in METRICS.items():
            pairs = [(run[name], reference[name]) for run, reference in zip(result["runs"], base, strict=True)]
            gains = [None if None in pair else pair[0] - pair[1] for pair in pairs]
            cells.append(mean_and_deviation(gains, digits, "+"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", required=True)
    default = ["base", "geometry", "depth", "geometry+depth"]
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=default, metavar="METHOD", help=" ".join(METHODS)
    )
    parser.add_argument("--depth", choices=["exact", "stereo", "maps", "network"])
    parser.add_argument("--depth-path", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, help="default: runs/ablation-SCENE")
    parser.add_argument("extra", nargs="*", help="options for every training, after --")
    args = parser.parse_args()
    out = args.out or Path("runs") / f"ablation-{Path(args.scene).name}"
    options = {method: options_of(method, args.depth, args.depth_path) for method in args.methods}
    out.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[dict[str, Any]]] = {method: [] for method in options}
    for seed in range(args.seeds):
        for method, own in options.items():
            folder = out / f"{method}-seed{seed}"
            train_once(folder, args.scene, seed, args.data_root, [*own, *args.extra])
            runs[method].append(read_run(folder))
            write_json(
                out / "ablation.json", [{"method": m, "options": options[m], "runs": runs[m]} for m in runs if runs[m]]
            )
    results = [{"method": method, "runs": runs[method]} for method in runs]
    print(table(results, {"method": "method"}), differences(results), sep="\n\n")


if __name__ == "__main__":
    main()
