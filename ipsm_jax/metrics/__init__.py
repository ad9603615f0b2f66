"""How near a rendered picture is to the photo: PSNR, SSIM, LPIPS and their mean AVGE (METHOD section 8)."""

from ipsm_jax.metrics.perceptual import LpipsUnavailableError, LpipsWeights, LpipsWeightsError, load_lpips, lpips
from ipsm_jax.metrics.pixelwise import average_error, psnr, ssim, whiten_background

__all__ = [
    "LpipsUnavailableError",
    "LpipsWeights",
    "LpipsWeightsError",
    "average_error",
    "load_lpips",
    "lpips",
    "psnr",
    "ssim",
    "whiten_background",
]
