"""Small scenes for rasterizer tests: numpy in, `Gaussians` and `Camera` out, in the precision asked for."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ipsm_jax.scene.camera import Camera, look_at
from ipsm_jax.scene.gaussians import Gaussians

# The reference is compiled in many shapes and run once in each, on a handful of pixels: optimizing it costs more than
# it saves. For the outermost jit only.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class View(NamedTuple):
    """All inputs of a rendering that have a gradient."""

    gaussians: Gaussians
    camera: Camera
    background: jax.Array
    mean2d_offset: jax.Array


def make_camera(width: int, height: int, focal: float, dtype=jnp.float32) -> Camera:
    """A camera at an uneven place, looking at about (0, 0, 4), principal point off the center."""
    matrix = look_at([0.3, -0.2, -0.4], [0.1, 0.05, 4.0], [0.1, -1.0, 0.05])
    intrinsics = [focal, 1.05 * focal, 0.5 * width + 0.3, 0.5 * height - 0.4]
    return Camera(jnp.asarray(matrix, dtype), jnp.asarray(intrinsics, dtype), width, height)


def identity_camera(width: int, height: int, focal: float, dtype=jnp.float32) -> Camera:
    """At the world's origin, principal point in the middle of the image."""
    intrinsics = jnp.asarray([focal, focal, width / 2, height / 2], dtype)
    return Camera(jnp.eye(4, dtype=dtype), intrinsics, width, height)


def make_gaussians(seed: int, count: int, size: float = 0.25, dtype=jnp.float32) -> Gaussians:
    """`count` Gaussians around (0, 0, 4): anisotropic, of any opacity, view-dependent, some channels clamped."""
    rng = np.random.default_rng(seed)
    arrays = Gaussians(
        means=rng.normal(size=(count, 3)) * [0.9, 0.7, 0.8] + [0.0, 0.0, 4.0],
        log_scales=np.log(size) + 0.6 * rng.normal(size=(count, 3)),
        quaternions=rng.normal(size=(count, 4)),
        opacity_logits=1.5 * rng.normal(size=count),
        sh_dc=rng.normal(size=(count, 3)),
        sh_rest=0.25 * rng.normal(size=(count, 15, 3)),
    )
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), arrays)


def make_view(seed: int, count: int, width: int, height: int, *, size: float = 0.25, dtype=jnp.float32) -> View:
    """Gaussians, camera, background and offsets; the focal length makes the Gaussians fill the picture."""
    rng = np.random.default_rng(seed + 1000)
    return View(
        make_gaussians(seed, count, size, dtype),
        make_camera(width, height, 1.3 * max(width, height), dtype),
        jnp.asarray(rng.uniform(size=3), dtype),
        jnp.asarray(0.3 * rng.normal(size=(count, 2)), dtype),
    )


def single_gaussian(mean, *, scale=0.1, logit=0.0, dc=(0.0, 0.0, 0.0), quaternion=(1, 0, 0, 0), dtype=jnp.float32):
    """One Gaussian; `scale` is a standard deviation or three of them."""
    return Gaussians(
        means=jnp.asarray([mean], dtype),
        log_scales=jnp.log(jnp.broadcast_to(jnp.asarray(scale, dtype), (1, 3))),
        quaternions=jnp.asarray([quaternion], dtype),
        opacity_logits=jnp.asarray([logit], dtype),
        sh_dc=jnp.asarray([dc], dtype),
        sh_rest=jnp.zeros((1, 15, 3), dtype),
    )


def concatenate(*parts: Gaussians) -> Gaussians:
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)


def relative_error(actual, expected) -> float:
    """|actual - expected| / |expected| in the L2 norm; the absolute norm where both are about nothing."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert np.isfinite(actual).all() and np.isfinite(expected).all()
    return float(np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-12))


def check_gradient(loss, inputs) -> np.ndarray:
    """Compare the gradient of `loss` at the float64 pytree `inputs` with central differences, number by number.

    Returns the gradient, flat.
    """
    flat, unflatten = ravel_pytree(inputs)
    assert flat.dtype == jnp.float64
    step = 1e-6

    def flat_loss(flat):
        return loss(unflatten(flat))

    @quick_jit
    def both(flat):
        steps = step * jnp.eye(flat.size)
        values = jax.lax.map(lambda shift: flat_loss(flat + shift), jnp.concatenate([steps, -steps]))
        return jax.grad(flat_loss)(flat), (values[: flat.size] - values[flat.size :]) / (2 * step)

    gradient, differences = (np.asarray(a) for a in both(flat))
    np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-6 * np.abs(gradient).max())
    return gradient
