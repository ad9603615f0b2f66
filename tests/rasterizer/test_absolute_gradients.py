"""Absolute gradients of the projected means: sums over pixels of |dL/d(mean2d)|, against a reference vjp per pixel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from modes import COUNT, HEIGHT, WIDTH, make_inputs, random_cotangents, run_native
from scenes import make_view, quick_jit, relative_error

from ipsm_jax.rasterizer import render
from ipsm_jax.rasterizer.reference import render_reference

INPUTS = make_inputs(93, 3)
ALIVE = np.ones(COUNT, bool)


def losses_of_pixels(images, cotangents):
    """(pixels,) each pixel's part of the product of images and cotangents."""
    parts = (
        jnp.sum((a * c).reshape(a.shape[0] * a.shape[1], -1), axis=1) for a, c in zip(images, cotangents, strict=True)
    )
    return functools.reduce(jnp.add, parts)


@pytest.mark.parametrize("antialiased", [False, True])
def test_sum_over_pixels_of_each_pixels_gradient(antialiased):
    width, height, count = 19, 9, 8  # two tiles
    view = make_view(4, count, width, height)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, 3)).astype(np.float32)
    cotangents = random_cotangents(3, 1, width, height)

    @quick_jit
    def brute_force(view, features, cotangents):
        def by_pixel(offset):
            result = render_reference(
                *(view.gaussians, view.camera, jnp.ones(count, bool), view.background, 3, offset, "exact"),
                features=features,
                antialiased=antialiased,
            )
            return losses_of_pixels((result.color, result.depth, result.alpha, result.features), cotangents)

        values, pull_back = jax.vjp(by_pixel, view.mean2d_offset)
        gradients = jax.lax.map(lambda one_hot: pull_back(one_hot)[0], jnp.eye(values.size, dtype=values.dtype))
        return jnp.sum(jnp.abs(gradients), axis=0), jnp.sum(gradients, axis=0)

    with jax.enable_x64(True):
        double = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), (view, features, cotangents))
        wanted, wanted_signed = map(np.asarray, brute_force(*double))

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def native(offset, absolute):
        result = render(
            view.gaussians,
            view.camera,
            background=view.background,
            mean2d_offset=offset,
            features=features,
            mean2d_absolute=absolute,
            antialiased=antialiased,
        )
        images = (result.color, result.depth, result.alpha, result.features)
        return jnp.sum(losses_of_pixels(images, cotangents))

    signed, absolute = native(view.mean2d_offset, jnp.zeros((count, 2)))
    assert relative_error(absolute, wanted) < 1e-4
    assert relative_error(signed, wanted_signed) < 1e-4
    # Signs cancel, or this would show nothing.
    assert np.linalg.norm(wanted_signed) < 0.7 * np.linalg.norm(wanted)


def native_gradients(cotangents, inputs=INPUTS):
    *_, gradient, absolute = run_native(inputs, ALIVE, "exact", False, cotangents, True)
    return np.abs(gradient.view.mean2d_offset), np.asarray(absolute)


@pytest.mark.parametrize("image", range(4))
def test_equals_the_signed_one_where_only_one_pixel_has_a_gradient(image):
    """Image by image: color, depth, alpha, features."""
    cotangents = tuple(np.zeros_like(c) for c in random_cotangents(3))
    cotangents[image][13, 21] = random_cotangents(3)[image][13, 21]
    signed, absolute = native_gradients(cotangents)
    np.testing.assert_allclose(absolute, signed, rtol=1e-5, atol=1e-6 * signed.max())
    assert np.count_nonzero(absolute) > 4


def test_is_never_below_the_signed_one_and_grows_with_every_pixel():
    whole = random_cotangents(3)
    mask = (np.arange(WIDTH * HEIGHT) % 2 == 0).reshape(HEIGHT, WIDTH)
    halves = [tuple(np.where(m.reshape(m.shape + (1,) * (c.ndim - 2)), c, 0) for c in whole) for m in (mask, ~mask)]
    signed, absolute = native_gradients(whole)
    assert np.all(absolute * (1 + 1e-5) >= signed)
    # Pixels add up, as they do not in the signed gradient.
    parts = [native_gradients(half)[1] for half in halves]
    np.testing.assert_allclose(parts[0] + parts[1], absolute, rtol=1e-4, atol=1e-5 * absolute.max())


def test_its_values_are_not_looked_at():
    gaussians, camera = INPUTS.view.gaussians, INPUTS.view.camera

    def loss(absolute):
        return jnp.sum(jnp.sin(3 * render(gaussians, camera, mean2d_absolute=absolute).color))

    value, gradient = jax.value_and_grad(loss)(jnp.zeros((COUNT, 2)))
    for odd in (np.full((COUNT, 2), np.nan, np.float32), jnp.full((COUNT, 2), 1e30)):
        again = jax.value_and_grad(loss)(odd)
        jax.tree.map(np.testing.assert_array_equal, again, (value, gradient))
    assert np.any(gradient)


def test_sums_over_a_batch_of_cameras():
    gaussians, camera = INPUTS.view.gaussians, INPUTS.view.camera
    poses = jnp.stack([camera.camera_from_world, camera.camera_from_world.at[0, 3].add(0.3)])

    def loss(absolute, pose):
        moved = type(camera)(pose, camera.intrinsics, WIDTH, HEIGHT)
        return jnp.sum(jnp.sin(3 * render(gaussians, moved, mean2d_absolute=absolute).color))

    zeros = jnp.zeros((COUNT, 2))
    total = jax.grad(lambda a: jnp.sum(jax.vmap(loss, (None, 0))(a, poses)))(zeros)
    singles = [jax.grad(loss)(zeros, pose) for pose in poses]
    assert relative_error(total, singles[0] + singles[1]) < 1e-6
    assert relative_error(singles[0], singles[1]) > 1e-2


def test_wrong_arguments_are_refused():
    gaussians, camera = INPUTS.view.gaussians, INPUTS.view.camera
    with pytest.raises(ValueError, match=rf"mean2d_absolute has shape \({COUNT}, 3\), want \({COUNT}, 2\)"):
        render(gaussians, camera, mean2d_absolute=jnp.zeros((COUNT, 3)))
    with pytest.raises(TypeError, match="mean2d_absolute as float32"):
        render(gaussians, camera, mean2d_absolute=jnp.zeros((COUNT, 2), jnp.int32))
    with pytest.raises(ValueError, match=r'mean2d_absolute.*need backend="native"'):
        render(gaussians, camera, mean2d_absolute=jnp.zeros((COUNT, 2)), backend="reference")
