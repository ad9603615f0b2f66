"""All metrics of a view by name, and their means: what metrics.json holds (METHOD section 8).

A value that could not be computed is None and its name has a reason; nothing ever stands in for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ipsm_jax.metrics.perceptual import LpipsUnavailableError, Network, check_size, load_lpips, lpips
from ipsm_jax.metrics.pixelwise import average_error, psnr, ssim, whiten_background

Values = dict[str, float | None]

VARIANTS: dict[str, str] = {
    "psnr": "dB, from the mean squared error over pixels and channels of the 8-bit pictures. Higher is better.",
    "ssim": "11x11 Gaussian window, sigma 1.5, zero padding, C1 = 0.01^2, C2 = 0.03^2; mean over pixels and channels. "
    "Higher is better.",
    "lpips_vgg": "LPIPS 0.1 with VGG16, pictures rescaled to [-1, 1] as it is defined. Lower is better.",
    "lpips_vgg_unscaled": "LPIPS 0.1 with VGG16 fed pictures in [0, 1], as the published tables of sparse-view methods "
    "do: the figure to compare with them. Lower is better.",
    "lpips_alex": "LPIPS 0.1 with AlexNet, pictures rescaled to [-1, 1]. Lower is better.",
    "avge": "geometric mean of 10^(-PSNR/10), sqrt(1 - SSIM) and lpips_vgg; of the mean metrics in the mean. Lower is "
    "better.",
    "avge_unscaled": "the same with lpips_vgg_unscaled: the figure to compare with published tables. Lower is better.",
}
MASKED = " Outside the object mask both pictures are white, and PSNR counts object pixels only."

_LPIPS: dict[str, tuple[Network, bool]] = {
    "lpips_vgg": ("vgg", True),
    "lpips_vgg_unscaled": ("vgg", False),
    "lpips_alex": ("alex", True),
}
_AVERAGES = {"avge": "lpips_vgg", "avge_unscaled": "lpips_vgg_unscaled"}


class MetricSuite(NamedTuple):
    """Metrics for pictures of one size.

    Attributes:
      measure: (image, target, mask or None) -> value by name; pictures (H, W, 3) float in [0, 1], mask (H, W) bool.
      not_computed: reason by name of a metric that `measure` leaves None.
    """

    measure: Callable[[Any, Any, Any], Values]
    not_computed: dict[str, str]


def metric_suite(height: int, width: int, *, with_lpips: bool | None = None) -> MetricSuite:
    """The metrics that can be computed here.

    Args:
      height, width: size of the pictures.
      with_lpips: True needs the LPIPS weights, False leaves LPIPS out, None takes it if the weights are installed.

    Raises:
      LpipsUnavailableError: if with_lpips is True and the weights are not installed.
    """
    missing: dict[str, str] = {}
    functions = {}
    for name, (network, rescale) in _LPIPS.items():
        if with_lpips is False:
            missing[name] = "LPIPS was left out as asked (--no-lpips)."
            continue
        try:
            weights = load_lpips(network)
            check_size(network, height, width)
        except (LpipsUnavailableError, ValueError) as error:
            if with_lpips and isinstance(error, LpipsUnavailableError):
                raise
            missing[name] = f"{error}."
            continue
        functions[name] = partial(_lpips, weights, rescale=rescale)
    for name, part in _AVERAGES.items():
        if part in missing:
            missing[name] = f"It needs {part}."

    def measure(image: Any, target: Any, mask: Any = None) -> Values:
        image, target = jnp.asarray(image, jnp.float32), jnp.asarray(target, jnp.float32)
        values: Values = dict.fromkeys(VARIANTS)
        values["psnr"] = _finite(psnr(image, target, mask))
        if mask is not None:
            image, target = whiten_background(image, mask), whiten_background(target, mask)
        values["ssim"] = _finite(_ssim(image, target))
        values |= {name: _finite(function(image, target)) for name, function in functions.items()}
        return _with_averages(values)

    return MetricSuite(measure, missing)


_ssim = jax.jit(ssim)
_lpips = jax.jit(lpips, static_argnames="rescale")


def mean_metrics(views: Mapping[str, Values]) -> tuple[Values, dict[str, str]]:
    """Mean over the views with equal weight, AVGE from the means; and reasons for means that do not exist."""
    mean: Values = dict.fromkeys(VARIANTS)
    reasons = {}
    for name in VARIANTS:
        numbers = [value for row in views.values() if (value := row[name]) is not None]
        without = [view for view, row in views.items() if row[name] is None]
        if numbers and not without:
            mean[name] = float(np.mean(numbers))
        elif numbers or name == "psnr":
            why = " (equal pictures, or no object pixel)" if name == "psnr" else ""
            reasons[name] = (
                f"It is not a finite number in {', '.join(without)}{why}." if without else "There are no views."
            )
    return _with_averages(mean), reasons


def _with_averages(values: Values) -> Values:
    for name, part in _AVERAGES.items():
        parts = (values["psnr"], values["ssim"], values[part])
        values[name] = None if None in parts else _finite(average_error(*parts))  # type: ignore[arg-type]
    return values


def _finite(value: Any) -> float | None:
    """As a Python number; None for infinity and NaN, which JSON has no words for."""
    number = float(value)
    return number if math.isfinite(number) else None
