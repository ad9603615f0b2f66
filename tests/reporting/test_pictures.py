"""Colors grow lighter with the value; depth and error pictures show what they claim; strips hold all their tiles."""

import numpy as np
import pytest

from ipsm_jax.reporting.pictures import (
    EMPTY_COLOR,
    DepthRange,
    color_map,
    depth_picture,
    depth_range,
    error_picture,
    strip,
)


def lightness(colors: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB colors."""
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27)


def test_the_color_map_grows_lighter_evenly():
    light = lightness(color_map(np.linspace(0, 1, 101)))
    steps = np.diff(light[::10])
    assert np.all(np.diff(light) > 0)
    assert light[0] < 3 and light[-1] > 95
    assert steps.max() < 2 * steps.min()


def test_values_outside_are_clipped_and_shapes_kept():
    assert color_map(np.zeros((2, 3))).shape == (2, 3, 3)
    np.testing.assert_array_equal(color_map(np.array([-1.0, 2.0])), color_map(np.array([0.0, 1.0])))


def test_depth_is_divided_by_alpha_and_near_is_bright():
    z, alpha = np.linspace(1, 9, 60).reshape(6, 10), np.linspace(0.55, 1, 60).reshape(6, 10)
    solid = depth_picture(z, np.ones_like(z))
    np.testing.assert_allclose(depth_picture(z * alpha, alpha), solid, atol=1e-6)
    assert np.all(np.diff(lightness(solid).ravel()) <= 0)
    assert lightness(solid)[0, 0] > 90 and lightness(solid)[-1, -1] < 10


def test_where_nothing_solid_is_the_picture_is_gray():
    z, alpha = np.full((4, 5), 2.0), np.zeros((4, 5))
    alpha[1, 2:4] = 1.0
    picture = depth_picture(z, alpha)
    np.testing.assert_allclose(picture[alpha == 0], np.tile(EMPTY_COLOR, (18, 1)), atol=1e-6)
    np.testing.assert_allclose(picture[1, 2], color_map(np.array(0.5)), atol=1e-6)  # constant depth: the middle
    assert depth_range(z, np.zeros_like(z)) is None
    np.testing.assert_allclose(depth_picture(z, np.zeros_like(z)), np.broadcast_to(EMPTY_COLOR, (4, 5, 3)), atol=1e-6)
    bad = np.array([[np.nan, np.inf, -1.0, 0.0]])
    np.testing.assert_allclose(depth_picture(bad, np.ones_like(bad))[0], np.tile(EMPTY_COLOR, (4, 1)), atol=1e-6)


def test_a_given_range_makes_pictures_comparable():
    one = np.ones((2, 2))
    limits = DepthRange(far=0.1, near=1.0)
    np.testing.assert_allclose(depth_picture(one * 1.0, one, limits), color_map(one), atol=1e-6)
    np.testing.assert_allclose(depth_picture(one * 10.0, one, limits), color_map(one * 0), atol=1e-6)
    stack = np.stack([one * 1.0, one * 10.0])
    assert depth_range(stack, np.ones_like(stack)) == pytest.approx((0.1, 1.0))


def test_the_error_scale_is_fixed():
    base = np.full((2, 2, 3), 0.5)
    np.testing.assert_allclose(error_picture(base, base), color_map(np.zeros((2, 2))))
    np.testing.assert_allclose(error_picture(base, base - 0.25), color_map(np.full((2, 2), 0.5)), atol=1e-6)
    np.testing.assert_allclose(error_picture(base * 2, base * 0), color_map(np.ones((2, 2))))


def test_a_strip_holds_its_pictures_and_captions():
    a, b = np.full((40, 60, 3), 200, np.uint8), np.full((40, 60, 3), 0.25)
    joined = strip([a, b], ["photo", "a caption that is much too long for its picture"], gap=4)
    assert joined.dtype == np.uint8 and joined.shape[1] == 124 and joined.shape[0] > 40
    np.testing.assert_array_equal(joined[:40, :60], a)
    np.testing.assert_array_equal(joined[:40, 64:], np.full((40, 60, 3), 64))
    assert np.all(joined[:, 60:64] == 255)  # the long caption stays under its picture
    assert (joined[40:, :60] < 128).any() and (joined[40:, 64:] < 128).any()  # there is writing


@pytest.mark.parametrize(
    ("pictures", "captions"),
    [([], []), ([np.zeros((4, 4, 3))], []), ([np.zeros((4, 4, 3)), np.zeros((4, 5, 3))], ["a", "b"])],
)
def test_a_strip_of_unequal_parts_is_an_error(pictures, captions):
    with pytest.raises(ValueError, match="pictures of one size and a caption for each"):
        strip(pictures, captions)
