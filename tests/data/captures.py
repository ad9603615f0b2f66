"""Writers of small captures in every layout, independent of the readers, and the cameras they hold."""

import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from ipsm_jax.scene.camera import look_at

WIDTH, HEIGHT = 48, 32
FOCAL = 40.0
MODEL_IDS = {
    "SIMPLE_PINHOLE": 0,
    "PINHOLE": 1,
    "SIMPLE_RADIAL": 2,
    "RADIAL": 3,
    "OPENCV": 4,
    "OPENCV_FISHEYE": 5,
    "FULL_OPENCV": 6,
    "FOV": 7,
    "SIMPLE_RADIAL_FISHEYE": 8,
    "RADIAL_FISHEYE": 9,
    "THIN_PRISM_FISHEYE": 10,
}


def poses(count):
    """(count, 4, 4) float64 camera_from_world of cameras on an arc that look at a point 5 units away."""
    x = np.linspace(-1, 1, count)
    return np.stack([look_at((v, 0.2 * v * v, 0.1 * v), (0.1, -0.2, 5)) for v in x]).astype(np.float64)


def picture(seed, width=WIDTH, height=HEIGHT):
    """(H, W, 3) uint8 smooth colors, different for every seed."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 6, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def write_pictures(folder, names, width=WIDTH, height=HEIGHT):
    """One picture per name; the seed is the position."""
    for i, name in enumerate(names):
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(i, width, height)).save(path)


def poses_bounds(matrices, bounds=(2.0, 9.0), width=WIDTH, height=HEIGHT, focal=FOCAL):
    """(V, 17) LLFF table of camera_from_world matrices."""
    rows = []
    for matrix in matrices:
        right, down, forward = matrix[:3, :3]
        position = -matrix[:3, :3].T @ matrix[:3, 3]
        columns = np.stack([down, right, -forward, position, (height, width, focal)], axis=1)
        rows.append([*columns.ravel(), *bounds])
    return np.array(rows)


def write_llff(root, count=10, names=None):
    """An LLFF capture with full-size pictures; returns its camera_from_world matrices."""
    root = Path(root)
    names = names or [f"IMG_{i:02d}.png" for i in range(count)]
    write_pictures(root / "images", names)
    matrices = poses(len(names))
    np.save(root / "poses_bounds.npy", poses_bounds(matrices))
    return matrices


def quaternion(rotation):
    """Wxyz of a rotation matrix, by the trace formula (fine for the small rotations of `poses`)."""
    w = np.sqrt(1 + np.trace(rotation)) / 2
    skew = (rotation - rotation.T) / (4 * w)
    return np.array([w, skew[2, 1], skew[0, 2], skew[1, 0]])


def colmap_points(count=30, seed=0):
    """(count, 3) positions in front of the cameras and (count, 3) uint8 colors."""
    rng = np.random.default_rng(seed)
    return rng.uniform((-0.5, -0.5, 4), (0.5, 0.5, 6), (count, 3)), rng.integers(0, 256, (count, 3)).astype(np.uint8)


def write_colmap(root, matrices, names, *, text=False, model="PINHOLE", params=None, points=None, size=(WIDTH, HEIGHT)):
    """A sparse model in sparse/0 in which every image sees every point."""
    folder = Path(root) / "sparse" / "0"
    folder.mkdir(parents=True, exist_ok=True)
    params = (FOCAL, FOCAL, size[0] / 2, size[1] / 2) if params is None else params
    positions, colors = colmap_points() if points is None else points
    write = _colmap_text if text else _colmap_binary
    write(folder, matrices, names, model, params, positions, colors, size)
    return folder


def _colmap_binary(folder, matrices, names, model, params, positions, colors, size):
    data = struct.pack("<QIiQQ", 1, 1, MODEL_IDS.get(model, 999), *size) + struct.pack(f"<{len(params)}d", *params)
    (folder / "cameras.bin").write_bytes(data)
    data = struct.pack("<Q", len(names))
    for i, (matrix, name) in enumerate(zip(matrices, names, strict=True)):
        data += struct.pack("<I4d3dI", i + 1, *quaternion(matrix[:3, :3]), *matrix[:3, 3], 1) + name.encode() + b"\0"
        data += struct.pack("<Q", 2) + struct.pack("<ddqddq", 1.0, 2.0, 1, 3.0, 4.0, -1)
    (folder / "images.bin").write_bytes(data)
    data = struct.pack("<Q", len(positions))
    for i, (xyz, rgb) in enumerate(zip(positions, colors, strict=True)):
        data += struct.pack("<Q3d3BdQ", i + 1, *xyz, *map(int, rgb), 0.5, len(names))
        data += b"".join(struct.pack("<II", k + 1, 0) for k in range(len(names)))
    (folder / "points3D.bin").write_bytes(data)


def _colmap_text(folder, matrices, names, model, params, positions, colors, size):
    numbers = " ".join(repr(float(p)) for p in params)
    (folder / "cameras.txt").write_text(f"# a comment\n1 {model} {size[0]} {size[1]} {numbers}\n")
    lines = ["# Image list"]
    for i, (matrix, name) in enumerate(zip(matrices, names, strict=True)):
        numbers = " ".join(repr(float(v)) for v in (*quaternion(matrix[:3, :3]), *matrix[:3, 3]))
        lines += [f"{i + 1} {numbers} 1 {name}", "1.0 2.0 1 3.0 4.0 -1" if i else ""]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    track = " ".join(f"{k + 1} 0" for k in range(len(names)))
    lines = [
        f"{i + 1} {' '.join(repr(float(v)) for v in xyz)} {' '.join(map(str, rgb))} 0.5 {track}"
        for i, (xyz, rgb) in enumerate(zip(positions, colors, strict=True))
    ]
    (folder / "points3D.txt").write_text("\n".join(lines) + "\n")


def write_transforms(root, matrices, names, *, file="transforms.json", frames=None, **fields):
    """A transforms.json with OpenGL world_from_camera poses; `fields` go to the top, `frames[i]` into frame i."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    content = {"fl_x": FOCAL, "fl_y": FOCAL, "w": WIDTH, "h": HEIGHT} | fields
    content = {key: value for key, value in content.items() if value is not None}
    content["frames"] = []
    for i, (matrix, name) in enumerate(zip(matrices, names, strict=True)):
        rotation, translation = matrix[:3, :3], matrix[:3, 3]
        world_from_camera = np.eye(4)
        world_from_camera[:3, :3] = rotation.T @ np.diag([1.0, -1.0, -1.0])
        world_from_camera[:3, 3] = -rotation.T @ translation
        frame = {"file_path": name, "transform_matrix": world_from_camera.tolist()}
        content["frames"].append(frame | (frames[i] if frames else {}))
    (root / file).write_text(json.dumps(content))
