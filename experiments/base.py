"""The base method (no priors) on real scenes: PSNR, SSIM, LPIPS, time and memory as mean ± std over seeds.

    python experiments/base.py --scenes fern fountain-P11 --data-root data [--inits triangulated random] [--seeds 3]

Runs `python -m ipsm_jax.train` once per scene, start and seed, each in a process of its own; a run that is finished is
not done again and one that was interrupted goes on. Writes <out>/base.json first, then prints a Markdown table made
from it. Further options after `--` go to every training, for example `-- --iterations 2000`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from runs import read_run, table, train_once

from ipsm_jax.reporting.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", required=True)
    parser.add_argument("--inits", nargs="+", default=["triangulated", "random"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/base"))
    parser.add_argument("extra", nargs="*", help="options for every training, after --")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = []
    for scene in args.scenes:
        for init in args.inits:
            folders = [args.out / f"{Path(scene).name}-{Path(init).stem}-seed{seed}" for seed in range(args.seeds)]
            for seed, folder in enumerate(folders):
                train_once(folder, scene, seed, args.data_root, ["--init", init, *args.extra])
            results.append({"scene": Path(scene).name, "init": init, "runs": [read_run(f) for f in folders]})
            write_json(args.out / "base.json", results)
    print(table(results, {"scene": "scene", "init": "start"}))


if __name__ == "__main__":
    main()
