"""Writing the prior as a folder in diffusers' layout, which `ipsm_jax.priors.embedded.load` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from jaxtyping import Array

from ipsm_jax.priors.embedded.load import STEM
from ipsm_jax.priors.embedded.patches import PatchConfig
from ipsm_jax.reporting.files import atomic_write

SCHEDULER: dict[str, Any] = {
    "_class_name": "DDPMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}


def export(
    folder: Path, unet_json: dict[str, Any], params: dict[str, Array], config: PatchConfig, vae: dict[str, Any]
) -> None:
    """Write network (float16), autoencoder (float32) and schedule; each file appears whole.

    Arrays are made contiguous: the format writes memory as it lies.
    """
    _write_json(folder / "unet" / "config.json", unet_json)
    _write_json(folder / "vae" / "config.json", config.to_json())
    _write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    with np.errstate(over="ignore"):  # said below, by name
        halves = {name: _as_stored(value).astype(np.float16) for name, value in params.items()}
    broken = [name for name, value in halves.items() if not np.isfinite(value).all()]
    if broken:
        raise ValueError(f"weights that float16 cannot hold: {', '.join(broken[:5])}")
    _write_arrays(folder / "unet" / f"{STEM}.fp16.safetensors", halves)
    _write_arrays(
        folder / "vae" / f"{STEM}.safetensors", {name: np.ascontiguousarray(value) for name, value in vae.items()}
    )


def _as_stored(value: Array) -> np.ndarray:
    """Convolution kernels OIHW instead of HWIO."""
    array = np.asarray(jax.device_get(value))
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with atomic_write(path) as temporary:
        safetensors.numpy.save_file(arrays, temporary)
        temporary.chmod(0o644)  # the library writes files that only their owner may read
