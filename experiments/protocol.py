"""A published protocol (llff.py, dtu.py): every scene that is there with every method and seed, and the tables."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from ablation import METHODS, options_of
from protocol_tables import tables
from runs import read_run, train_once

from ipsm_jax.config import ConfigError, parse_command_line
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.extras import mask_files
from ipsm_jax.data.load import read_capture, view_names
from ipsm_jax.data.locate import data_roots, find_scene
from ipsm_jax.data.splits import choose_split
from ipsm_jax.priors.config import PriorError
from ipsm_jax.priors.locate import find_depth_network, find_stable_diffusion
from ipsm_jax.reporting.files import write_json

DEFAULT_METHODS = ("base", "ipsm-gaussian")


class Protocol(NamedTuple):
    """A data set as it is evaluated.

    Attributes:
      key: name of its split, and in `published.PUBLISHED`.
      title: in tables.
      scenes: folder names of each scene, in the order in which they are tried.
      masked: whether figures are over the object only, which takes masks.
      help: where to get it and how to lay it out.
    """

    key: str
    title: str
    scenes: dict[str, tuple[str, ...]]
    masked: bool
    help: str


class Found(NamedTuple):
    """A scene that is there: the folder's name as it was found, where, and whether it has object masks."""

    name: str
    folder: Path
    masks: bool


def find_scenes(protocol: Protocol, data_root: Path | None, views: int) -> tuple[dict[str, Found], dict[str, str]]:
    """Which scenes can be trained on, and a sentence for each that cannot: what was looked for, and where."""
    found, missing = {}, {}
    for scene, names in protocol.scenes.items():
        try:
            found[scene] = _find(protocol, scene, names, data_root, views)
        except DataError as error:
            missing[scene] = str(error)
    return found, missing


def _find(protocol: Protocol, scene: str, names: tuple[str, ...], data_root: Path | None, views: int) -> Found:
    """Raises DataError, in one line, if the scene is not there or does not fit the protocol."""
    for name in names:
        try:
            folder = find_scene(name, data_root)
        except DataError as error:
            first = str(error).splitlines()[0]
            if "holds no scene" in first:  # there is such a folder, but not what should be in it
                raise DataError(f"{scene} is left out: {first}") from error
            continue
        try:
            capture = read_capture(folder)
            choose_split(protocol.key, len(capture.photos), views)
            masks = protocol.masked and mask_files(capture, view_names(capture.photos)) is not None
        except DataError as error:
            raise DataError(f"{scene} is left out: {folder}: {str(error).splitlines()[0]}") from error
        return Found(name, folder, masks)
    raise DataError(f"{scene} is missing: no scene called {' or '.join(names)} in {_places(data_root)}")


def _places(data_root: Path | None) -> str:
    places = [
        f"{label} = {root.absolute()}{'' if root.is_dir() else ' (no such folder)'}"
        for label, root in data_roots(data_root)
    ]
    return f"{', '.join(places)}, or their usual sub-folders"


def _nothing(protocol: Protocol, asked: list[str], missing: dict[str, str], data_root: Path | None) -> str:
    """Why nothing can be trained: those that are not there at all in one sentence, what is wrong with the others."""
    absent = [scene for scene in asked if f"{scene} is missing" in missing[scene]]
    lines = [missing[scene] for scene in asked if scene not in absent]
    if absent:
        lines = [f"no {protocol.title} scene ({', '.join(absent)}) was found in {_places(data_root)}", *lines]
    return "\n".join([*lines, protocol.help])


def usable_defaults(extra: list[str], depth: str, depth_path: Path | None) -> tuple[list[str], list[str]]:
    """The default methods whose weights are here, and a sentence for each that is left out."""
    config = parse_command_line(["--scene", "any", *extra])
    try:
        if config.guidance.prior == "stable-diffusion":
            find_stable_diffusion(config.guidance.prior_path)
        if depth == "network":
            find_depth_network(depth_path)
    except PriorError:
        return ["base"], [
            "ipsm-gaussian is left out: not all of plain and inpainting Stable Diffusion and a depth network were "
            "found (ipsm-jax doctor says where they are looked for, and how to get them). Without any: --depth stereo "
            "-- --prior embedded"
        ]
    return list(DEFAULT_METHODS), []


def run_protocol(protocol: Protocol, description: str | None) -> None:
    """The command: train what is not finished, write the JSON after each run, print the tables made from it.

    Raises:
      SystemExit: if no scene is there, or a training fails.
    """
    args = _arguments(protocol, description)
    out = args.out or Path(f"runs/{protocol.key}-{args.views}views")
    path = out / f"{protocol.key}.json"
    if not args.table_only:
        _train(protocol, args, out, path)
    if not path.is_file():
        raise SystemExit(f"{path} does not exist: run without --table-only first, or name its folder with --out")
    print(tables(json.loads(path.read_text())))


def _arguments(protocol: Protocol, description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder that holds the scenes; else $IPSM_JAX_DATA, ./data")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        metavar="METHOD",
        help=f"of {' '.join(METHODS)}; default: {' and '.join(DEFAULT_METHODS)} where its weights are found",
    )
    parser.add_argument("--scenes", nargs="+", choices=protocol.scenes, metavar="SCENE", help="default: all")
    parser.add_argument("--views", type=int, default=3, help="training views")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--depth", choices=["stereo", "maps", "network"], default="network", help="published: network")
    parser.add_argument("--depth-path", type=Path)
    parser.add_argument("--out", type=Path, help=f"default: runs/{protocol.key}-3views and the like")
    parser.add_argument("--table-only", action="store_true", help="train nothing, print what the JSON in --out holds")
    parser.add_argument("extra", nargs="*", help="options for every training, after --")
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {args.seeds}")
    return args


def _train(protocol: Protocol, args: argparse.Namespace, out: Path, path: Path) -> None:
    found, missing = find_scenes(protocol, args.data_root, args.views)
    asked = args.scenes or list(protocol.scenes)
    missing = {scene: reason for scene, reason in missing.items() if scene in asked}
    missing |= {scene: f"{scene} was not asked for" for scene in protocol.scenes if scene not in asked}
    found = {scene: one for scene, one in found.items() if scene in asked}
    if not found:
        raise SystemExit(_nothing(protocol, asked, missing, args.data_root))
    try:
        methods, remarks = (
            (args.methods, []) if args.methods else usable_defaults(args.extra, args.depth, args.depth_path)
        )
    except ConfigError as error:
        raise SystemExit(str(error)) from error
    unmasked = [scene for scene, one in found.items() if protocol.masked and not one.masks]
    for sentence in [*missing.values(), *remarks]:
        print(sentence, flush=True)
    fixed = ["--split", protocol.key, "--views", str(args.views)]
    saved: dict[str, Any] = {
        "protocol": protocol.key,
        "title": protocol.title,
        "views": args.views,
        "scenes": list(protocol.scenes),
        "folders": {scene: one.folder for scene, one in found.items()},
        "missing": missing,
        "unmasked": unmasked,
        "methods": {m: [*options_of(m, args.depth, args.depth_path), *args.extra] for m in methods},
        "extra": args.extra,
        "remarks": remarks,
        "runs": [],
    }
    for seed in range(args.seeds):
        for scene, one in found.items():
            for method, options in saved["methods"].items():
                folder = out / f"{scene}-{method}-seed{seed}"
                train_once(folder, one.name, seed, args.data_root, [*fixed, *options])
                saved["runs"].append({"scene": scene, "method": method, "seed": seed, **read_run(folder)})
                write_json(path, saved)
