"""The antialiased mode: closed forms, conservation of light, finite differences in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from modes import ModeInputs
from scenes import check_gradient, identity_camera, make_view, quick_jit, single_gaussian

from ipsm_jax.rasterizer import render
from ipsm_jax.rasterizer.reference import render_reference

FOCAL, DEPTH = 40.0, 4.0
CAMERA = identity_camera(17, 17, FOCAL)  # the optical axis goes through the middle of the central pixel
render_one = quick_jit(
    lambda gaussians, backend, antialiased=True: render(gaussians, CAMERA, antialiased=antialiased, backend=backend),
    static_argnums=(1, 2),
)


def one(deviations, *, logit=3.0, quaternion=(1, 0, 0, 0)):
    """A Gaussian in the middle whose standard deviations along its axes are these many pixels."""
    scale = np.asarray(deviations) * DEPTH / FOCAL
    return single_gaussian([0, 0, DEPTH], scale=scale, logit=logit, quaternion=quaternion)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_factor_of_a_round_gaussian(backend):
    opacity = 1 / (1 + math.exp(-3))
    for deviation in (0.1, 0.3, 1.0, 5.0):
        variance = deviation**2
        rendering = render_one(one([deviation] * 3), backend)
        # In the middle the exponent is 0.
        np.testing.assert_allclose(rendering.alpha[8, 8], opacity * variance / (variance + 0.3), rtol=2e-5)
        np.testing.assert_allclose(rendering.depth[8, 8], DEPTH * rendering.alpha[8, 8], rtol=1e-5)


@pytest.mark.parametrize("turn", [0.0, 0.3, math.pi / 4])
def test_factor_of_a_needle_in_any_direction(turn):
    opacity, (long, thin) = 1 / (1 + math.exp(-3)), (4.0, 0.05)
    gaussians = one([long, thin, 1.0], quaternion=[math.cos(turn / 2), 0, 0, math.sin(turn / 2)])
    factor = math.sqrt(long**2 * thin**2 / ((long**2 + 0.3) * (thin**2 + 0.3)))
    rendering = render(gaussians, CAMERA, antialiased=True)
    # The third axis points at the camera and does not count.
    np.testing.assert_allclose(rendering.alpha[8, 8], opacity * factor, rtol=2e-4)


def test_light_is_that_of_the_undilated_gaussian():
    # Sum over pixels of opacity * exp(...), where the Gaussian is wide after dilation and cut at 1/255 all the same.
    for deviation in (0.4, 1.0, 2.0):
        gaussians = one([deviation] * 3, logit=0.0)
        total = float(jnp.sum(render(gaussians, CAMERA, antialiased=True).alpha))
        expected = 0.5 * 2 * math.pi * deviation**2
        dilated = float(jnp.sum(render(gaussians, CAMERA).alpha))
        assert abs(total - expected) < 0.08 * expected
        assert dilated > expected * (1 + 0.25 / deviation**2)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_what_the_factor_brings_below_the_threshold_is_not_seen(backend):
    # opacity * s^2 / (s^2 + 0.3) against 1/255
    for deviation, seen in ((0.03, False), (0.04, True)):
        opacity = 1 / (1 + math.exp(-3))
        assert (opacity * deviation**2 / (deviation**2 + 0.3) >= 1 / 255) == seen
        rendering = render_one(one([deviation] * 3), backend)
        assert (rendering.radii[0] > 0) == seen
        assert bool(rendering.alpha.any()) == seen
        assert render_one(one([deviation] * 3), backend, False).radii[0] > 0


def test_nothing_changes_far_above_a_pixel():
    gaussians = one([200.0] * 3)
    plain, antialiased = (render(gaussians, CAMERA, antialiased=mode) for mode in (False, True))
    np.testing.assert_allclose(antialiased.alpha, plain.alpha, rtol=2e-5)


def test_every_gradient_is_that_of_finite_differences():
    """Of the reference, which the native rasterizer is compared with elsewhere; features are among the inputs."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        cotangents = [jnp.asarray(rng.normal(size=s)) for s in ((12, 11, 3), (12, 11), (12, 11), (12, 11, 2))]

        def loss(inputs):
            view, features = inputs
            rendering = render_reference(
                *(view.gaussians, view.camera, jnp.ones(4, bool), view.background, 3, view.mean2d_offset, "exact"),
                features=features,
                antialiased=True,
            )
            images = (rendering.color, rendering.depth, rendering.alpha, rendering.features)
            return sum(jnp.vdot(a, c) for a, c in zip(images, cotangents, strict=True))

        # In front of the camera: beside the image the Jacobian's limit moves with the focal length, without gradient.
        view = make_view(8, 4, 11, 12, size=0.2, dtype=jnp.float64)
        means = view.gaussians.means * jnp.array([[0.4, 0.4, 1.0]])
        logits = jnp.abs(view.gaussians.opacity_logits) + 1
        view = view._replace(gaussians=view.gaussians._replace(means=means, opacity_logits=logits))
        inputs = ModeInputs(view, jnp.asarray(rng.normal(size=(4, 2))))
        gradient = check_gradient(loss, inputs)
        assert np.count_nonzero(gradient) > 0.9 * gradient.size
