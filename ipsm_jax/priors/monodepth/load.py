"""Reading a depth network from a folder as transformers saves it: config.json, weights, preprocessor_config.json.

The last may be missing; the published values are taken then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ipsm_jax.priors.checkpoint import (
    PICKLES,
    CheckedWeights,
    check_weights,
    download_command,
    read_json,
    read_weights,
    weight_file,
)
from ipsm_jax.priors.config import PriorError
from ipsm_jax.priors.depth import DepthPrior
from ipsm_jax.priors.layers import stored
from ipsm_jax.priors.monodepth import depth_anything, dpt_hybrid
from ipsm_jax.priors.monodepth.preprocessing import Preprocessing, read_preprocessing

STEM = "model"
"""Name of the weight file, without suffix."""


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A depth network with its preparation of pictures, as `DepthPrior.predict`.

    Attributes:
      network: (config, weights, prepared pictures) -> maps.
      config: its structure.
      preprocessing: how pictures are prepared.
    """

    network: Callable[..., Array]
    config: Any
    preprocessing: Preprocessing

    def __call__(self, params: Any, image: Float[Array, "h w 3"]) -> Float[Array, "h w"]:
        """Inverse depth of one picture at its own size."""
        output = self.network(self.config, stored(params), self.preprocessing.prepare(image))
        return self.preprocessing.restore(output, (image.shape[0], image.shape[1]))


@dataclasses.dataclass(frozen=True)
class CheckedNetwork:
    """A folder found to be complete, with nothing large read yet."""

    predictor: Predictor
    weights: CheckedWeights

    def size_in_bytes(self, dtype: Any) -> int:
        """Memory that the weights take in this dtype."""
        count = sum(int(np.prod(array.shape)) for array in self.weights.arrays.values())
        return count * np.dtype(dtype).itemsize


def check_depth_network(folder: Path) -> CheckedNetwork:
    """Check files, structure, and names and shapes of all arrays, without reading any array.

    Args:
      folder: of DPT-Hybrid (model_type "dpt" in config.json) or Depth Anything ("depth_anything").

    Raises:
      PriorError: what is missing, unknown or does not fit, by name, and what to do.
    """
    folder = Path(folder)
    _require(folder)
    where = str(folder / "config.json")
    settings = read_json(folder / "config.json")
    preparation, preparing = {}, folder / "preprocessor_config.json"
    if preparing.is_file():
        preparation = read_json(preparing)
    kind = settings.get("model_type")
    if kind == "dpt":
        hybrid = dpt_hybrid.DPTHybridConfig.from_json(settings, where)
        weights = check_weights(folder, dpt_hybrid.dpt_hybrid_shapes(hybrid), stem=STEM, ignored=dpt_hybrid.IGNORED)
        preprocessing = dpt_hybrid.read_preprocessing(preparation, str(preparing))
        return CheckedNetwork(Predictor(dpt_hybrid.inverse_depth, hybrid, preprocessing), weights)
    if kind == "depth_anything":
        config = depth_anything.DepthAnythingConfig.from_json(settings, where)
        shapes = depth_anything.depth_anything_shapes(config)
        weights = check_weights(folder, shapes, stem=STEM, ignored=depth_anything.IGNORED)
        preprocessing = read_preprocessing(preparation, str(preparing), depth_anything.PREPROCESSING)
        if preprocessing.multiple % config.patch:
            raise PriorError(
                f"{preparing}: ensure_multiple_of must be a multiple of the patches' {config.patch} pixels, found "
                f"{preprocessing.multiple}"
            )
        return CheckedNetwork(Predictor(depth_anything.inverse_depth, config, preprocessing), weights)
    raise PriorError(
        f"{where}: model_type must be dpt ({dpt_hybrid.REPOSITORY}) or depth_anything ({depth_anything.REPOSITORY}), "
        f"found {kind!r}"
    )


def load_depth_network(folder: Path, dtype: Any = jnp.float32) -> DepthPrior:
    """Read a depth network (METHOD section 4).

    Args:
      folder: see `check_depth_network`.
      dtype: float32 or bfloat16, in which weights are kept and everything but sums is computed. The map is float32.

    Raises:
      PriorError: what is missing, unknown or does not fit, by name, and what to do.
      ValueError: for another dtype.
    """
    if jnp.dtype(dtype) not in (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)):
        raise ValueError(f"dtype must be float32 or bfloat16, got {dtype}")
    network = check_depth_network(folder)
    return DepthPrior(params=read_weights(network.weights, dtype), predict=network.predictor)


def _require(folder: Path) -> None:
    """Check that config.json and the weights are there."""
    get = " or ".join(
        download_command(repository, ("config.json", "preprocessor_config.json", f"{STEM}.safetensors"), folder)
        for repository in (depth_anything.REPOSITORY, dpt_hybrid.REPOSITORY)
    )
    if not folder.is_dir():
        found = f"{folder} is a file, not a folder" if folder.exists() else f"there is no folder {folder}"
        raise PriorError(f"{found}. What is read is a depth network's folder with config.json. Get one with: {get}")
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if weight_file(folder, STEM) is None:
        missing.append(f"{STEM}.safetensors")
    if not missing:
        return
    text = f"{folder} is incomplete. Missing: {', '.join(missing)}."
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        safe = folder.with_name(f"{folder.name}-safetensors")
        text += (
            f" There is {', '.join(pickles)}, but a pickle can run code when opened, and is not read. If you trust "
            "it, convert it with torch and transformers installed: python -c 'from transformers import "
            f'AutoModelForDepthEstimation as M; M.from_pretrained("{folder}").save_pretrained("{safe}")\'.'
        )
    raise PriorError(f"{text} Get it with: {get}")
