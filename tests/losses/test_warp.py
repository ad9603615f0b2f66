"""The inverse warp against a loop over pixels, on planes, and on the built-in scene with its exact depth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.data.synthetic.still_life import cameras, intrinsics, still_life
from ipsm_jax.data.synthetic.tracer import render_view
from ipsm_jax.losses.warp import geometry_loss, inverse_warp
from ipsm_jax.scene.camera import Camera, look_at

WIDTH, HEIGHT = 17, 12
LENS = (14.0, 19.0, 7.3, 6.9)  # fx != fy, principal point off the middle

warp_jit = jax.jit(inverse_warp)


def camera(position, target=(0.0, 0.0, 6.0), lens=LENS, width=WIDTH, height=HEIGHT) -> Camera:
    return Camera(jnp.asarray(look_at(position, target)), jnp.asarray(lens, jnp.float32), width, height)


def noise(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), jnp.float32)


def loop(reference, image, reference_depth, target, target_depth):
    """METHOD section 6 pixel by pixel in float64."""
    k_i, k_j = np.asarray(reference.intrinsics, np.float64), np.asarray(target.intrinsics, np.float64)
    t_i = np.asarray(reference.camera_from_world, np.float64)
    t_j = np.linalg.inv(np.asarray(target.camera_from_world, np.float64))
    shape = target_depth.shape
    warped, depth, inside = np.zeros((*shape, 3)), np.zeros(shape), np.zeros(shape, bool)
    for v in range(shape[0]):
        for u in range(shape[1]):
            d = float(target_depth[v, u])
            if not (np.isfinite(d) and d > 0):
                continue
            point = np.array([(u + 0.5 - k_j[2]) / k_j[0] * d, (v + 0.5 - k_j[3]) / k_j[1] * d, d, 1.0])
            x, y, z, _ = t_i @ t_j @ point
            if z <= 0:
                continue
            column, row = int(np.floor(k_i[0] * x / z + k_i[2])), int(np.floor(k_i[1] * y / z + k_i[3]))
            if 0 <= column < reference.width and 0 <= row < reference.height:
                warped[v, u], depth[v, u], inside[v, u] = image[row, column], reference_depth[row, column], True
    finite = np.where(np.isfinite(target_depth), target_depth, 0)
    positive = depth[depth > 0]
    n_depth = (depth - positive.min()) / np.ptp(positive)
    n_target = (finite - finite.min()) / np.ptp(finite)
    return warped, depth, inside, np.abs(n_depth - n_target)


@pytest.mark.parametrize("seed", range(4))
def test_warp_equals_a_loop_over_pixels(seed):
    """Views of unequal size; among the depths are 0, NaN, infinity, negative ones, and points behind the reference."""
    rng = np.random.default_rng(seed)
    reference = camera(rng.normal(size=3) * 0.5, lens=(11.0, 9.0, 5.6, 8.1), width=13, height=15)
    behind = (0.0, 0.0, 2.5) if seed % 2 else (0.0, 0.0, -1.0)  # looking at the reference camera's back, or not
    target = camera(rng.normal(size=3) * 0.5 + behind, target=(0.3, 0.2, -4.0) if seed % 2 else (0.0, 0.0, 6.0))
    image, reference_depth = noise(seed, 15, 13, 3), 3 + 4 * noise(seed + 1, 15, 13)
    target_depth = np.array((0.3 if seed % 2 else 1.0) + 4 * noise(seed + 2, HEIGHT, WIDTH))
    target_depth[0, :5] = [0, np.nan, np.inf, -np.inf, -2]
    reference_depth = reference_depth.at[3, 4].set(0).at[7, 7].set(jnp.nan)
    result = warp_jit(reference, image, reference_depth, target, jnp.asarray(target_depth))
    expected = loop(reference, image, np.nan_to_num(reference_depth), target, target_depth)
    assert 0.03 < expected[2].mean() < 0.98
    np.testing.assert_array_equal(result.in_bounds, expected[2])
    np.testing.assert_array_equal(result.image, np.float32(expected[0]))
    np.testing.assert_array_equal(result.depth, np.float32(expected[1]))
    np.testing.assert_allclose(result.difference, expected[3], atol=1e-5)
    assert not np.asarray(result.in_bounds)[0, :5].any()
    for threshold in (0.1, 0.3):
        clear = np.abs(expected[3] - threshold) > 1e-5
        expected_mask = expected[2] & (expected[3] < threshold)
        np.testing.assert_array_equal(np.asarray(result.mask(threshold))[clear], expected_mask[clear])
        assert expected_mask.any() and not expected_mask[expected[2]].all()


def test_warp_into_the_same_view_is_the_identity():
    view = camera((0.4, -0.3, 0.2))
    image, depth = noise(0, HEIGHT, WIDTH, 3), 0.5 + 80 * noise(1, HEIGHT, WIDTH)
    result = warp_jit(view, image, depth, view, depth)
    assert np.asarray(result.in_bounds).all() and np.asarray(result.mask(1e-6)).all()
    np.testing.assert_array_equal(result.image, image)
    np.testing.assert_array_equal(result.depth, depth)
    np.testing.assert_allclose(result.difference, 0, atol=1e-6)


@pytest.mark.parametrize("shift", [(3, 0), (-2, 1), (0, 4)])
def test_a_plane_facing_the_cameras_shifts_by_whole_pixels(shift):
    """Camera moved sideways by shift * z / f: the plane at z moves by `shift` pixels, and the rest is unknown."""
    z = 5.0
    reference = camera((0, 0, 0), (0, 0, 1))
    move = (shift[0] * z / LENS[0], shift[1] * z / LENS[1], 0.0)
    target = camera(move, (move[0], move[1], 1.0))
    image, depth = noise(3, HEIGHT, WIDTH, 3), jnp.full((HEIGHT, WIDTH), z)
    result = warp_jit(reference, image, depth, target, depth)
    expected, known = np.zeros((HEIGHT, WIDTH, 3), np.float32), np.zeros((HEIGHT, WIDTH), bool)
    for v in range(HEIGHT):
        for u in range(WIDTH):
            if 0 <= u + shift[0] < WIDTH and 0 <= v + shift[1] < HEIGHT:
                expected[v, u], known[v, u] = image[v + shift[1], u + shift[0]], True
    # Whole pixels put the samples on pixel centers, half a pixel from where rounding could matter.
    np.testing.assert_array_equal(result.in_bounds, known)
    np.testing.assert_array_equal(result.image, expected)
    np.testing.assert_array_equal(result.mask(), known)  # a constant depth is consistent, not NaN


def test_a_textured_slanted_plane_looks_right_from_another_view():
    """Plane z = 5 + 0.4 x with a smooth color: the warped photo equals the color seen directly, up to one pixel."""

    def seen(view):
        matrix = np.linalg.inv(np.asarray(view.camera_from_world, np.float64))
        u, v = np.meshgrid(np.arange(view.width) + 0.5, np.arange(view.height) + 0.5)
        fx, fy, cx, cy = np.asarray(view.intrinsics, np.float64)
        rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1) @ matrix[:3, :3].T
        normal = np.array([-0.4, 0.0, 1.0])
        depth = (5 - matrix[:3, 3] @ normal) / (rays @ normal)
        x, y, z = np.moveaxis(matrix[:3, 3] + rays * depth[..., None], -1, 0)
        color = 0.5 + 0.4 * np.stack([np.sin(x), np.cos(y + 0.3 * x), np.sin(z)], -1)
        return jnp.asarray(color, jnp.float32), jnp.asarray(depth, jnp.float32)

    lens = (90.0, 80.0, 44.0, 33.0)
    make = functools.partial(camera, target=(0, 0, 5), lens=lens, width=96, height=64)
    reference, target = make((0.4, 0.2, 0.0)), make((-0.5, -0.3, 0.3))
    (image, depth), (expected, target_depth) = seen(reference), seen(target)
    result = warp_jit(reference, image, depth, target, target_depth)
    inside = np.asarray(result.in_bounds)
    assert inside.mean() > 0.7
    # Nearest sampling is off by up to half a pixel diagonal: 0.7 px * 5 / 80 world units * slope 0.4 * about 1.5.
    assert np.abs(np.asarray(result.image - expected))[inside].max() < 0.04
    half = warp_jit(reference, image, depth, target, 0.7 * target_depth)  # a wrong depth shows
    both = inside & np.asarray(half.in_bounds)
    assert (
        np.abs(np.asarray(half.image - expected))[both].mean()
        > 5 * np.abs(np.asarray(result.image - expected))[both].mean()
    )


@pytest.fixture(scope="module")
def demo_views():
    """Cameras, colors without shine and exact depths of three views of the built-in scene."""
    width, height = 480, 360
    lens = intrinsics(width, height)
    pinhole = np.array([lens.focal, lens.focal, lens.cx, lens.cy], np.float32)
    shapes = still_life()

    def view(index):
        matrix = cameras()[index]
        color, depth = render_view(shapes, matrix, pinhole, 0.0, width=width, height=height, samples=1)
        return Camera(jnp.asarray(matrix), jnp.asarray(pinhole), width, height), color, depth

    return [view(index) for index in (0, 4, 8)]


def psnr(difference):
    return -10 * np.log10(np.mean(np.square(np.asarray(difference, np.float64))))


@pytest.mark.parametrize("pair", [(0, 1), (1, 0), (2, 1)])
def test_the_built_in_scene_warped_with_exact_depth_is_the_other_view_where_visible(demo_views, pair):
    """Above 22 dB and a median error below 2 of 255 levels where both views see the same surface.

    The rest is the nearest sample at the edges of the finely patterned cloths. Hidden surfaces cost 2 dB or more, and
    the unwarped photo has less than 15 dB.
    """
    (reference, image, depth), (target, expected, target_depth) = (demo_views[i] for i in pair)
    warp = warp_jit(reference, image, depth, target, target_depth)
    inside = np.asarray(warp.in_bounds)
    visible = inside & (np.abs(np.asarray(warp.depth) - seen_depth(reference, target, target_depth)) < 0.03)
    assert visible.mean() > 0.85
    difference = np.asarray(warp.image - expected)
    assert np.median(np.abs(difference[visible])) < 2 / 255
    assert psnr(difference[visible]) > 22
    assert psnr(difference[visible]) > psnr(difference[inside]) + 2
    assert psnr(image - expected) < 15
    assert psnr(difference[np.asarray(warp.mask())]) > psnr(difference[inside])  # the mask removes wrong pixels
    hidden = inside & ~visible
    for threshold, passed in ((0.3, 0.4), (0.1, 0.15)):
        mask = np.asarray(warp.mask(threshold))
        assert mask[hidden].mean() < passed and mask[visible].mean() > 0.98


def seen_depth(reference, target, target_depth):
    """Depth at which the reference camera sees the target's surface points."""
    fx, fy, cx, cy = np.asarray(target.intrinsics, np.float64)
    u, v = np.meshgrid(np.arange(target.width) + 0.5, np.arange(target.height) + 0.5)
    points = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1) * np.asarray(target_depth)[..., None]
    move = np.asarray(reference.camera_from_world, np.float64) @ np.linalg.inv(
        np.asarray(target.camera_from_world, np.float64)
    )
    return points @ move[2, :3] + move[2, 3]


def test_no_gradient_passes_the_warp_and_the_geometry_loss_has_one_in_the_image_alone():
    reference, target = camera((0.4, 0.2, 0.0)), camera((-0.5, -0.3, 0.3))
    image, rendered = noise(0, HEIGHT, WIDTH, 3), noise(1, HEIGHT, WIDTH, 3)
    depth, target_depth = 4 + noise(2, HEIGHT, WIDTH), 4 + noise(3, HEIGHT, WIDTH)

    def loss(rendered, reference, image, depth, target, target_depth):
        warp = inverse_warp(reference, image, depth, target, target_depth)
        mask = warp.mask(0.5)
        soft = jnp.sum(warp.image) + jnp.sum(warp.depth) + jnp.sum(warp.difference)
        return geometry_loss(rendered, warp.image, mask) + soft, (warp, mask)

    every = tuple(range(6))
    gradients, (warp, mask) = jax.jit(jax.grad(loss, argnums=every, has_aux=True))(
        rendered, reference, image, depth, target, target_depth
    )
    assert 0.05 < np.mean(mask) < 0.95
    expected = np.sign(rendered - warp.image) * np.asarray(mask)[..., None] / rendered.size
    np.testing.assert_allclose(gradients[0], expected, atol=1e-9)
    for gradient in gradients[1:]:
        for leaf in jax.tree.leaves(gradient):
            np.testing.assert_array_equal(leaf, 0)


def test_geometry_loss_is_a_mean_over_all_pixels_and_nothing_without_a_mask():
    rendered, warped = noise(0, HEIGHT, WIDTH, 3), noise(1, HEIGHT, WIDTH, 3).at[0, 0].set(jnp.nan)
    mask = (noise(2, HEIGHT, WIDTH) < 0.4).at[0, 0].set(False)
    expected = np.abs(np.asarray(rendered - warped))[np.asarray(mask)].sum() / (HEIGHT * WIDTH * 3)
    np.testing.assert_allclose(geometry_loss(rendered, warped, mask), expected, rtol=1e-5)
    assert geometry_loss(rendered, warped, jnp.zeros_like(mask)) == 0


def test_several_pseudo_views_warp_side_by_side():
    reference = camera((0.4, 0.2, 0.0))
    targets = [camera((x, -0.3, 0.3)) for x in (-0.5, 0.1)]
    image, depth = noise(0, HEIGHT, WIDTH, 3), 4 + noise(2, HEIGHT, WIDTH)
    target_depths = 4 + noise(3, 2, HEIGHT, WIDTH)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *targets)
    together = jax.jit(jax.vmap(inverse_warp, in_axes=(None, None, None, 0, 0)))(
        reference, image, depth, stacked, target_depths
    )
    for i, target in enumerate(targets):
        alone = warp_jit(reference, image, depth, target, target_depths[i])
        np.testing.assert_array_equal(together.image[i], alone.image)
        np.testing.assert_allclose(together.difference[i], alone.difference, atol=1e-6)


def test_nothing_to_warp_gives_an_empty_mask_and_finite_numbers():
    reference, target = camera((0.4, 0.2, 0.0)), camera((-0.5, -0.3, 0.3))
    image, depth = noise(0, HEIGHT, WIDTH, 3), 4 + noise(2, HEIGHT, WIDTH)
    for empty in (jnp.zeros((HEIGHT, WIDTH)), jnp.full((HEIGHT, WIDTH), jnp.nan)):
        warp = warp_jit(reference, image, depth, target, empty)
        assert not np.asarray(warp.mask()).any()
        assert all(np.isfinite(leaf).all() for leaf in warp)
    warp = warp_jit(reference, image, jnp.zeros((HEIGHT, WIDTH)), target, depth)  # nothing seen from the reference
    assert all(np.isfinite(leaf).all() for leaf in warp)
