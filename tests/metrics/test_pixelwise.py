"""PSNR, SSIM and AVGE against float64 numpy, loops and the published tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsm_jax.metrics import average_error, psnr, ssim, whiten_background


def picture_pair(seed: int, height: int = 19, width: int = 14, noise: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    base = 0.5 + 0.4 * np.sin(9 * rows[..., None] + np.array([5, 8, 13]) * columns[..., None])
    other = np.clip(base + noise * rng.standard_normal(base.shape), 0, 1)
    return base.astype(np.float32), other.astype(np.float32)


def brute_force_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """The definition, pixel by pixel in float64: an 11x11 window whose outside counts as zero."""
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line)
    window /= window.sum()
    a, b = a.astype(np.float64), b.astype(np.float64)
    pad = ((5, 5), (5, 5), (0, 0))
    pa, pb = np.pad(a, pad), np.pad(b, pad)
    values = []
    for y in range(a.shape[0]):
        for x in range(a.shape[1]):
            for c in range(a.shape[2]):
                wa, wb = pa[y : y + 11, x : x + 11, c], pb[y : y + 11, x : x + 11, c]
                ma, mb = (window * wa).sum(), (window * wb).sum()
                va, vb = (window * wa**2).sum() - ma**2, (window * wb**2).sum() - mb**2
                cab = (window * wa * wb).sum() - ma * mb
                values.append((2 * ma * mb + 1e-4) * (2 * cab + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return float(np.mean(values))


def test_psnr_of_a_constant_difference_has_a_closed_form():
    # difference 0.1 everywhere: MSE 0.01, 20 dB
    assert psnr(jnp.full((4, 5, 3), 0.6), jnp.full((4, 5, 3), 0.5)) == pytest.approx(20.0, abs=1e-4)


@given(st.integers(0, 1000))
def test_psnr_is_the_mean_squared_error_in_decibels(seed):
    a, b = picture_pair(seed)
    expected = -10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2))
    assert psnr(a, b) == pytest.approx(expected, abs=1e-4)


def test_psnr_of_equal_pictures_is_infinite():
    a, _ = picture_pair(0)
    assert psnr(a, a) == np.inf


def test_psnr_counts_only_the_mask():
    a, b = picture_pair(1)
    mask = np.zeros(a.shape[:2], bool)
    mask[3:9, 4:12] = True
    expected = -10 * np.log10(np.mean((a[3:9, 4:12].astype(np.float64) - b[3:9, 4:12]) ** 2))
    assert psnr(a, b, mask) == pytest.approx(expected, abs=1e-4)
    b[~mask] = 0  # what lies outside cannot matter
    assert psnr(a, b, mask) == pytest.approx(expected, abs=1e-4)
    assert np.isnan(psnr(a, b, np.zeros_like(mask)))


@pytest.mark.parametrize(("height", "width"), [(19, 14), (7, 13), (1, 1)])  # also smaller than the window
def test_ssim_is_the_zero_padded_definition(height, width):
    a, b = picture_pair(2, height, width)
    assert ssim(a, b) == pytest.approx(brute_force_ssim(a, b), abs=2e-5)


def test_ssim_of_equal_pictures_is_one_and_symmetric():
    a, b = picture_pair(3)
    assert ssim(a, a) == pytest.approx(1.0, abs=1e-6)
    assert ssim(a, b) == pytest.approx(float(ssim(b, a)), abs=1e-6)


def test_metrics_compile_batch_and_differentiate():
    pairs = [picture_pair(seed) for seed in (4, 5)]
    a, b = (jnp.stack([pair[i] for pair in pairs]) for i in (0, 1))
    for metric in (psnr, ssim):
        batch = jax.jit(jax.vmap(metric))(a, b)
        np.testing.assert_allclose(batch, [metric(*pair) for pair in pairs], rtol=1e-5)
        gradient = jax.grad(metric, argnums=1)(a[0], b[0])
        better = metric(a[0], b[0] + 0.1 * gradient / jnp.abs(gradient).max())
        assert better > metric(a[0], b[0])


def test_background_becomes_white_in_the_masked_comparison():
    a, _ = picture_pair(6)
    mask = np.arange(a.shape[0])[:, None] + np.arange(a.shape[1])[None] > 15
    white = whiten_background(a, mask)
    np.testing.assert_array_equal(white[mask], a[mask])
    assert np.all(np.asarray(white)[~mask] == 1)


@pytest.mark.parametrize(
    ("similarity", "distance", "decibels", "published"),
    [  # rows of the published tables, LLFF and DTU with 3 views
        (0.456, 0.385, 14.97, 0.208),
        (0.625, 0.254, 19.00, 0.125),
        (0.702, 0.207, 20.44, 0.101),
        (0.795, 0.178, 15.06, 0.136),
        (0.856, 0.121, 19.99, 0.077),
    ],
)
def test_average_error_reproduces_the_published_tables(similarity, distance, decibels, published):
    assert average_error(decibels, similarity, distance) == pytest.approx(published, abs=6e-4)


def test_average_error_survives_a_perfect_picture():
    assert average_error(np.inf, 1.0000001, 0.0) == 0.0
