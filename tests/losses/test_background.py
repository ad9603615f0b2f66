"""The background rule of DTU against a loop over pixels."""

import numpy as np
import pytest

from ipsm_jax.losses.background import background_mask, zero_background


def loop_mask(image):
    height, width, _ = image.shape
    mask = np.zeros((height, width), bool)
    for row in range(height):
        for column in range(width):
            above = [image[r, column] for r in range(max(0, row - 49), row + 1)]
            dark = all(max(pixel) / 255 < 30 / 255 for pixel in above)
            mask[row, column] = dark or np.mean(image[row, column] / 255) > 0.99
    return mask


@pytest.mark.parametrize("height", [3, 49, 50, 51, 140])
def test_mask_equals_loop(height):
    rng = np.random.default_rng(height)
    image = rng.integers(0, 34, (height, 9, 3), dtype=np.uint8)
    image[:, :6] = np.where(rng.uniform(size=(height, 6, 1)) < 0.98, image[:, :6] // 2, image[:, :6] + 100)
    image[rng.uniform(size=(height, 9)) < 0.05] = rng.integers(248, 256, 3, dtype=np.uint8)
    expected = loop_mask(image)
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(background_mask(image), expected)
    np.testing.assert_array_equal(zero_background(image), image * ~expected[..., None])


def test_thresholds_are_strict():
    image = np.full((1, 4, 3), 30, np.uint8)
    image[0, 1] = 29
    image[0, 2] = (252, 252, 253)  # mean 0.98954
    image[0, 3] = (253, 252, 253)  # mean 0.99085
    assert background_mask(image).tolist() == [[False, True, False, True]]
