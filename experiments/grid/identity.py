"""What a run is known by: all that decides about its result, and nothing of where data and results lie."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_files import depth_network_digest, diffusion_digest

from ipsm_jax.config import OutputConfig, TrainConfig, to_json


def config_hash(config: TrainConfig) -> str:
    """16 hex digits of what decides about a result.

    The scene counts by name, so that a grid can be moved to another machine, and a prior by the content of its files
    and by its weights in numbers: both may change with the package, and then it is another run.

    Raises:
      PriorError: the files of a prior are not complete.
    """
    data = dataclasses.replace(config.data, scene=Path(config.data.scene).name, data_root=None)
    text = to_json(dataclasses.replace(_resolved(config), data=data, output=OutputConfig()))
    digests = "".join(f"{name} {digest}\n" for name, digest in _digests(config).items())
    return hashlib.sha256(text + digests.encode()).hexdigest()[:16]


def described(config: TrainConfig) -> dict[str, Any]:
    """For the ledger, of what JSON knows: all settings, and what the hash has besides."""
    return json.loads(to_json(_resolved(config))) | _digests(config)


def settings_of(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Of what `described` has recorded, all that decides about a result but scene and seed; by option."""
    settings: dict[str, Any] = {}
    for name, value in recorded.items():
        if name not in ("seed", "output"):
            settings |= value if isinstance(value, dict) else {name: value}
    return {name: value for name, value in settings.items() if name not in ("scene", "data_root")}


def _resolved(config: TrainConfig) -> TrainConfig:
    """With the weights that a prior brings along as numbers, and without the path of what counts by its content."""
    guidance, depth = config.guidance, config.depth
    if guidance.guidance != "none":
        weights = {f"{term}_weight": weight for term, weight in guidance.weights._asdict().items()}
        guidance = dataclasses.replace(guidance, prior_path=None, **weights)
    if depth.depth == "network":
        depth = dataclasses.replace(depth, depth_path=None)
    return dataclasses.replace(config, guidance=guidance, depth=depth)


def _digests(config: TrainConfig) -> dict[str, str]:
    """Of the priors that a run is trained with."""
    digests = {}
    if config.guidance.guidance != "none":
        digests["prior_digest"] = diffusion_digest(config.guidance.prior, config.guidance.prior_path)
    if config.depth.depth == "network":
        digests["depth_network_digest"] = depth_network_digest(config.depth.depth_path)
    return digests
