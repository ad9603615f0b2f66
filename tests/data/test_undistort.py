"""Lenses and undistortion against pycolmap's camera models, closed forms, and a known pattern seen through a lens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsm_jax.data.lenses import PINHOLE, SUPPORTED_MODELS, distort, from_colmap, largest_radius, make_lens
from ipsm_jax.data.undistort import plan_undistortion, undistort_image

WIDTH, HEIGHT = 64, 48
INTRINSICS = (50.0, 52.0, 30.0, 25.0)
LENSES = {
    "barrel": make_lens((-0.15, 0.03)),
    "pincushion": make_lens((0.12,)),
    "tangential": make_lens((0.05, -0.02), (0.004, -0.006)),
    "rational": make_lens((0.3, 0.1, 0.02, 0.25, 0.1, 0.01)),
    "fisheye": make_lens((0.03, -0.01, 0.002, 0.0), fisheye=True),
}
PARAMS = {
    "SIMPLE_PINHOLE": (50, 30, 25),
    "PINHOLE": (50, 52, 30, 25),
    "SIMPLE_RADIAL": (50, 30, 25, 0.1),
    "RADIAL": (50, 30, 25, 0.1, -0.05),
    "OPENCV": (50, 52, 30, 25, 0.1, -0.05, 0.01, 0.02),
    "FULL_OPENCV": (50, 52, 30, 25, 0.1, -0.05, 0.01, 0.02, 0.03, 0.2, 0.05, 0.01),
    "OPENCV_FISHEYE": (50, 52, 30, 25, 0.1, -0.05, 0.02, -0.01),
    "SIMPLE_RADIAL_FISHEYE": (50, 30, 25, 0.1),
    "RADIAL_FISHEYE": (50, 30, 25, 0.1, -0.05),
}


def rays(count=200, seed=0):
    return np.random.default_rng(seed).uniform(-0.8, 0.8, (count, 2))


@pytest.mark.parametrize("model", SUPPORTED_MODELS)
def test_every_model_projects_like_colmap(model):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap (extra sfm) is the oracle for COLMAP's camera models")
    camera = pycolmap.Camera(camera_id=1, model=model, width=WIDTH, height=HEIGHT, params=list(PARAMS[model]))
    points = np.concatenate([rays(), np.zeros((1, 2))])
    expected = camera.img_from_cam(np.concatenate([points, np.ones((201, 1))], axis=1))
    (fx, fy, cx, cy), lens = from_colmap(model, PARAMS[model])
    np.testing.assert_allclose(distort(lens, points) * (fx, fy) + (cx, cy), expected, atol=1e-9)


def test_radial_and_tangential_closed_form():
    x, y = 0.3, -0.4
    r2 = 0.25
    lens = make_lens((0.1, 0.2, 0.3), (0.01, 0.02))
    radial = 1 + 0.1 * r2 + 0.2 * r2**2 + 0.3 * r2**3
    expected = [
        x * radial + 2 * 0.01 * x * y + 0.02 * (r2 + 2 * x * x),
        y * radial + 0.01 * (r2 + 2 * y * y) + 2 * 0.02 * x * y,
    ]
    np.testing.assert_allclose(distort(lens, np.array([[x, y]])), [expected], rtol=1e-12)


def test_equidistant_fisheye_is_the_angle():
    angle = np.array([0.0, 0.1, 0.7, 1.4])
    bent = distort(make_lens(fisheye=True), np.stack([np.tan(angle), 0 * angle], axis=-1))
    np.testing.assert_allclose(bent, np.stack([angle, 0 * angle], axis=-1), atol=1e-12)


def test_largest_radius_is_where_the_polynomial_turns_back():
    # d/dr (r - 0.2 r^3) = 0 at r = sqrt(1 / 0.6)
    assert largest_radius(make_lens((-0.2,))) == pytest.approx(np.sqrt(1 / 0.6), rel=5e-3)
    assert largest_radius(PINHOLE) == largest_radius(make_lens((0.1,))) == 20


def pattern(rays):
    """Smooth colors of a ray, in [20, 235]: what a distant wall would show in that direction."""
    x, y = rays[..., 0], rays[..., 1]
    waves = [np.sin(7 * x + 2 * y), np.cos(5 * y - 3 * x), np.sin(4 * x * y + 3 * x)]
    return 127.5 + 107 * np.stack(waves, axis=-1)


def invert(lens, bent, steps=100):
    """Rays of distorted coordinates, by fixed-point iteration with the closed-form model."""
    straight = bent.copy()
    for _ in range(steps):
        straight = straight + (bent - distort(lens, straight))
    return straight


@pytest.mark.parametrize("name", LENSES)
def test_undistorted_photo_of_a_pattern_is_the_pinhole_photo(name):
    lens = LENSES[name]
    fx, fy, cx, cy = INTRINSICS
    v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    bent = np.stack([(u - cx) / fx, (v - cy) / fy], axis=-1)
    photo = np.round(pattern(invert(lens, bent))).astype(np.uint8)
    plan = plan_undistortion(INTRINSICS, lens, WIDTH, HEIGHT)
    gx, gy, hx, hy = plan.intrinsics
    assert (hx, hy) == (cx, cy)
    assert gx / fx == pytest.approx(gy / fy)
    expected = pattern(np.stack([(u - hx) / gx, (v - hy) / gy], axis=-1))
    result = undistort_image(photo, plan)
    assert np.abs(result - expected)[1:-1, 1:-1].max() < 3  # bilinear and 8 bits
    assert plan.covered
    assert result.min() > 10  # black would mean that the photo does not reach there


@pytest.mark.parametrize("name", LENSES)
def test_the_picture_could_not_show_more(name):
    """With any smaller focal length some pixel of the border would lie outside the photo."""
    lens = LENSES[name]
    fx, fy, cx, cy = INTRINSICS
    plan = plan_undistortion(INTRINSICS, lens, WIDTH, HEIGHT)
    factor = plan.intrinsics[0] / fx
    edge = np.linspace(0, 1, 2001)
    border = np.concatenate(
        [np.stack([edge * WIDTH, 0 * edge + y], -1) for y in (0, HEIGHT)]
        + [np.stack([0 * edge + x, edge * HEIGHT], -1) for x in (0, WIDTH)]
    )

    def overhang(factor):
        where = distort(lens, (border - (cx, cy)) / (fx * factor, fy * factor)) * (fx, fy) + (cx, cy)
        return np.maximum(-where, where - (WIDTH, HEIGHT)).max()

    assert overhang(factor) < 0.02
    assert factor == 0.5 or overhang(factor * 0.995) > 0


def test_ideal_lens_changes_nothing():
    photo = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    plan = plan_undistortion(INTRINSICS, PINHOLE, WIDTH, HEIGHT)
    np.testing.assert_allclose(plan.intrinsics, INTRINSICS, rtol=1e-9)
    np.testing.assert_array_equal(undistort_image(photo, plan), photo)


def test_lens_that_does_not_cover_the_corners_is_reported_and_black_there():
    # A strong barrel whose polynomial turns back inside the picture's corners.
    plan = plan_undistortion((20.0, 20.0, 32.0, 24.0), make_lens((-0.9,)), WIDTH, HEIGHT)
    photo = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    result = undistort_image(photo, plan)
    assert not plan.covered
    assert result[0, 0].max() == 0
    assert result[HEIGHT // 2, WIDTH // 2].min() == 200


@given(st.floats(-0.3, 0.3), st.floats(-0.1, 0.1), st.floats(-0.02, 0.02), st.floats(-0.02, 0.02), st.booleans())
def test_plans_exist_for_all_moderate_lenses(k1, k2, p1, p2, fisheye):
    lens = make_lens((k1, k2), () if fisheye else (p1, p2), fisheye=fisheye)
    plan = plan_undistortion(INTRINSICS, lens, WIDTH, HEIGHT)
    assert np.isfinite(plan.source).all()
    assert 0.5 <= plan.intrinsics[0] / INTRINSICS[0] <= 2
    inside = (plan.source >= 0).all(-1) & (plan.source[..., 0] <= WIDTH) & (plan.source[..., 1] <= HEIGHT)
    assert inside.all() or not plan.covered
