"""Reading networks from folders in diffusers' layout: a sub-folder per network with config.json and safetensors files.

`check_weights`, `read_weights` and `read_json` serve folders of a single network as well.

Everything is checked before anything is allocated: which files are there, and from the files' headers that they hold
exactly the arrays that the network's structure asks for. Pickles (.bin, .ckpt, .pt) are refused.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from safetensors import SafetensorError, safe_open

from ipsm_jax.priors.config import PriorError, integer, positive
from ipsm_jax.priors.diffusion import scaled_linear_schedule
from ipsm_jax.priors.layers import Shape

# Name of the weight file of each network, without suffix.
STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
# What a complete folder holds besides weights and their config.json.
EXTRA_FILES = {
    "tokenizer": ("tokenizer/vocab.json", "tokenizer/merges.txt"),
    "scheduler": ("scheduler/scheduler_config.json",),
}
WHOLE = (*STEMS, *EXTRA_FILES)

# Files that can run code when opened.
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_DTYPES = ("F32", "F16", "BF16")
_MOST_STEPS = 100_000
_NAMED = 5  # names of arrays listed in a message


class FolderReport(NamedTuple):
    """What a checkpoint folder holds of the parts asked for: relative paths, and those weights that are pickles."""

    present: tuple[str, ...]
    missing: tuple[str, ...]
    pickles: tuple[str, ...]


class StoredArray(NamedTuple):
    """Where an array lies: file, its name there, and its shape there."""

    path: Path
    name: str
    shape: Shape


class CheckedWeights(NamedTuple):
    """The arrays of one network, found to be complete: place by name as the code knows it."""

    folder: Path
    arrays: Mapping[str, StoredArray]


def inspect_folder(folder: Path, parts: Collection[str] = WHOLE) -> FolderReport:
    """Which files of the given parts are there; opens none of them."""
    present: list[str] = []
    missing: list[str] = []
    pickles: list[str] = []
    for part in parts:
        for file in EXTRA_FILES.get(part, (f"{part}/config.json",)):
            (present if (folder / file).is_file() else missing).append(file)
        if part in STEMS:
            weights = weight_file(folder / part, STEMS[part])
            if weights is not None:
                present.append(f"{part}/{weights}")
                continue
            missing.append(f"{part}/{STEMS[part]}.safetensors")
            if (folder / part).is_dir():
                found = sorted(p.name for p in (folder / part).iterdir() if p.suffix in PICKLES)
                pickles += [f"{part}/{name}" for name in found]
    return FolderReport(tuple(present), tuple(missing), tuple(pickles))


def require_folder(folder: Path, parts: Collection[str], repository: str) -> None:
    """Check that all files of the given parts are there.

    Args:
      folder: where to look.
      parts: keys of `STEMS` and `EXTRA_FILES`.
      repository: name of the checkpoint on Hugging Face, for the message.

    Raises:
      PriorError: saying what is there, what is not, and how to get it.
    """
    if folder.is_file():
        kind = "a pickle, which can run code when opened" if folder.suffix in PICKLES else "a single file"
        raise PriorError(f"{folder} is {kind}; what is read is a folder in diffusers' layout. {_convert(folder)}")
    report = inspect_folder(folder, parts)
    if not report.missing:
        return
    get = f"Get it with: {download_command(repository, needed_files(parts), folder)}"
    if not folder.is_dir():
        raise PriorError(f"there is no folder {folder}. {get}")
    found = ", ".join(report.present) or "nothing of it"
    text = f"{folder} is incomplete. There: {found}. Missing: {', '.join(report.missing)}."
    if report.pickles:
        text += f" {', '.join(report.pickles)}: a pickle can run code when opened, and is not read. {_convert(folder)}"
    raise PriorError(f"{text} {get}")


def needed_files(parts: Collection[str]) -> list[str]:
    """The files of the given parts, relative, weights whole and in full precision."""
    files = [file for part in parts for file in EXTRA_FILES.get(part, (f"{part}/config.json",))]
    return files + [f"{part}/{STEMS[part]}.safetensors" for part in parts if part in STEMS]


def download_command(repository: str, files: Collection[str], folder: Path) -> str:
    """What to type to get these files of a repository on Hugging Face and no others, pickles least of all."""
    return f"hf download {repository} {' '.join(files)} --local-dir {shlex.quote(str(folder))}"


def _convert(folder: Path) -> str:
    load = "from_single_file" if folder.is_file() else "from_pretrained"
    out = folder.with_name(folder.stem + "-safetensors")
    return (
        "If you trust it, convert it with torch and diffusers installed: python -c 'from diffusers import "
        f'StableDiffusionPipeline as P; P.{load}("{folder}").save_pretrained("{out}", safe_serialization=True)\'.'
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      PriorError: if it cannot be read or is no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PriorError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise PriorError(f"{path} must hold a JSON object, found {type(content).__name__}")
    return content


def weight_file(folder: Path, stem: str) -> str | None:
    """The file to read: whole, else in pieces (their index), else in half precision."""
    names = (f"{stem}.safetensors", f"{stem}.safetensors.index.json", f"{stem}.fp16.safetensors")
    return next((name for name in names if (folder / name).is_file()), None)


def _weight_files(folder: Path, stem: str) -> list[Path]:
    name = weight_file(folder, stem)
    if name is None:
        raise PriorError(f"{folder} has no {stem}.safetensors")
    if not name.endswith(".json"):
        return [folder / name]
    pieces = read_json(folder / name).get("weight_map")
    if not isinstance(pieces, dict) or not all(isinstance(v, str) and Path(v).name == v for v in pieces.values()):
        raise PriorError(f"{folder / name}: weight_map must map names of arrays to files beside it")
    files = [folder / piece for piece in sorted(set(pieces.values()))]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise PriorError(f"{folder / name} lists {len(files)} files, of which are missing: {', '.join(absent)}")
    return files


def _stored_arrays(path: Path) -> dict[str, StoredArray]:
    """The arrays of one file, from its header."""
    try:
        with safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            kinds = {name: view.get_dtype() for name, view in slices.items()}
            found = {name: StoredArray(path, name, tuple(view.get_shape())) for name, view in slices.items()}
    except (OSError, SafetensorError) as error:
        raise PriorError(
            f"{path} ({path.stat().st_size} bytes) is damaged or cut off, download it again: {error}"
        ) from error
    odd = [f"{name} ({kind})" for name, kind in kinds.items() if kind not in _DTYPES and "position_ids" not in name]
    if odd:
        raise PriorError(f"{path}: arrays must be one of {', '.join(_DTYPES)}, found {_some(odd)}")
    return found


def check_weights(
    folder: Path,
    shapes: Mapping[str, Shape],
    *,
    stem: str | None = None,
    rename: Callable[[str], str] = lambda name: name,
    ignored: Collection[str] = (),
) -> CheckedWeights:
    """Check that a network's files hold exactly what it needs, from their headers alone.

    Args:
      folder: the network's folder.
      shapes: what the network needs; rank-4 shapes are HWIO (in the file: OIHW).
      stem: name of the weight file without suffix; None takes what diffusers calls it in a folder of this name.
      rename: from a name in the file to the name that the code knows.
      ignored: names in the file that hold nothing learned.

    Raises:
      PriorError: naming missing, unknown, doubled and misshapen arrays.
    """
    found: dict[str, StoredArray] = {}
    problems: dict[str, list[str]] = {"missing": [], "unknown": [], "there twice": [], "of another shape": []}
    for path in _weight_files(folder, STEMS[folder.name] if stem is None else stem):
        for stored_name, array in _stored_arrays(path).items():
            name = rename(stored_name)
            if stored_name in ignored:
                continue
            if name not in shapes:
                problems["unknown"].append(stored_name)
            elif name in found:
                problems["there twice"].append(f"{found[name].name} and {stored_name}")
            elif array.shape != file_shape(shapes[name]):
                problems["of another shape"].append(
                    f"{stored_name} {list(array.shape)} instead of {list(file_shape(shapes[name]))}"
                )
            found[name] = array
    problems["missing"] = [name for name in shapes if name not in found]
    text = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in problems.items() if names)
    if text:
        raise PriorError(f"the arrays in {folder} do not fit its config.json: {text}")
    return CheckedWeights(folder, {name: found[name] for name in shapes})


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def file_shape(shape: Shape) -> Shape:
    """The shape that an array has in the file: convolution kernels OIHW instead of HWIO."""
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape


def read_weights(weights: CheckedWeights, dtype: Any) -> dict[str, Array]:
    """Read and convert the arrays, one after another; convolution kernels become HWIO.

    Args:
      weights: from `check_weights`.
      dtype: of the result.

    Raises:
      PriorError: if one holds a number that is not finite.
    """
    params: dict[str, Array] = {}
    for path in sorted({array.path for array in weights.arrays.values()}):
        with safe_open(path, "np") as file:
            for name, array in weights.arrays.items():
                if array.path == path:
                    value = file.get_tensor(array.name)
                    if not np.isfinite(value).all():
                        raise PriorError(f"{path} is damaged, download it again: {array.name} holds NaN or infinity")
                    value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
                    params[name] = jnp.asarray(np.ascontiguousarray(value.astype(dtype)))
    return jax.block_until_ready(params)


def read_schedule(path: Path) -> Float[np.ndarray, " t"]:
    """Cumulative alphas of a scheduler_config.json.

    Raises:
      PriorError: if it asks for anything but scaled-linear betas and the prediction of noise.
    """
    config = read_json(path)
    for key, wanted in (("beta_schedule", "scaled_linear"), ("prediction_type", "epsilon"), ("trained_betas", None)):
        if config.get(key, wanted) != wanted:
            raise PriorError(f"{path}: {key} must be {wanted!r}, found {config[key]!r}")
    steps = integer(config, "num_train_timesteps", str(path), 1000, most=_MOST_STEPS)
    start, end = (positive(config, key, str(path)) for key in ("beta_start", "beta_end"))
    try:
        return scaled_linear_schedule(steps, start, end)
    except ValueError as error:
        raise PriorError(f"{path}: {error}") from error
