"""The native loss against float64: values, slopes, shapes of all kinds, batches, platforms, broken numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from ipsm_jax.losses.photometric import PhotometricTarget, compare_with_view, photometric_loss, photometric_target


def scene(shape, views=1, seed=0):
    """An image and targets of several views; the L1 targets differ from the photos."""
    rng = np.random.default_rng(seed)
    photos = rng.uniform(0, 1, (views, *shape)).astype(np.float32)
    image = jnp.asarray(np.clip(photos[0] + rng.normal(0, 0.2, shape), 0, 1), jnp.float32)
    targets = jax.vmap(photometric_target)(jnp.asarray(photos), jnp.asarray(np.where(photos > 0.7, 0, photos)))
    return image, targets


def loss_and_gradient(image, targets, view, weight, backend="auto"):
    return _loss_and_gradient(image, targets, view, jnp.float32(weight), backend)


@functools.partial(jax.jit, static_argnames="backend")
def _loss_and_gradient(image, targets, view, weight, backend):
    def loss(image, weight):
        comparison = compare_with_view(image, targets, view, weight, backend=backend)
        return comparison.loss, comparison.mean_square

    (value, mean_square), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(image, weight)
    return value, mean_square, *gradients


def exact_loss(image, targets, weight):
    """The loss in float64, with SciPy's filters."""

    def smooth(a):
        weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
        weights /= weights.sum()
        across = scipy.ndimage.correlate1d(a, weights, axis=0, mode="constant")
        return scipy.ndimage.correlate1d(across, weights, axis=1, mode="constant")

    photo, l1_image = (np.asarray(a[0], np.float64) for a in targets[:2])
    mx, my = smooth(image), smooth(photo)
    sxx, syy, sxy = smooth(image**2) - mx**2, smooth(photo**2) - my**2, smooth(image * photo) - mx * my
    similarity = (2 * mx * my + 1e-4) * (2 * sxy + 9e-4) / ((mx**2 + my**2 + 1e-4) * (sxx + syy + 9e-4))
    return (1 - weight) * np.abs(image - l1_image).mean() + weight * (1 - similarity.mean())


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (1, 1, 3), (1, 37, 3), (29, 1, 2), (6, 5, 4), (23, 17, 7), (200, 33, 3)],  # the last one in bands
)
def test_value_and_slopes_equal_float64_for_any_shape(shape, weight):
    image, targets = scene(shape, seed=shape[0])
    value, mean_square, gradient, by_weight = loss_and_gradient(image, targets, 0, weight)
    exact = np.asarray(image, np.float64)
    np.testing.assert_allclose(value, exact_loss(exact, targets, weight), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mean_square, np.mean((exact - targets.image[0]) ** 2), rtol=1e-5)
    slope = exact_loss(exact, targets, 1.0) - exact_loss(exact, targets, 0.0)
    np.testing.assert_allclose(by_weight, slope, rtol=1e-5, atol=1e-6)
    rng = np.random.default_rng(1)
    directions = [rng.normal(size=shape) for _ in range(2)] + [np.zeros(shape) for _ in range(4)]
    for direction, corner in zip(directions[2:], [(0, 0), (-1, 0), (0, -1), (-1, -1)], strict=True):
        direction[corner] = rng.normal(size=shape[2])
    for direction in directions:
        direction[np.abs(exact - targets.l1_image[0]) < 1e-4] = 0  # no slope where |x| turns
        step = 1e-6 * direction
        slope = (exact_loss(exact + step, targets, weight) - exact_loss(exact - step, targets, weight)) / 2e-6
        scale = np.abs(gradient).max() * np.abs(direction).sum() ** 0.5
        np.testing.assert_allclose(np.vdot(gradient, direction), slope, rtol=1e-3, atol=1e-5 * scale + 1e-7)


def test_gradient_at_the_size_of_training_equals_the_reference_in_float64():
    image, targets = scene((378, 504, 3), seed=3)
    assert np.any(image == targets.l1_image[0])  # where L1 has no slope
    value, _, gradient, _ = loss_and_gradient(image, targets, 0, 0.2)
    with jax.enable_x64(True):
        exact = photometric_target(*(jnp.asarray(np.asarray(a[0]), jnp.float64) for a in targets[:2]))
        wanted, slope = jax.jit(jax.value_and_grad(photometric_loss))(
            jnp.asarray(np.asarray(image), jnp.float64), exact, 0.2
        )
        assert slope.dtype == jnp.float64  # other precisions take the reference by themselves
        wanted, slope = np.asarray(wanted), np.asarray(slope)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    assert np.linalg.norm(gradient - slope) / np.linalg.norm(slope) < 1e-6


def test_the_view_may_be_traced_and_everything_mapped_over():
    shape = (13, 9, 3)
    _, targets = scene(shape, views=4)
    images = jnp.stack([scene(shape, seed=k)[0] for k in range(3)])
    chosen = jnp.array([2, 0, 3])
    weights = jnp.array([0.1, 0.5, 0.9])
    mapped = jax.jit(jax.vmap(loss_and_gradient, in_axes=(0, None, 0, 0)))(images, targets, chosen, weights)
    others = jax.tree.map(lambda a: jnp.stack([a, a[::-1]]), targets)
    nested = jax.vmap(jax.vmap(loss_and_gradient, in_axes=(0, None, 0, 0)), in_axes=(None, 0, None, None))(
        images, others, chosen, weights
    )
    for k in range(3):
        single = loss_and_gradient(images[k], targets, int(chosen[k]), weights[k])
        reversed_single = loss_and_gradient(images[k], targets, 3 - int(chosen[k]), weights[k])
        for i in range(4):
            np.testing.assert_array_equal(mapped[i][k], single[i])
            np.testing.assert_array_equal(nested[i][0, k], single[i])
            np.testing.assert_array_equal(nested[i][1, k], reversed_single[i])
    assert len({float(x) for x in mapped[0]}) == 3


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_not_a_number_is_not_hidden(broken):
    image, targets = scene((40, 30, 3))
    image = image.at[20, 4, 1].set(broken)
    value, mean_square, gradient, _ = loss_and_gradient(image, targets, 0, 0.2)
    _, _, wanted, _ = loss_and_gradient(image, targets, 0, 0.2, backend="reference")
    assert not np.isfinite(value)
    assert not np.isfinite(mean_square)
    np.testing.assert_array_equal(np.isfinite(gradient), np.isfinite(wanted))
    assert np.isfinite(gradient).any()


def test_targets_have_zero_gradient():
    image, targets = scene((12, 8, 3))
    gradient = jax.grad(lambda t: compare_with_view(image, t, 0, 0.2).loss)(targets)
    assert not any(np.any(a) for a in gradient)


def test_shapes_that_do_not_fit_are_refused():
    image, targets = scene((12, 8, 3))
    with pytest.raises(ValueError, match=r"image \(8, 12, 3\) with targets \(1, 12, 8, 3\)"):
        compare_with_view(image.reshape(8, 12, 3), targets, 0, 0.2)
    with pytest.raises(ValueError, match=r"image \(0, 8, 3\)"):
        compare_with_view(image[:0], PhotometricTarget(*(a[:, :0] for a in targets)), 0, 0.2)


def test_other_platforms_get_the_reference():
    image, targets = scene((12, 8, 3))
    traced = jax.jit(lambda x: compare_with_view(x, targets, 0, 0.2).loss).trace(image)
    assert "ipsm_photometric" in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "ipsm_photometric" not in traced.lower(lowering_platforms=("cuda",)).as_text()
