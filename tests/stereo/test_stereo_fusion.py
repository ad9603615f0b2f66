"""A cloud from depth maps: where its points lie, how many they are, and that the order of views does not matter."""

import numpy as np
import pytest
from textured_planes import FOCAL, Plane, camera_batch, in_a_row, render

from ipsm_jax.stereo import StereoDepths, fuse_points

CAMERAS = camera_batch(in_a_row(3, target=(0, 0, 4)))


@pytest.fixture(scope="module")
def slanted():
    plane = Plane(normal=(0.5, -0.3, 1.0))
    images, depths = render(CAMERAS, plane)
    return plane, images, StereoDepths(depths.astype(np.float32), np.ones(depths.shape, bool))


def test_points_of_a_plane_lie_on_it_with_its_colors(slanted):
    plane, images, depths = slanted
    cloud = fuse_points(CAMERAS, images, depths)
    assert cloud.positions.dtype == cloud.colors.dtype == np.float32
    # Means of points on a plane are on the plane.
    normal = np.array(plane.normal)
    assert np.max(np.abs(cloud.positions @ normal - plane.offset)) < 1e-4
    matrix, (fx, fy, cx, cy) = CAMERAS.camera_from_world[1], CAMERAS.intrinsics[1]
    x, y, z = (cloud.positions @ matrix[:3, :3].T + matrix[:3, 3]).T
    column, row = (fx * x / z + cx).astype(int), (fy * y / z + cy).astype(int)
    inside = (row >= 0) & (row < 72) & (column >= 0) & (column < 96)
    error = np.abs(images[1, row[inside], column[inside]] / 255 - cloud.colors[inside])
    assert inside.sum() > 500 and np.mean(error) < 0.05


def test_voxels_are_about_two_pixels_wide_and_views_of_one_surface_share_them():
    images, depths = render(CAMERAS, Plane(offset=3.0))
    known = StereoDepths(depths.astype(np.float32), np.ones(depths.shape, bool))
    one = fuse_points(CAMERAS[1:2], images[1:2], StereoDepths(known.depth[1:2], known.confident[1:2]))
    pixel = 3.0 / FOCAL
    assert 0.7 < np.sqrt(96 * 72 * pixel**2 / len(one.positions)) / (2 * pixel) < 1.5
    assert len(fuse_points(CAMERAS, images, known).positions) < 1.6 * len(one.positions)


def test_only_confident_pixels_with_depth_count(slanted):
    _, images, depths = slanted
    nothing = StereoDepths(depths.depth, np.zeros_like(depths.confident))
    assert fuse_points(CAMERAS, images, nothing).positions.shape == (0, 3)
    single = np.zeros_like(depths.confident)
    single[2, 10, 20] = True
    cloud = fuse_points(CAMERAS, images, StereoDepths(depths.depth, single))
    np.testing.assert_allclose(cloud.colors, images[2, 10, 20][None] / 255, atol=1e-6)
    unknown = StereoDepths(np.zeros_like(depths.depth), single)
    assert fuse_points(CAMERAS, images, unknown).colors.shape == (0, 3)


def test_the_order_of_views_does_not_matter(slanted):
    _, images, depths = slanted
    order = np.array([2, 0, 1])
    clouds = [
        fuse_points(CAMERAS, images, depths),
        fuse_points(CAMERAS[order], images[order], StereoDepths(depths.depth[order], depths.confident[order])),
    ]
    np.testing.assert_allclose(clouds[0].positions, clouds[1].positions, atol=1e-5)
    np.testing.assert_allclose(clouds[0].colors, clouds[1].colors, atol=1e-5)


def test_voxels_grow_with_depth():
    images, depths = render(CAMERAS[:1], Plane(offset=3.0))
    counts = []
    for scale in (1, 8):
        known = StereoDepths((scale * depths).astype(np.float32), np.ones(depths.shape, bool))
        counts.append(len(fuse_points(CAMERAS[:1], images, known).positions))
    assert counts[1] == pytest.approx(counts[0], rel=0.15)
