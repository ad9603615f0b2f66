"""The feature image: loops over pixels, what is known of it without any oracle, and numbers that are none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brute_force import render_loop
from hypothesis import given, settings
from hypothesis import strategies as st
from modes import COUNT, HEIGHT, WIDTH, images_of, make_inputs, random_cotangents, run_native
from scenes import make_view, relative_error

from ipsm_jax.rasterizer import render

SH_C0 = 0.28209479177387814
INPUTS = make_inputs(92, 8)
ALIVE = np.ones(COUNT, bool)


@functools.partial(jax.jit, static_argnames=("footprint", "antialiased"))
def render_features(view, features, alive=ALIVE, footprint="exact", antialiased=False):
    return render(
        view.gaussians,
        view.camera,
        alive=alive,
        mean2d_offset=view.mean2d_offset,
        background=view.background,
        features=features,
        footprint=footprint,
        antialiased=antialiased,
    )


@pytest.mark.parametrize("antialiased", [False, True])
def test_image_is_that_of_loops_over_pixels(antialiased):
    view = make_view(3, 12, 19, 18, size=0.2)
    features = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
    alive = np.arange(12) % 4 != 1
    actual = render_features(view, features, alive, antialiased=antialiased)
    expected = render_loop(
        *(view.gaussians, view.camera, alive, view.background, 3, view.mean2d_offset),
        features=features,
        antialiased=antialiased,
    )
    for image, wanted in zip(images_of(actual)[0], expected, strict=False):
        np.testing.assert_allclose(image, wanted, atol=2e-5)
    np.testing.assert_array_equal(actual.radii > 0, expected[-1])
    assert np.abs(expected[3]).max() > 0.1


def test_without_features_the_image_has_no_channels():
    rendering = render(INPUTS.view.gaussians, INPUTS.view.camera)
    assert rendering.features.shape == (HEIGHT, WIDTH, 0) and rendering.features.dtype == jnp.float32


def test_colors_as_features_give_the_color_image_without_background():
    colors = jnp.asarray(np.random.default_rng(0).uniform(0.1, 1, size=(COUNT, 3)), jnp.float32)
    cotangent = random_cotangents(3)[0]

    def loss(view, colors, as_features):
        dc = 0 * colors if as_features else (colors - 0.5) / SH_C0
        gaussians = view.gaussians._replace(sh_dc=dc, sh_rest=0 * view.gaussians.sh_rest)
        view = view._replace(gaussians=gaussians, background=jnp.zeros(3))
        rendering = render_features(view, colors if as_features else jnp.zeros((COUNT, 0)))
        # With features, the color image is another one: leave it out.
        image = rendering.features if as_features else rendering.color
        return jnp.vdot(image, cotangent), image

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True), static_argnums=2)
    (feature_gradient, image), (color_gradient, expected) = (gradient(INPUTS.view, colors, f) for f in (True, False))
    np.testing.assert_allclose(image, expected, atol=1e-6)
    pairs = zip(jax.tree.leaves_with_path(feature_gradient), jax.tree.leaves(color_gradient), strict=True)
    for (path, a), b in pairs:
        assert relative_error(a, b) < 1e-5, jax.tree_util.keystr(path)
    assert np.any(feature_gradient[1])


def test_constant_features_give_alpha_and_depths_give_depth():
    view = INPUTS.view
    matrix = view.camera.camera_from_world
    depths = view.gaussians.means @ matrix[2, :3] + matrix[2, 3]
    rendering = render_features(view, jnp.stack([jnp.ones(COUNT), 0 * depths, depths], axis=1))
    np.testing.assert_array_equal(rendering.features[..., 0], rendering.alpha)
    np.testing.assert_array_equal(rendering.features[..., 1], 0)
    np.testing.assert_allclose(rendering.features[..., 2], rendering.depth, rtol=1e-5)


def test_features_change_no_other_image():
    with_features = render_features(INPUTS.view, INPUTS.features)
    without = render_features(INPUTS.view, INPUTS.features[:, :0])
    for name in ("color", "depth", "alpha", "radii", "pair_count"):
        np.testing.assert_array_equal(getattr(with_features, name), getattr(without, name))


def test_channels_do_not_mix():
    together = render_features(INPUTS.view, INPUTS.features).features
    for channel in (0, 5):
        alone = render_features(INPUTS.view, INPUTS.features[:, channel : channel + 1]).features
        np.testing.assert_array_equal(together[..., channel : channel + 1], alone)


numbers = st.integers(0, 2**31)
factors = st.floats(-10, 10, width=32)


@given(numbers, factors, factors)
@settings(max_examples=20)
def test_linear_in_the_features_and_the_gradient_is_the_transpose(seed, a, b):
    rng = np.random.default_rng(seed)
    x, y = (jnp.asarray(rng.normal(size=(COUNT, 8)), jnp.float32) for _ in range(2))
    at_x, at_y, at_sum = (render_features(INPUTS.view, f).features for f in (x, y, a * x + b * y))
    np.testing.assert_allclose(at_sum, a * at_x + b * at_y, atol=1e-5 * (1 + abs(a) + abs(b)))
    # <image of x, c> = <x, gradient of <image, c>>
    cotangents = (*map(np.zeros_like, random_cotangents(8)[:3]), random_cotangents(8, seed)[3])
    gradient = run_native(INPUTS._replace(features=y), ALIVE, "exact", False, cotangents)[2].features
    scale = np.linalg.norm(at_x) * np.linalg.norm(cotangents[3])
    np.testing.assert_allclose(np.vdot(at_x, cotangents[3]), np.vdot(x, gradient), atol=1e-5 * scale)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_of_what_is_not_seen_leave_no_trace(value):
    alive = np.arange(COUNT) % 3 != 1
    behind = INPUTS.view.gaussians.means.at[:6, 2].set(-5.0)
    view = INPUTS.view._replace(gaussians=INPUTS.view.gaussians._replace(means=behind))
    clean = run_native(INPUTS._replace(view=view), alive, "exact", True, random_cotangents(8), True)
    seen = np.asarray(clean[1]) > 0
    assert 0 < np.count_nonzero(seen) < np.count_nonzero(alive)
    poisoned = jnp.where(seen[:, None], INPUTS.features, value)
    dirty = run_native(INPUTS._replace(view=view, features=poisoned), alive, "exact", True, random_cotangents(8), True)
    jax.tree.map(np.testing.assert_array_equal, dirty, clean)
    np.testing.assert_array_equal(dirty[2].features[~seen], 0)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(dirty))


def test_wrong_features_are_refused():
    gaussians, camera = INPUTS.view.gaussians, INPUTS.view.camera
    with pytest.raises(ValueError, match=rf"features has shape \({COUNT},\), want \({COUNT}, any number of channels\)"):
        render(gaussians, camera, features=jnp.ones(COUNT))
    with pytest.raises(ValueError, match=rf"features has shape \(4, 2\), want \({COUNT}, any number"):
        render(gaussians, camera, features=jnp.ones((4, 2)))
    with pytest.raises(ValueError, match=r"features has shape \(2, 30, 4\).*vmap"):
        render(gaussians, camera, features=jnp.ones((2, COUNT, 4)))
    for dtype in (jnp.int32, jnp.bfloat16, bool):
        with pytest.raises(TypeError, match="features as float32"):
            render(gaussians, camera, features=jnp.ones((COUNT, 2), dtype))
