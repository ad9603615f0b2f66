"""Where the weights of the networks are looked for.

The places, in this order: the folder given, and then no other; otherwise $IPSM_JAX_PRIORS, ./priors, and the cache of
Hugging Face's programs. In a place, a model is the first complete one of

1. the folder itself,
2. a sub-folder named as the model's repository, as ``hf download --local-dir`` is used below,
3. the repository's snapshot, if the place is laid out as Hugging Face's cache is: that of main before older ones,
4. the only other sub-folder that is such a model; if there are several, one has to be given.

If the folder itself is one of two models, the other one may also lie beside it, where the same rules hold. Which model
a folder holds is read from its config.json, never guessed from its name. No array is read, and nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from ipsm_jax.priors.checkpoint import (
    WHOLE,
    FolderReport,
    download_command,
    inspect_folder,
    needed_files,
    read_json,
    require_folder,
    weight_file,
)
from ipsm_jax.priors.config import PriorError
from ipsm_jax.priors.stable_diffusion import INPAINTING_REPOSITORY, PLAIN_REPOSITORY

VARIABLE = "IPSM_JAX_PRIORS"
LOCAL = Path("priors")
_LISTED = 8  # names of sub-folders listed in a message


@dataclasses.dataclass(frozen=True)
class Model:
    """One model to look for.

    Attributes:
      title: what messages call it.
      repositories: where it is to be had on Hugging Face; of several models that will do, the best one first.
      former: other names that it has had there.
      files: what is worth downloading, relative.
      kind_of: whether a folder is this model: its title, or what speaks against it.
      inspect: which files of it a folder has.
    """

    title: str
    repositories: tuple[str, ...]
    former: tuple[str, ...]
    files: tuple[str, ...]
    kind_of: Callable[[Path], str]
    inspect: Callable[[Path], FolderReport]

    def complete_in(self, folder: Path) -> bool:
        """Whether a folder is this model and has all its files."""
        return self.kind_of(folder) == self.title and not self.inspect(folder).missing


def _diffusion_kind(folder: Path) -> str:
    config = folder / "unet" / "config.json"
    if not config.is_file():
        return "has no unet/config.json"
    try:
        channels = read_json(config).get("in_channels")
    except PriorError as error:
        return str(error)
    if channels in (4, 9):
        return "plain Stable Diffusion" if channels == 4 else "inpainting Stable Diffusion"
    return f"unet/config.json has in_channels {channels!r}, where 4 is plain and 9 inpainting"


def _depth_kind(folder: Path) -> str:
    config = folder / "config.json"
    if not config.is_file():
        return "has no config.json"
    try:
        kind = read_json(config).get("model_type")
    except PriorError as error:
        return str(error)
    return "depth network" if kind in ("dpt", "depth_anything") else f"config.json has model_type {kind!r}"


_DEPTH_FILES = ("config.json", "model.safetensors")


def _inspect_depth(folder: Path) -> FolderReport:
    weights = weight_file(folder, "model")
    wanted = ("config.json", weights or "model.safetensors")
    present = tuple(name for name in wanted if (folder / name).is_file())
    missing = tuple(name for name in wanted if name not in present)
    pickles = tuple(name for name in ("pytorch_model.bin",) if (folder / name).is_file())
    return FolderReport(present, missing, () if weights else pickles)


PLAIN = Model(
    title="plain Stable Diffusion",
    repositories=(PLAIN_REPOSITORY,),
    former=("sd-legacy/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"),
    files=tuple(needed_files(WHOLE)),
    kind_of=_diffusion_kind,
    inspect=inspect_folder,
)
INPAINTING = Model(
    title="inpainting Stable Diffusion",
    repositories=(INPAINTING_REPOSITORY,),
    former=("sd-legacy/stable-diffusion-inpainting", "runwayml/stable-diffusion-inpainting"),
    files=tuple(needed_files(("unet",))),
    kind_of=_diffusion_kind,
    inspect=lambda folder: inspect_folder(folder, ("unet",)),
)
DEPTH = Model(
    title="depth network",
    repositories=("Intel/dpt-hybrid-midas", "depth-anything/Depth-Anything-V2-Small-hf"),  # the paper's first
    former=(),
    files=(*_DEPTH_FILES, "preprocessor_config.json"),
    kind_of=_depth_kind,
    inspect=_inspect_depth,
)


def find_stable_diffusion(path: Path | None = None) -> tuple[Path, Path]:
    """The folders of Stable Diffusion's plain and inpainting model; of the latter only unet/ is needed.

    Args:
      path: the only place to look in; None looks in all the usual ones, for each model on its own.

    Raises:
      PriorError: if one of them is not complete anywhere: what was looked for, each place and what is there and what is
        not, and how to get it.
    """
    if path is not None and Path(path).expanduser().is_file():
        require_folder(Path(path).expanduser(), WHOLE, PLAIN_REPOSITORY)  # says what to do with such a file
    plain, inpainting = _find((PLAIN, INPAINTING), path)
    return plain, inpainting


def find_depth_network(path: Path | None = None) -> Path:
    """The folder of a network for monocular depth: DPT (the paper's is preferred) or Depth Anything.

    Args:
      path: the only place to look in; None looks in all the usual ones.

    Raises:
      PriorError: as `find_stable_diffusion`.
    """
    return _find((DEPTH,), path)[0]


def places(path: Path | None = None) -> list[tuple[str, Path | None]]:
    """Where weights are looked for, in order, each with what to call it; None where a variable is not set."""
    if path is not None:
        return [("the folder given", Path(path).expanduser())]
    variable = os.environ.get(VARIABLE)
    return [
        (f"${VARIABLE}", Path(variable).expanduser() if variable else None),
        ("./priors", LOCAL),
        ("Hugging Face's cache", hugging_face_cache()),
    ]


def hugging_face_cache() -> Path:
    """Where Hugging Face's programs keep what they download: by their environment variables, else in ~/.cache."""
    if explicit := os.environ.get("HF_HUB_CACHE"):
        return Path(explicit).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or f"{caches}/huggingface").expanduser() / "hub"


def _find(models: tuple[Model, ...], path: Path | None) -> list[Path]:
    """A folder for each of the models."""
    looked = places(path)
    try:
        found = {model: _first(_search(model, models, place) for _, place in looked if place) for model in models}
        if None in found.values():
            raise PriorError(_not_found(found, looked))
    except OSError as error:
        raise PriorError(f"looking for weights: {error.filename} cannot be read ({error.strerror})") from error
    return [folder for folder in found.values() if folder is not None]


def _first(folders: Iterable[Path | None]) -> Path | None:
    return next((folder for folder in folders if folder is not None), None)


def _search(model: Model, models: tuple[Model, ...], place: Path) -> Path | None:
    """The model in a place, by the rules of the module's docstring."""
    for around in _surroundings(models, place):
        named = [around, *(around / name for name in _local_names(model)), *_snapshots(model, around)]
        found = _first(folder for folder in named if model.complete_in(folder))
        others = [folder for folder in _sub_folders(around) if folder not in named and model.complete_in(folder)]
        if found is None and len(others) > 1:
            names = ", ".join(folder.name for folder in others)
            raise PriorError(
                f"{around} holds {len(others)} folders with a {model.title}: {names}; give one of them as the folder, "
                f"or name it {_local_names(model)[0]}"
            )
        if found or others:
            return found or others[0]
    return None


def _surroundings(models: tuple[Model, ...], place: Path) -> list[Path]:
    """The place, and the folder around it if the place itself is one of the models."""
    is_model = any(model.kind_of(place) == model.title for model in models)
    return [place, place.absolute().parent] if is_model and len(models) > 1 else [place]


def _local_names(model: Model) -> list[str]:
    """What ``hf download --local-dir`` is told to call it."""
    return [repository.split("/")[1] for repository in model.repositories]


def _snapshots(model: Model, cache: Path) -> list[Path]:
    """Folders of the model's repositories in a folder laid out as Hugging Face's cache is."""
    found = []
    for repository in (*model.repositories, *model.former):
        folder = cache / f"models--{repository.replace('/', '--')}"
        main = folder / "refs" / "main"
        newest = main.read_text(encoding="utf-8", errors="replace").strip() if main.is_file() else ""
        found += sorted(_sub_folders(folder / "snapshots"), key=lambda snapshot: snapshot.name != newest)
    return found


def _sub_folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []


def _not_found(found: dict[Model, Path | None], looked: list[tuple[str, Path | None]]) -> str:
    """What was looked for, each place and what it has, and the commands that get what is missing."""
    models = tuple(found)
    missing = [model for model in models if found[model] is None]
    lines = [f"no complete {' and no complete '.join(model.title for model in missing)} was found in"]
    for label, place in looked:
        lines.append(f"- {label}{': not set' if place is None else f' = {place.absolute()}'}")
        lines += [f"    {line}" for line in _contents(models, place)] if place is not None else []
    lines += [f"The {model.title} is {folder}." for model, folder in found.items() if folder is not None]
    lines.append("Nothing is downloaded by itself; to get what is missing (hf is in the package huggingface_hub):")
    home = next(place for _, place in looked if place is not None)
    around = _surroundings(models, home)[-1]
    for model in missing:
        for i, repository in enumerate(model.repositories):
            whole = len(models) > 1 and model.kind_of(home) == model.title
            target = home if whole else around / repository.split("/")[1]
            lines += ["  or"] if i else []
            lines.append(f"    {download_command(repository, model.files, target)}")
    return "\n".join(lines)


def _contents(models: tuple[Model, ...], place: Path) -> list[str]:
    """What a place has of the models, a line for each folder that has something."""
    if not place.is_dir():
        return ["a file, not a folder" if place.exists() else "no such folder"]
    lines = []
    for around in _surroundings(models, place):
        snapshots = [snapshot for model in models for snapshot in _snapshots(model, around)]
        for folder in dict.fromkeys([around, *_sub_folders(around), *snapshots]):
            name = "itself" if folder == place else os.path.relpath(folder, place)
            kind = models[0].kind_of(folder)
            report = next((m.inspect(folder) for m in models if m.title == kind), None)
            if report is not None:
                lines.append(f"{name}: {kind}, {_completeness(report)}")
                continue
            report = models[0].inspect(folder)
            if report.present or folder.name in {local for model in models for local in _local_names(model)}:
                there = ", ".join(report.present) or "nothing of it"
                lines.append(f"{name}: {kind}; there: {there}")
    if lines:
        return lines
    inside = [child.name for child in _sub_folders(place)]
    more = ", ..." if len(inside) > _LISTED else ""
    return [f"nothing of it; folders there: {', '.join(inside[:_LISTED]) or 'none'}{more}"]


def _completeness(report: FolderReport) -> str:
    if not report.missing:
        return "complete"
    text = f"incomplete: there are {', '.join(report.present)}; missing are {', '.join(report.missing)}"
    if report.pickles:
        text += f" ({', '.join(report.pickles)} can run code when opened and is not read)"
    return text
