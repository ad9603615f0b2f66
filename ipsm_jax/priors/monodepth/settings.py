"""Reading config.json and preprocessor_config.json as transformers writes them.

They hold much that concerns other uses of a model, and leave out what has its default value.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from ipsm_jax.priors.config import PriorError


def present(config: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Those of the named settings that are there."""
    return {name: config[name] for name in names if name in config}


def stages(config: Mapping[str, Any], where: str) -> tuple[int, ...]:
    """Numbers, from 1 and rising, of the backbone's stages whose outputs are used: out_features, else out_indices.

    Raises:
      PriorError: if neither lists any.
    """
    names, indices = config.get("out_features"), config.get("out_indices")
    if isinstance(names, (list, tuple)) and all(re.fullmatch(r"stage\d+", str(name)) for name in names):
        indices = [int(name.removeprefix("stage")) for name in names]
    elif names is not None:
        indices = None
    if (
        not isinstance(indices, (list, tuple))
        or not indices
        or not all(type(i) is int and i > 0 for i in indices)
        or list(indices) != sorted(set(indices))
    ):
        raise PriorError(
            f"{where}: out_features must list stages in rising order (stage1, ...), or out_indices their numbers; "
            f"found {names!r} and {config.get('out_indices')!r}"
        )
    return tuple(indices)
