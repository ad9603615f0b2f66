"""From a picture of any size to a network's input, and from its output back to a map of the picture's size."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ipsm_jax.priors.config import MOST_PIXELS, PriorError, check_settings, integer
from ipsm_jax.priors.monodepth.resize import resize
from ipsm_jax.priors.monodepth.settings import present

Triple = tuple[float, float, float]

# Steps that are always made, or never: files with other values describe another preparation.
_STEPS: dict[str, tuple[Any, ...]] = {
    "do_normalize": (True,),
    "do_pad": (False, None),
    "do_rescale": (True,),
    "do_resize": (True,),
    "resample": (3,),  # bicubic, in Pillow's numbering
    "rescale_factor": (1 / 255,),  # of 8-bit pixels: [0, 1], as pictures are here
}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How pictures in [0, 1] are prepared: resized bicubically, then (x - mean) / deviation.

    Attributes:
      height, width: of the network's input; with `keep_aspect`, what it has to cover.
      mean, deviation: per channel.
      keep_aspect: scale both sides alike, so that one is as wanted and the other at least as long.
      multiple: of which the sides of the input are, then.
    """

    height: int
    width: int
    mean: Triple
    deviation: Triple
    keep_aspect: bool = False
    multiple: int = 1

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the network's input for a picture of (height, width)."""
        if not self.keep_aspect:
            return self.height, self.width
        scale = max(self.height / height, self.width / width)
        return self._side(scale * height, self.height), self._side(scale * width, self.width)

    def _side(self, length: float, least: int) -> int:
        nearest = round(length / self.multiple) * self.multiple
        return nearest if nearest >= least else math.ceil(least / self.multiple) * self.multiple

    def prepare(self, image: Float[Array, "h w 3"]) -> Float[Array, "1 h2 w2 3"]:
        """The network's input, float32."""
        x = resize(image[None].astype(jnp.float32), self.input_size(*image.shape[:2]), "cubic")
        mean, deviation = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, 3) for v in (self.mean, self.deviation))
        return (x - mean) / deviation

    def restore(self, output: Float[Array, "1 h2 w2"], size: tuple[int, int]) -> Float[Array, "h w"]:
        """The network's map at the picture's (height, width), bicubic; may undershoot 0 a little at edges."""
        return resize(output[..., None], size, "cubic")[0, :, :, 0]


def normalization(config: Mapping[str, Any], where: str, default: Preprocessing) -> tuple[Triple, Triple]:
    """Mean and deviation of a preprocessor_config.json, where it has any.

    Raises:
      PriorError: if one is not three numbers, or a deviation is not positive.
    """
    found = []
    for key, usual in (("image_mean", default.mean), ("image_std", default.deviation)):
        values = config.get(key, usual)
        if (
            not isinstance(values, (list, tuple))
            or len(values) != 3
            or not all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e38 for v in values)
            or (key == "image_std" and min(values) <= 0)
        ):
            kind = "positive numbers" if key == "image_std" else "numbers"
            raise PriorError(f"{where}: {key} must be three {kind}, found {values!r}")
        found.append((float(values[0]), float(values[1]), float(values[2])))
    return found[0], found[1]


def read_preprocessing(config: Mapping[str, Any], where: str, default: Preprocessing) -> Preprocessing:
    """A preprocessor_config.json of transformers' DPTImageProcessor; what it leaves out is as in `default`.

    Raises:
      PriorError: if a setting is malformed or asks for what is not implemented here.
    """
    check_settings(present(config, _STEPS), _STEPS, set(), where)
    size = config.get("size", {"height": default.height, "width": default.width})
    if isinstance(size, int):
        size = {"height": size, "width": size}
    keep_aspect = config.get("keep_aspect_ratio", default.keep_aspect)
    if not isinstance(size, Mapping) or not isinstance(keep_aspect, bool):
        raise PriorError(
            f"{where}: size must be a number or {{height, width}} and keep_aspect_ratio true or false, found "
            f"{size!r} and {keep_aspect!r}"
        )
    mean, deviation = normalization(config, where, default)
    result = Preprocessing(
        height=integer(size, "height", f"{where}, size", most=MOST_PIXELS),
        width=integer(size, "width", f"{where}, size", most=MOST_PIXELS),
        mean=mean,
        deviation=deviation,
        keep_aspect=keep_aspect,
        multiple=integer(config, "ensure_multiple_of", where, default.multiple, most=MOST_PIXELS),
    )
    if not keep_aspect and (result.height % result.multiple or result.width % result.multiple):
        raise PriorError(
            f"{where}: size {result.height} x {result.width} is not a multiple of ensure_multiple_of={result.multiple}"
        )
    return result
