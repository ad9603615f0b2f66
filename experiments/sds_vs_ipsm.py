"""Does SDS drift to the wrong picture where IPSM does not? The paper's figure 1 and its ablation, on a laptop.

    python experiments/sds_vs_ipsm.py --scenes demo:2 fern:16 fountain-P11:12 --data-root data
    python experiments/sds_vs_ipsm.py --tune                     # weights, on the built-in scene alone
    python experiments/sds_vs_ipsm.py --scenes fern:8 --prior stable-diffusion --iterations 10000

A scene is name:downscale. Each method trains all seeds in one program; a batch that is finished is not done again.
Writes <out>/<scene>/<method>/result.json first, and at the end makes study.md and its pictures from these.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from study.methods import METHODS, Study
from study.report import write_study
from study.trainings import finished, start_of, train_and_measure
from study.tuning import tune

from ipsm_jax.config.regularization import WEIGHTS
from ipsm_jax.training.environment import enable_compilation_cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", default=["demo:2"], help="name:downscale")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--init", default="auto", help="starting points, as in ipsm-jax train")
    parser.add_argument("--prior", choices=["embedded", "stable-diffusion"], default="embedded")
    parser.add_argument("--prior-path", type=Path)
    parser.add_argument("--prompt", default="", help="for Stable Diffusion")
    parser.add_argument(
        "--published-weights", action="store_true", help="those of Stable Diffusion, where the prior has others"
    )
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--tune", action="store_true", help="compare weights on the first scene instead")
    args = parser.parse_args()
    enable_compilation_cache()
    weights = WEIGHTS["stable-diffusion"] if args.published_weights else None
    study = Study(args.iterations, args.init, args.data_root, args.prior, args.prior_path, args.prompt, weights)
    scenes = dict(parse_scene(text) for text in args.scenes)
    if args.tune:
        print(tune(study, *next(iter(scenes.items())), args.seeds, args.out / "tuning"))
        return
    for scene, downscale in scenes.items():
        start = None
        for method in args.methods:
            config = study.config(scene, downscale, METHODS[method].guidance)
            folder = args.out / Path(scene).name / method
            facts = {"scene": Path(scene).name, "method": method, "seeds": args.seeds, **study.facts}
            facts |= {"init": args.init, "downscale": downscale, "guidance_weights": config.guidance.weights._asdict()}
            if finished(folder, facts | {"iterations": args.iterations}) is not None:
                print(f"{folder} is finished", flush=True)
                continue
            if start is None:
                start = start_of(config, range(args.seeds))
                print(f"{scene}: {start.points}", flush=True)
            print(f"{scene}, {METHODS[method].title}, {args.seeds} seeds", flush=True)
            train_and_measure(config, start, start.states, folder, facts)
    print(write_study(args.out, [Path(scene).name for scene in scenes], args.methods))


def parse_scene(text: str) -> tuple[str, int]:
    """'fern:8' -> ('fern', 8)."""
    name, _, downscale = text.rpartition(":")
    if not name or not downscale.isdigit():
        raise SystemExit(f"a scene is name:downscale, for example fern:16; got {text!r}")
    return name, int(downscale)


if __name__ == "__main__":
    main()
