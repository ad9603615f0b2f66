"""The photometric loss, native and in jnp, against dm_pix, a float64 brute force and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.losses.photometric import gaussian_filter, photometric_loss, photometric_target, ssim


def pair(height=21, width=17, seed=0):
    rng = np.random.default_rng(seed)
    target = rng.uniform(0, 1, (height, width, 3))
    return np.clip(target + rng.normal(0, 0.2, target.shape), 0, 1), target


def window():
    weights = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    return np.outer(weights, weights) / weights.sum() ** 2


def brute_filter(image):
    height, width, _ = image.shape
    padded = np.pad(image, ((5, 5), (5, 5), (0, 0)))
    out = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            out[row, column] = np.einsum("ij,ijc->c", window(), padded[row : row + 11, column : column + 11])
    return out


def brute_loss(image, target, l1_target, weight):
    mx, my = brute_filter(image), brute_filter(target)
    sxx, syy = brute_filter(image**2) - mx**2, brute_filter(target**2) - my**2
    sxy = brute_filter(image * target) - mx * my
    similarity = (2 * mx * my + 1e-4) * (2 * sxy + 9e-4) / ((mx**2 + my**2 + 1e-4) * (sxx + syy + 9e-4))
    return (1 - weight) * np.abs(image - l1_target).mean() + weight * (1 - similarity.mean())


def test_filter_equals_brute_force_and_is_its_own_adjoint():
    a, b = pair()
    np.testing.assert_allclose(gaussian_filter(jnp.float32(a)), brute_filter(a), atol=1e-6)
    left = np.vdot(gaussian_filter(jnp.float32(a)), b)
    np.testing.assert_allclose(left, np.vdot(a, gaussian_filter(jnp.float32(b))), rtol=1e-5)


def test_ssim_equals_dm_pix_with_zero_padding():
    import dm_pix

    a, b = pair(40, 33)
    kernel = jnp.asarray(window(), jnp.float32)

    def zero_padded(channel_last):
        height, width = channel_last.shape[-3:-1]
        padded = jnp.pad(channel_last, [(0, 0)] * (channel_last.ndim - 3) + [(5, 5), (5, 5), (0, 0)])
        return sum(kernel[i, j] * padded[..., i : i + height, j : j + width, :] for i in range(11) for j in range(11))

    expected = dm_pix.ssim(jnp.float32(a), jnp.float32(b), filter_fn=zero_padded)
    np.testing.assert_allclose(ssim(jnp.float32(a), photometric_target(jnp.float32(b))), expected, atol=2e-6)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("weight", [0.0, 0.2, 0.6, 1.0])
def test_loss_and_gradient_equal_brute_force(weight, backend):
    a, b = pair(14, 13)
    l1_target = np.where(b > 0.7, 0, b)
    target = photometric_target(jnp.float32(b), jnp.float32(l1_target))
    value, gradient = jax.value_and_grad(photometric_loss)(jnp.float32(a), target, weight, backend=backend)
    np.testing.assert_allclose(value, brute_loss(a, b, l1_target, weight), rtol=1e-5)
    rng = np.random.default_rng(1)
    for _ in range(12):
        entry = tuple(rng.integers(a.shape))
        step = np.zeros_like(a)
        step[entry] = 1e-6
        slope = (brute_loss(a + step, b, l1_target, weight) - brute_loss(a - step, b, l1_target, weight)) / 2e-6
        np.testing.assert_allclose(gradient[entry], slope, rtol=2e-3, atol=2e-6)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_equal_images_cost_nothing_and_flat_images_are_finite(backend):
    image = jnp.float32(pair()[1])
    assert abs(float(photometric_loss(image, photometric_target(image), 0.5, backend=backend))) < 1e-6
    flat = jnp.zeros_like(image)
    value, gradient = jax.value_and_grad(photometric_loss)(flat, photometric_target(flat), 0.5, backend=backend)
    assert float(value) == pytest.approx(0, abs=1e-6)
    assert np.isfinite(gradient).all()


def test_reference_maps_over_a_batch():
    images = jnp.float32(np.stack([pair(seed=k)[0] for k in range(3)]))
    targets = jax.vmap(photometric_target)(jnp.float32(np.stack([pair(seed=k)[1] for k in range(3)])))
    loss = functools.partial(photometric_loss, backend="reference")
    batch = jax.vmap(jax.value_and_grad(loss), in_axes=(0, 0, None))(images, targets, 0.2)
    for k in range(3):
        target = jax.tree.map(lambda a, k=k: a[k], targets)
        value, gradient = jax.value_and_grad(loss)(images[k], target, 0.2)
        np.testing.assert_allclose(batch[0][k], value, rtol=1e-6)
        np.testing.assert_allclose(batch[1][k], gradient, atol=1e-8)
