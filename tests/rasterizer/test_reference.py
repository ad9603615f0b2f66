"""The reference rasterizer against loops over pixels, closed forms and float64 finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brute_force import render_loop
from scenes import View, check_gradient, concatenate, identity_camera, make_view, quick_jit, single_gaussian

from ipsm_jax.rasterizer.reference import render_reference
from ipsm_jax.scene.gaussians import zeros

FOOTPRINTS = ("exact", "3sigma")


def trace_view(view, alive, sh_degree=3, footprint="exact", max_per_tile=None):
    return render_reference(
        view.gaussians, view.camera, alive, view.background, sh_degree, view.mean2d_offset, footprint, max_per_tile
    )


render_view = quick_jit(trace_view, static_argnames=("footprint", "max_per_tile"))


def render_plain(gaussians, camera, background=(0.0, 0.0, 0.0), max_per_tile=None):
    count = gaussians.capacity
    view = View(gaussians, camera, jnp.asarray(background, jnp.float32), jnp.zeros((count, 2)))
    return render_view(view, jnp.ones(count, bool), max_per_tile=max_per_tile)


@pytest.mark.parametrize("footprint", FOOTPRINTS)
def test_image_is_that_of_loops_over_pixels(footprint):
    with jax.enable_x64(True):
        view = make_view(1, 25, 33, 18, dtype=jnp.float64)
        # Some opaque enough for the clamp at 0.99 and for pixels to end early.
        gaussians = view.gaussians._replace(opacity_logits=view.gaussians.opacity_logits.at[:12].set(6.0))
        view = view._replace(gaussians=gaussians)
        alive = np.arange(25) % 7 != 3
        for sh_degree in range(4):
            actual = render_view(view, jnp.asarray(alive), sh_degree, footprint)
            *expected, _, visible = render_loop(
                gaussians, view.camera, alive, view.background, sh_degree, view.mean2d_offset, footprint
            )
            for got, wanted in zip(actual[:3], expected, strict=True):
                np.testing.assert_allclose(got, wanted, atol=1e-11)
            np.testing.assert_array_equal(actual.radii > 0, visible)
        assert 1 - actual.alpha.max() < 1e-3 and visible.sum() >= 12


def test_one_gaussian_in_closed_form():
    camera = identity_camera(9, 7, focal=10.0)
    color = np.array([0.2, 0.5, 0.9])
    gaussians = single_gaussian([0, 0, 4], scale=0.8, logit=0.3, dc=(color - 0.5) / 0.28209479)
    background = np.array([0.3, 0.1, 0.7])
    result = render_plain(gaussians, camera, background)
    variance = (10 * 0.8 / 4) ** 2 + 0.3
    columns, rows = np.meshgrid(np.arange(9) + 0.5 - 4.5, np.arange(7) + 0.5 - 3.5)
    alpha = np.exp(-0.5 * (columns**2 + rows**2) / variance) / (1 + np.exp(-0.3))
    alpha = np.where(alpha >= 1 / 255, alpha, 0)
    np.testing.assert_allclose(result.alpha, alpha, atol=1e-6)
    np.testing.assert_allclose(result.depth, 4 * alpha, atol=4e-6)
    np.testing.assert_allclose(result.color, alpha[..., None] * color + (1 - alpha[..., None]) * background, atol=2e-6)


def layers(depths, logits, colors):
    """Gaussians behind one another, so wide that they are flat over a small image."""
    parts = [
        single_gaussian([0, 0, z], scale=1000.0, logit=logit, dc=[(c - 0.5) / 0.28209479] * 3)
        for z, logit, c in zip(depths, logits, colors, strict=True)
    ]
    return concatenate(*parts)


def test_nearer_gaussian_covers_the_farther_whatever_the_slots():
    camera = identity_camera(3, 2, focal=10.0)
    far_first = layers([5.0, 2.0], [0.0, 0.0], [1.0, 0.2])
    near_first = jax.tree.map(lambda a: a[::-1], far_first)
    for gaussians in (far_first, near_first):
        result = render_plain(gaussians, camera, (0.4, 0.4, 0.4))
        np.testing.assert_allclose(result.color, 0.5 * 0.2 + 0.25 * 1.0 + 0.25 * 0.4, rtol=1e-4)
        np.testing.assert_allclose(result.depth, 0.5 * 2 + 0.25 * 5, rtol=1e-4)
        np.testing.assert_allclose(result.alpha, 0.75, rtol=1e-4)


def test_equal_depths_are_drawn_by_slot_index():
    camera = identity_camera(3, 2, focal=10.0)
    result = render_plain(layers([3.0, 3.0], [0.0, 0.0], [1.0, 0.2]), camera)
    np.testing.assert_allclose(result.color, 0.5 * 1.0 + 0.25 * 0.2, rtol=1e-4)


def test_pixel_ends_before_the_gaussian_that_would_exhaust_it():
    # Opacity 0.98: transmittance 0.02, 4e-4, then 8e-6 < 1e-4, so the third and all later ones are left out.
    logit = np.log(0.98 / 0.02)
    result = render_plain(layers([1, 2, 3, 4.0], [logit] * 3 + [-3.0], [0.5] * 4), identity_camera(3, 2, 10.0))
    np.testing.assert_allclose(result.alpha, 1 - 4e-4, rtol=1e-5)
    np.testing.assert_allclose(result.depth, 0.98 * 1 + 0.98 * 0.02 * 2, rtol=1e-4)


def test_gradient_passes_through_the_clamp_at_full_opacity():
    camera = identity_camera(1, 1, focal=10.0)

    @quick_jit
    @jax.value_and_grad
    def alpha(logit):
        gaussians = single_gaussian([0, 0, 3.0])._replace(opacity_logits=logit[None])
        view = View(gaussians, camera, jnp.zeros(3), jnp.zeros((1, 2)))
        return trace_view(view, jnp.ones(1, bool)).alpha[0, 0]

    value, slope = alpha(jnp.float32(6.0))
    opacity = 1 / (1 + np.exp(-6))
    assert value == np.float32(0.99)
    np.testing.assert_allclose(slope, opacity * (1 - opacity), rtol=1e-4)


def test_every_gradient_is_that_of_finite_differences():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        cotangents = [jnp.asarray(rng.normal(size=s)) for s in ((18, 17, 3), (18, 17), (18, 17))]

        def loss(view):
            rendering = trace_view(view, jnp.ones(6, bool))
            return sum(jnp.vdot(a, c) for a, c in zip(rendering[:3], cotangents, strict=True))

        gradient = check_gradient(loss, make_view(7, 6, 17, 18, size=0.4, dtype=jnp.float64))
        assert np.count_nonzero(gradient) > 0.9 * gradient.size


def test_selecting_per_tile_changes_nothing():
    view = make_view(2, 90, 40, 33, size=0.05)
    alive = jnp.ones(90, bool)

    @functools.partial(quick_jit, static_argnums=1)
    @jax.value_and_grad
    def loss_and_gradient(view, max_per_tile):
        rendering = trace_view(view, alive, max_per_tile=max_per_tile)
        return sum(jnp.sum(jnp.cos(3 * a)) for a in rendering[:3])

    full, full_gradient = loss_and_gradient(view, None)
    selected, gradient = loss_and_gradient(view, 80)
    assert np.isfinite(full)
    np.testing.assert_allclose(selected, full, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(full_gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_tile_with_too_many_gaussians_is_nan_and_the_others_are_not():
    left = concatenate(*[single_gaussian([-1.0, 0, 4.0], scale=0.05)] * 5)
    right = single_gaussian([1.0, 0, 4.0], scale=0.05)
    gaussians = concatenate(left, right)
    result = render_plain(gaussians, identity_camera(32, 16, 30.0), max_per_tile=4)
    for image in result[:3]:
        assert np.isnan(image[:, :16]).all() and np.isfinite(image[:, 16:]).all()
    with pytest.raises(ValueError, match="at least 1"):
        render_plain(gaussians, identity_camera(32, 16, 30.0), max_per_tile=0)


@pytest.mark.parametrize("count", [0, 3])
def test_nothing_alive_shows_the_background(count):
    background = jnp.array([0.1, 0.2, 0.3])
    camera = identity_camera(5, 4, 9.0)

    @quick_jit
    def render_empty(background):
        view = View(zeros(count), camera, background, jnp.zeros((count, 2)))
        result, vjp = jax.vjp(lambda v: trace_view(v, jnp.zeros(count, bool))[:3], view)
        return trace_view(view, jnp.zeros(count, bool)), vjp(jax.tree.map(jnp.ones_like, result))[0]

    result, gradient = render_empty(background)
    np.testing.assert_array_equal(result.color, np.broadcast_to(background, (4, 5, 3)))
    np.testing.assert_array_equal(result.depth, 0)
    np.testing.assert_array_equal(result.alpha, 0)
    assert result.radii.shape == (count,) and not result.radii.any()
    np.testing.assert_array_equal(gradient.background, [20, 20, 20])
    for array in jax.tree.leaves((gradient.gaussians, gradient.camera, gradient.mean2d_offset)):
        np.testing.assert_array_equal(array, 0)
