"""The definition of the image as loops over pixels and Gaussians, in float64 numpy, sharing no code with the package.

Written from the equations with other means than the package (scipy rotations, an inverted matrix, a camera center by
solving a system, associated Legendre functions), so that a common mistake is unlikely.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial.transform import Rotation
from scipy.special import lpmv


def real_harmonic(degree: int, order: int, direction: np.ndarray) -> float:
    """Real spherical harmonic with the Condon-Shortley sign, as sqrt(2) times a part of the complex one."""
    x, y, z = direction
    m = abs(order)
    norm = math.sqrt((2 * degree + 1) / (4 * math.pi) * math.factorial(degree - m) / math.factorial(degree + m))
    legendre = norm * lpmv(m, degree, z)
    azimuth = math.atan2(y, x)
    if order == 0:
        return legendre
    return math.sqrt(2) * legendre * (math.cos(m * azimuth) if order > 0 else math.sin(m * azimuth))


def render_loop(
    gaussians,
    camera,
    alive,
    background,
    sh_degree,
    mean2d_offset,
    footprint="exact",
    features=None,
    antialiased=False,
):
    """color (h, w, 3), depth (h, w), alpha (h, w), features (h, w, c), visible (n,)."""
    g = [np.asarray(a, np.float64) for a in gaussians]
    means, log_scales, quaternions, logits, sh_dc, sh_rest = g
    matrix = np.asarray(camera.camera_from_world, np.float64)
    fx, fy, cx, cy = np.asarray(camera.intrinsics, np.float64)
    width, height = camera.width, camera.height
    features = np.zeros((len(means), 0)) if features is None else np.asarray(features, np.float64)
    eye = np.linalg.solve(matrix, [0.0, 0.0, 0.0, 1.0])[:3]

    splats = []
    visible = np.zeros(len(means), bool)
    for i in range(len(means)):
        if not alive[i]:
            continue
        x, y, z = (matrix @ [*means[i], 1.0])[:3]
        opacity = 1 / (1 + math.exp(-logits[i]))
        if z <= 0.2:
            continue
        rotation = Rotation.from_quat(np.roll(quaternions[i], -1)).as_matrix()
        world_cov = rotation @ np.diag(np.exp(2 * log_scales[i])) @ rotation.T
        limit_x, limit_y = 1.3 * 0.5 * width / fx, 1.3 * 0.5 * height / fy
        tx, ty = z * np.clip(x / z, -limit_x, limit_x), z * np.clip(y / z, -limit_y, limit_y)
        jacobian = np.array([[fx / z, 0, -fx * tx / z**2], [0, fy / z, -fy * ty / z**2]])
        to_image = jacobian @ matrix[:3, :3]
        sharp = to_image @ world_cov @ to_image.T
        cov = sharp + 0.3 * np.eye(2)
        if antialiased:
            opacity *= math.sqrt(np.linalg.det(sharp) / np.linalg.det(cov))
        if opacity < 1 / 255:
            continue
        mean2d = np.array([fx * x / z + cx, fy * y / z + cy]) + np.asarray(mean2d_offset[i], np.float64)
        if footprint == "exact":
            reach = math.sqrt(2 * math.log(255 * opacity))
            extent = reach * np.sqrt(np.diag(cov))
            box = [
                (max(math.ceil(mean2d[k] - 0.5 - extent[k]), 0), min(math.floor(mean2d[k] - 0.5 + extent[k]), n - 1))
                for k, n in enumerate((width, height))
            ]
        else:
            radius = math.ceil(3 * math.sqrt(np.linalg.eigvalsh(cov)[1]))
            box = []
            for k, n in enumerate((width, height)):
                grid = (n + 15) // 16
                first = min(grid, max(0, int((mean2d[k] - 0.5 - radius) / 16)))
                end = min(grid, max(0, int((mean2d[k] - 0.5 + radius + 15) / 16)))
                box.append((16 * first, 16 * end - 1))
        if any(first > last for first, last in box):
            continue
        visible[i] = True
        direction = (means[i] - eye) / np.linalg.norm(means[i] - eye)
        coefficients = np.concatenate([sh_dc[i][None], sh_rest[i]])
        color = np.full(3, 0.5)
        for degree in range(sh_degree + 1):
            for order in range(-degree, degree + 1):
                color += real_harmonic(degree, order, direction) * coefficients[degree**2 + degree + order]
        splats.append((z, i, mean2d, np.linalg.inv(cov), opacity, np.maximum(color, 0), box))
    splats.sort(key=lambda s: s[:2])

    color, depth = np.zeros((height, width, 3)), np.zeros((height, width))
    alpha_sum, feature_image = np.zeros((height, width)), np.zeros((height, width, features.shape[1]))
    for row in range(height):
        for column in range(width):
            transmittance = 1.0
            for z, i, mean2d, conic, opacity, rgb, ((x0, x1), (y0, y1)) in splats:
                if not (x0 <= column <= x1 and y0 <= row <= y1):
                    continue
                d = np.array([column + 0.5, row + 0.5]) - mean2d
                alpha = min(0.99, opacity * math.exp(-0.5 * d @ conic @ d))
                if alpha < 1 / 255:
                    continue
                if transmittance * (1 - alpha) < 1e-4:
                    break
                color[row, column] += rgb * alpha * transmittance
                depth[row, column] += z * alpha * transmittance
                alpha_sum[row, column] += alpha * transmittance
                feature_image[row, column] += features[i] * alpha * transmittance
                transmittance *= 1 - alpha
            color[row, column] += transmittance * np.asarray(background, np.float64)
    return color, depth, alpha_sum, feature_image, visible
