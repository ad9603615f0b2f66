"""A capture of nine small photos of colored blobs to train on, and the command line that trains on it."""

import json

import imageio.v3 as iio
import jax.numpy as jnp
import numpy as np

from ipsm_jax.data.ply import write_gaussians_ply
from ipsm_jax.rasterizer import render
from ipsm_jax.scene.camera import Camera, look_at
from ipsm_jax.scene.gaussians import gaussians_from_points
from ipsm_jax.train import main

WIDTH, HEIGHT, FOCAL = 40, 32, 40.0


def write_capture(folder):
    """Photos of 150 Gaussians, in nerfstudio's layout, and near.ply, points right before a training camera."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(3)
    points, colors = rng.uniform(-1, 1, (150, 3)), rng.uniform(0, 1, (150, 3))
    truth, alive = gaussians_from_points(points, colors)
    truth = truth._replace(opacity_logits=jnp.full(150, 3.0))
    frames = []
    intrinsics = jnp.array([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2])
    for number, angle in enumerate(np.linspace(-0.5, 0.5, 9)):
        matrix = look_at([4 * np.sin(angle), 0.3 * np.cos(9 * angle), -4 * np.cos(angle)], [0, 0, 0])
        camera = Camera(jnp.asarray(matrix), intrinsics, WIDTH, HEIGHT)
        image = np.clip(render(truth, camera, alive=alive).color, 0, 1)
        name = f"images/{number:03d}.png"
        iio.imwrite(folder / name, np.round(image * 255).astype(np.uint8))
        world_from_camera = np.linalg.inv(matrix.astype(np.float64)) @ np.diag([1, -1, -1, 1])  # OpenGL's axes
        frames.append({"file_path": name, "transform_matrix": world_from_camera.tolist()})
    intrinsics = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2, "w": WIDTH, "h": HEIGHT}
    # Right before the first photo's camera.
    matrix = np.array(frames[1]["transform_matrix"])
    near = (np.array([*([0.01, -0.01, 0.02] * rng.normal(size=(20, 3)) + [0, 0, -0.1]).T, np.ones(20)]).T @ matrix.T)[
        :, :3
    ]
    write_gaussians_ply(folder / "near.ply", *gaussians_from_points(near, colors[:20]))
    (folder / "transforms.json").write_text(json.dumps({"camera_model": "PINHOLE", **intrinsics, "frames": frames}))
    return folder


def command(capture, out, *extra):
    settings = {
        "scene": capture,
        "out": out,
        "init": "random",
        "downscale": 1,
        "iterations": 400,
        "density-from": 100,
        "max-gaussians": 16384,
        "checkpoint-every": 150,
        "log-every": 50,
        "sh-degree-interval": 100,
        "means-lr": 1e-3,
    }
    return [text for key, value in settings.items() for text in (f"--{key}", str(value))] + list(extra)


def refusal(arguments, capsys):
    """Exit code of the train command and what stderr says, which starts like a message to a person."""
    code = main(arguments)
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("error: ")
    return code, printed
