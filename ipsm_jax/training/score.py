"""PSNR and SSIM of the test views while training: quick figures for the log, without files or LPIPS."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from ipsm_jax.config import OptimizationConfig
from ipsm_jax.data.scene import Scene
from ipsm_jax.metrics import psnr, ssim, whiten_background
from ipsm_jax.rasterizer import Rendering, compiled_renderer
from ipsm_jax.training.state import TrainState


def score_test_views(config: OptimizationConfig, scene: Scene, state: TrainState) -> tuple[float, float]:
    """Mean PSNR in dB and mean SSIM over the test views of a scene (METHOD section 8, without the 8-bit rounding).

    Raises:
      ValueError: the scene has no test views.
    """
    if not scene.test:
        raise ValueError(f"scene {scene.name} has no test views to measure")
    draw = _renderer(config)
    total = [0.0, 0.0]
    for index in scene.test:
        camera, photo = scene.cameras[index], jnp.asarray(scene.images[index], jnp.float32) / 255
        image = jnp.clip(draw(state.gaussians, camera, state.alive).color, 0, 1)
        mask = None if scene.masks is None else jnp.asarray(scene.masks[index])
        if mask is not None:
            image, photo = whiten_background(image, mask), whiten_background(photo, mask)
        total[0] += float(psnr(image, photo, mask))
        total[1] += float(ssim(image, photo))
    return total[0] / len(scene.test), total[1] / len(scene.test)


@functools.cache
def _renderer(config: OptimizationConfig) -> Callable[..., Rendering]:
    background = np.asarray(config.background, np.float32)
    return compiled_renderer(background=background, sh_degree=3, backend=config.backend)
