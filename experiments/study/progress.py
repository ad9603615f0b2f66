"""Where a batch that was stopped goes on: its states and what was measured so far, in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from ipsm_jax.config import ConfigError
from ipsm_jax.reporting.files import atomic_write
from ipsm_jax.training.state import TrainState

NAME = "progress.safetensors"


def save_progress(folder: Path, states: TrainState, progress: dict[str, Any]) -> None:
    """Write a batch's stacked states, and `progress`, which has to have a JSON form; the file appears whole."""
    leaves = jax.tree_util.tree_leaves_with_path(states._replace(key=jax.random.key_data(states.key)))
    arrays = {jax.tree_util.keystr(place): np.asarray(leaf, order="C") for place, leaf in leaves}
    with atomic_write(folder / NAME) as temporary:
        safetensors.numpy.save_file(arrays, temporary, metadata={"progress": json.dumps(progress)})


def load_progress(folder: Path) -> dict[str, Any] | None:
    """What was saved beside the states, or None if nothing was.

    Raises:
      ConfigError: the file is damaged.
    """
    return None if not (folder / NAME).exists() else _read(folder / NAME, arrays=False)[0]


def load_states(folder: Path, like: TrainState) -> TrainState:
    """The states that were saved, perhaps with more slots than those they are like; raises as `load_progress`."""
    _, arrays = _read(folder / NAME, arrays=True)
    places, structure = jax.tree_util.tree_flatten_with_path(like._replace(key=jax.random.key_data(like.key)))
    leaves = [jnp.asarray(arrays[jax.tree_util.keystr(place)]) for place, _ in places]
    states: TrainState = jax.tree.unflatten(structure, leaves)
    return states._replace(key=jax.random.wrap_key_data(states.key, impl=jax.random.key_impl(like.key)))


def _read(path: Path, arrays: bool) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with safetensors.safe_open(path, "np") as file:
            names = file.keys() if arrays else []
            return json.loads(file.metadata()["progress"]), {name: file.get_tensor(name) for name in names}
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({error}): remove it, and its batch is begun anew") from error
