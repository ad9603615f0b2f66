"""A training state on disk and back, bit for bit.

A checkpoint is one safetensors file, ``checkpoints/<iteration>.safetensors``: the arrays of a `TrainState`, named by
their place in it (``gaussians.means``, ``moments.mu.means``, ...), and in its header the settings of the run. Reading
one executes nothing. Files appear by rename, so a killed process leaves whole ones only.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

import ipsm_jax
from ipsm_jax.config import ConfigError, TrainConfig, from_json, to_json
from ipsm_jax.errors import InputError
from ipsm_jax.reporting.files import atomic_write
from ipsm_jax.scene.gaussians import zeros
from ipsm_jax.training.state import TrainState, init_state

FOLDER = "checkpoints"
FORMAT = "ipsm_jax training state 1"
KEPT = 2
"""Number of checkpoints kept, the newest ones; the last one of a finished run is among them."""


class CheckpointError(InputError):
    """A checkpoint that is not there or cannot be used; the message names the file and what is wrong with it."""


def checkpoint_path(folder: Path, iteration: int) -> Path:
    """File of the checkpoint after `iteration` in a run folder."""
    return folder / FOLDER / f"{iteration:06d}.safetensors"


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """Checkpoints of a run folder by iteration, ascending; files of other names are left alone."""
    found = {
        int(path.stem): path
        for path in (folder / FOLDER).glob("*.safetensors")
        if path.stem.isascii() and path.stem.isdigit()
    }
    return dict(sorted(found.items()))


def save_checkpoint(folder: Path, config: TrainConfig, state: TrainState) -> Path:
    """Write the state into a run folder and remove all but the newest 2 checkpoints; returns the new file.

    Raises:
      CheckpointError: the file cannot be written, as on a full disk; no other is touched then.
    """
    iteration = int(state.step)
    header = {
        "format": FORMAT,
        "version": ipsm_jax.__version__,
        "iteration": str(iteration),
        "key_type": str(jax.random.key_impl(state.key)),
        "config": to_json(config).decode(),
    }
    path = checkpoint_path(folder, iteration)
    try:
        with atomic_write(path) as temporary:
            safetensors.numpy.save_file(_to_arrays(state), temporary, metadata=header)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be written: {error}. Those saved before are intact: --resume goes on from them"
        ) from error
    for old in list(list_checkpoints(folder).values())[:-KEPT]:
        if old != path:
            old.unlink(missing_ok=True)
    return path


def load_checkpoint(path: Path) -> tuple[TrainConfig, TrainState]:
    """Read one checkpoint file.

    Raises:
      CheckpointError: the file is missing, damaged, no checkpoint of this program, or of a layout it does not know.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged or no checkpoint: {error}") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is no checkpoint of this program: format {header.get('format')!r} instead of {FORMAT!r}"
        )
    try:
        config = from_json(header["config"], f"checkpoint {path}")
        return config, _to_state(arrays, header["key_type"])
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be used: {error}") from error


def load_run(folder: Path, iteration: int | None = None) -> tuple[TrainConfig, TrainState]:
    """Settings and state of a run, from the checkpoint after `iteration` or else from its newest usable one.

    A damaged newest checkpoint is reported by a warning, and the one before it is taken.

    Raises:
      CheckpointError: no such checkpoint, or none that can be used.
    """
    folder = Path(folder)
    found = list_checkpoints(folder)
    if not found:
        raise CheckpointError(f"{folder} holds no checkpoint (looked for {folder / FOLDER}/NNNNNN.safetensors)")
    if iteration is not None:
        if iteration not in found:
            raise CheckpointError(f"{folder} has checkpoints after iterations {list(found)}, not after {iteration}")
        return load_checkpoint(found[iteration])
    problems = []
    for path in reversed(found.values()):
        try:
            loaded = load_checkpoint(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warnings.warn(f"{problem}; using {path.name} instead", stacklevel=2)
        return loaded
    raise CheckpointError(f"no checkpoint of {folder} can be used: {'; '.join(problems)}")


def _to_arrays(state: TrainState) -> dict[str, np.ndarray]:
    """All arrays of the state on the host, by name; the key as the numbers behind it."""
    state = state._replace(key=jax.random.key_data(state.key))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    # safetensors writes the buffer as it lies, so it must be contiguous.
    return {_name(path): np.asarray(jax.device_get(leaf), order="C") for path, leaf in leaves}


def _to_state(arrays: dict[str, np.ndarray], key_type: str) -> TrainState:
    """The reverse of `_to_arrays`; every name, shape and type must be the expected one."""
    if "gaussians.means" not in arrays or arrays["gaussians.means"].ndim != 2:
        raise ValueError("it lacks gaussians.means")
    capacity = arrays["gaussians.means"].shape[0]

    def skeleton() -> TrainState:
        state = init_state(jax.random.key(0, impl=key_type), zeros(capacity), jnp.zeros(capacity, bool))
        return state._replace(key=jax.random.key_data(state.key))

    expected = jax.eval_shape(skeleton)
    leaves, structure = jax.tree_util.tree_flatten_with_path(expected)
    names = [_name(path) for path, _ in leaves]
    if set(names) != set(arrays):
        raise ValueError(
            f"missing arrays {sorted(set(names) - set(arrays))}, unknown arrays {sorted(set(arrays) - set(names))}"
        )
    for name, (_, leaf) in zip(names, leaves, strict=True):
        found = arrays[name]
        if found.shape != leaf.shape or found.dtype != leaf.dtype:
            raise ValueError(f"{name} is {found.dtype}{found.shape} instead of {leaf.dtype}{leaf.shape}")
    if (arrays["alive"].view(np.uint8) > 1).any():
        raise ValueError("alive holds bytes that are neither 0 nor 1")
    if arrays["step"] < 0:
        raise ValueError(f"it says that {arrays['step']} iterations are done")
    state = jax.tree_util.tree_unflatten(structure, [jnp.asarray(arrays[name]) for name in names])
    return state._replace(key=jax.random.wrap_key_data(state.key, impl=key_type))


def _name(path: tuple[Any, ...]) -> str:
    """('gaussians', 'means') -> 'gaussians.means'."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def describe(folder: Path) -> str:
    """One phrase on how far a run folder has got, for messages."""
    found = list_checkpoints(folder)
    return f"with a checkpoint after iteration {max(found)}" if found else "without a checkpoint yet"
