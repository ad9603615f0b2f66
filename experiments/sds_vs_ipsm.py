"""Does SDS drift to the wrong picture where IPSM does not? The paper's figure 1 and its ablation, on a laptop.

    python experiments/sds_vs_ipsm.py --scenes demo:2 fern:16 fountain-P11:12 --data-root data
    python experiments/sds_vs_ipsm.py --tune                     # weights, on the built-in scene alone
    python experiments/sds_vs_ipsm.py --scenes fern:8 --prior stable-diffusion --iterations 10000

A scene is name:downscale. Each method trains all seeds in one program. A batch that is finished is not done again, and
one that was stopped goes on from where it was last measured, a tenth of its iterations ago at most. What can be found
missing is found before anything is trained. Writes <out>/<scene>/<method>/result.json first, and at the end makes
study.md and its pictures from these.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from study.methods import METHODS, Study
from study.report import write_study
from study.trainings import LOOKS, finished, load_checked, start_of, train_and_measure
from study.tuning import tune

from ipsm_jax.config import ConfigError, TrainConfig
from ipsm_jax.config.regularization import WEIGHTS
from ipsm_jax.train import check_device
from ipsm_jax.trained import EXPECTED_ERRORS
from ipsm_jax.training.batch_loop import BrokenRunError
from ipsm_jax.training.environment import enable_compilation_cache
from ipsm_jax.training.lock import locked


class Todo(NamedTuple):
    """A batch that is not finished."""

    method: str
    config: TrainConfig
    folder: Path
    facts: dict[str, Any]


def main() -> int:
    """Run the command; returns the exit code: 0, 1 training failed, 2 unusable input, 130 stopped on request."""
    args = _arguments()
    try:
        run(args)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from where the batch was last measured", file=sys.stderr)
        return 130
    except BrokenRunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except EXPECTED_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(args: argparse.Namespace) -> None:
    """Refuse what cannot be done, train what is not finished, and write the study.

    Raises:
      one of `EXPECTED_ERRORS`: unusable input; the message is meant for the person.
      BrokenRunError: a loss is not a number, or no Gaussian is left.
    """
    scenes = parse_scenes(args.scenes)
    if args.seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, got {args.seeds}")
    if args.iterations < LOOKS:
        raise ConfigError(f"--iterations must be at least {LOOKS}: so often is it measured; got {args.iterations}")
    check_device()
    check_writable(args.out)
    with locked(args.out, "--out"):
        train_all(args, scenes)


def train_all(args: argparse.Namespace, scenes: dict[str, int]) -> None:
    """Do what `run` has not refused, in a folder that nobody else works in; raises what `run` does."""
    enable_compilation_cache()
    weights = WEIGHTS["stable-diffusion"] if args.published_weights else None
    study = Study(args.iterations, args.init, args.data_root, args.prior, args.prior_path, args.prompt, weights)
    if args.tune:
        print(tune(study, *next(iter(scenes.items())), args.seeds, args.out / "tuning"))
        return
    waiting = {scene: unfinished(study, scene, scenes[scene], args) for scene in scenes}
    loaded = {scene: load_checked([todo.config for todo in batches]) for scene, batches in waiting.items() if batches}
    starts = {scene: start_of(waiting[scene][0].config, found, range(args.seeds)) for scene, found in loaded.items()}
    for scene, start in starts.items():
        print(f"{scene}: {start.points}", flush=True)
        for todo in waiting[scene]:
            print(f"{scene}, {METHODS[todo.method].title}, {args.seeds} seeds", flush=True)
            train_and_measure(todo.config, start, start.states, todo.folder, todo.facts)
    print(write_study(args.out, [Path(scene).name for scene in scenes], args.methods))


def unfinished(study: Study, scene: str, downscale: int, args: argparse.Namespace) -> list[Todo]:
    """The batches of a scene that are to be done, all of the same seeds and settings but for guidance.

    Raises:
      ConfigError, PriorError: settings that cannot be used, or other ones than those of results that are there.
    """
    batches = []
    for method in dict.fromkeys(args.methods):
        config = study.config(scene, downscale, METHODS[method].guidance)
        folder = args.out / Path(scene).name / method
        facts = {"scene": Path(scene).name, "method": method, "seeds": args.seeds, **study.facts}
        facts |= {"init": args.init, "downscale": downscale, "guidance_weights": config.guidance.weights._asdict()}
        if finished(folder, facts | {"iterations": args.iterations}) is None:
            batches.append(Todo(method, config, folder, facts))
        else:
            print(f"{folder} is finished", flush=True)
    return batches


def parse_scenes(texts: list[str]) -> dict[str, int]:
    """['fern:8'] -> {'fern': 8}.

    Raises:
      ConfigError: for other forms, and for two scenes whose results would lie in the same folder.
    """
    scenes: dict[str, int] = {}
    for text in texts:
        name, _, downscale = text.rpartition(":")
        if not name or not (downscale.isascii() and downscale.isdigit()):
            raise ConfigError(f"a scene is name:downscale, for example fern:16; got {text!r}")
        if Path(name).name in {Path(other).name for other in scenes}:
            raise ConfigError(f"two scenes have the same name, and so would their results: {' '.join(texts)}")
        scenes[name] = int(downscale)
    return scenes


def check_writable(folder: Path) -> None:
    """Make the folder for results.

    Raises:
      ConfigError: that, or a file in it, cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"--out {folder} cannot be written to ({error.strerror}): choose another") from error


def _arguments() -> argparse.Namespace:
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
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
