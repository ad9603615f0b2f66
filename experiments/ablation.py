"""Which start and which term helps how much: mean ± std over seeds, against the first method of the list.

    python experiments/ablation.py --scenes demo --methods base geometry depth geometry+depth --depth exact
    python experiments/ablation.py --scenes fern fountain-P11 --data-root data --methods random triangulated stereo best
    python experiments/ablation.py --scenes fern --methods base sds g1 ipsm -- --prior-path priors --prompt "a fern"

Runs `python -m ipsm_jax.train` once per scene, method and seed, each in a process of its own, all methods of a seed
before the next seed; a run that is finished is not done again and one that was interrupted goes on. Writes
<out>/ablation.json after each, and at the end prints Markdown tables made from it: for each scene the figures, and the
differences to the first method with the same seed. Further options after `--` go to every training.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from runs import METRICS, mean_and_deviation, read_run, table, train_once

from ipsm_jax.reporting.files import write_json

GEOMETRY = ["--geometry"]
BOTH = [*GEOMETRY, "DEPTH"]
STARTS = ("random", "triangulated", "stereo")
METHODS: dict[str, list[str]] = {
    **{start: ["--init", start] for start in STARTS},
    **{f"{start}+geometry+depth": ["--init", start, *BOTH] for start in STARTS},
    "best": ["--preset", "best"],
    "base": [],
    "geometry": GEOMETRY,
    "depth": ["DEPTH"],
    "geometry+depth": BOTH,
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
    """Markdown: what each further method of a scene adds to the first, run by run of the same seed."""
    first = results[0]
    titles = ["method", *(f"{title} - {first['method']}" for title, _ in METRICS.values())]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for result in results[1:]:
        cells = [result["method"]]
        for name, (_, digits) in METRICS.items():
            pairs = [(run[name], reference[name]) for run, reference in zip(result["runs"], first["runs"], strict=True)]
            gains = [None if None in pair else pair[0] - pair[1] for pair in pairs]
            cells.append(mean_and_deviation(gains, digits, "+"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", required=True)
    default = ["base", "geometry", "depth", "geometry+depth"]
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=default, metavar="METHOD", help=" ".join(METHODS)
    )
    parser.add_argument("--depth", choices=["exact", "stereo", "maps", "network"])
    parser.add_argument("--depth-path", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("extra", nargs="*", help="options for every training, after --")
    args = parser.parse_args()
    options = {method: options_of(method, args.depth, args.depth_path) for method in args.methods}
    if len({Path(scene).name for scene in args.scenes}) < len(args.scenes):
        parser.error(f"two scenes have the same name, and so would their runs: {' '.join(args.scenes)}")
    args.out.mkdir(parents=True, exist_ok=True)
    results = [
        {"scene": Path(scene).name, "method": method, "options": [*own, *args.extra], "runs": []}
        for scene in args.scenes
        for method, own in options.items()
    ]
    for seed in range(args.seeds):
        for scene in args.scenes:
            for result in (r for r in results if r["scene"] == Path(scene).name):
                folder = args.out / f"{result['scene']}-{result['method']}-seed{seed}"
                train_once(folder, scene, seed, args.data_root, result["options"])
                result["runs"].append(read_run(folder))
                write_json(args.out / "ablation.json", [r for r in results if r["runs"]])
    for scene in args.scenes:
        mine = [result for result in results if result["scene"] == Path(scene).name]
        print(table(mine, {"scene": "scene", "method": "method"}), differences(mine), sep="\n\n", end="\n\n")


if __name__ == "__main__":
    main()
