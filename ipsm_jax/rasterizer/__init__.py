"""Gaussians and a camera in, image, depth and alpha out; differentiable.

Conventions are those of the original 3D Gaussian splatting.
"""

from ipsm_jax.rasterizer.native import NativeUnavailableError
from ipsm_jax.rasterizer.pairs import compiled_renderer, fit_pairs
from ipsm_jax.rasterizer.render import render
from ipsm_jax.rasterizer.rendering import Rendering

__all__ = ["NativeUnavailableError", "Rendering", "compiled_renderer", "fit_pairs", "render"]
