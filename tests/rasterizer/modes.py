"""Both rasterizers in any mode, and their comparison: images and the gradients of every input, features included.

The reference is compiled once per mode, for MOST channels; fewer are the first of those, the others with cotangent 0.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scenes import View, make_view, quick_jit, relative_error

from ipsm_jax.rasterizer import render
from ipsm_jax.rasterizer.reference import render_reference

COUNT, WIDTH, HEIGHT = 30, 40, 24
MOST = 37  # channels
TOLERANCE = 1e-4  # relative L2 error of each image and each gradient
IMAGES = ("color", "depth", "alpha", "features")


class ModeInputs(NamedTuple):
    """All inputs that have a gradient."""

    view: View
    features: jax.Array  # (n, c)


def make_inputs(seed: int = 90, channels: int = MOST, case=lambda view: view) -> ModeInputs:
    """A scene of the size that the reference is compiled for, changed by `case`, with random features."""
    features = np.random.default_rng(seed).normal(size=(COUNT, channels))
    return ModeInputs(case(make_view(seed, COUNT, WIDTH, HEIGHT)), jnp.asarray(features, jnp.float32))


def random_cotangents(channels: int, seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> tuple[np.ndarray, ...]:
    """One for each of IMAGES."""
    rng = np.random.default_rng(seed)
    shapes = [(height, width, 3), (height, width), (height, width), (height, width, MOST)]
    color, depth, alpha, features = (rng.normal(size=s).astype(np.float32) for s in shapes)
    return color, depth, alpha, features[..., :channels]


def images_of(rendering):
    return tuple(getattr(rendering, name) for name in IMAGES), rendering.radii


@functools.partial(quick_jit, static_argnames=("footprint", "antialiased"))
def run_reference(inputs, alive, footprint, antialiased, cotangents):
    """(images, radii, gradient of `inputs`)."""

    def images(inputs):
        view, features = inputs
        return images_of(
            render_reference(
                *(view.gaussians, view.camera, alive, view.background, 3, view.mean2d_offset, footprint),
                features=features,
                antialiased=antialiased,
            )
        )

    values, pull_back, radii = jax.vjp(images, inputs, has_aux=True)
    return values, radii, pull_back(cotangents)[0]


@functools.partial(jax.jit, static_argnames=("footprint", "antialiased", "with_absolute"))
def run_native(inputs, alive, footprint, antialiased, cotangents, with_absolute=False):
    """(images, radii, gradient of `inputs`, absolute gradient); the last is zero if not asked for."""

    def images(inputs, absolute):
        view, features = inputs
        return images_of(
            render(
                view.gaussians,
                view.camera,
                alive=alive,
                background=view.background,
                mean2d_offset=view.mean2d_offset,
                features=features,
                mean2d_absolute=absolute if with_absolute else None,
                footprint=footprint,
                antialiased=antialiased,
                backend="native",
            )
        )

    values, pull_back, radii = jax.vjp(images, inputs, jnp.zeros_like(inputs.view.mean2d_offset), has_aux=True)
    return values, radii, *pull_back(cotangents)


def check_mode(
    inputs: ModeInputs,
    *,
    alive=None,
    footprint="exact",
    antialiased=False,
    with_absolute=False,
    tolerance=TOLERANCE,
    gradient_tolerance=TOLERANCE,
):
    """Compare the native rasterizer with the reference in float64; returns the native (radii, gradient, absolute)."""
    count, channels = inputs.features.shape
    alive = np.ones(count, bool) if alive is None else np.asarray(alive)
    cotangents = random_cotangents(channels)
    images, radii, gradient, absolute = run_native(inputs, alive, footprint, antialiased, cotangents, with_absolute)
    padded = inputs._replace(features=np.pad(inputs.features, ((0, 0), (0, MOST - channels))))
    padded_cotangents = (*cotangents[:3], np.pad(cotangents[3], ((0, 0), (0, 0), (0, MOST - channels))))
    with jax.enable_x64(True):
        # A float32 number is a float64 number: the reference sees exactly the same inputs.
        double = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), (padded, padded_cotangents))
        wanted, wanted_radii, wanted_gradient = jax.tree.map(
            np.asarray, run_reference(double[0], alive, footprint, antialiased, double[1])
        )
    wanted = (*wanted[:3], wanted[3][..., :channels])
    wanted_gradient = wanted_gradient._replace(features=wanted_gradient.features[:, :channels])
    errors = {name: relative_error(a, b) for name, a, b in zip(IMAGES, images, wanted, strict=True)}
    assert {name: error for name, error in errors.items() if error > tolerance} == {}
    pairs = zip(jax.tree.leaves_with_path(gradient), jax.tree.leaves(wanted_gradient), strict=True)
    errors = {jax.tree_util.keystr(path): relative_error(a, b) for (path, a), b in pairs}
    assert {name: error for name, error in errors.items() if error > gradient_tolerance} == {}
    np.testing.assert_array_equal(radii > 0, wanted_radii > 0)
    return np.asarray(radii), gradient, np.asarray(absolute)
