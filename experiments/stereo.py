"""Dense stereo of the training views against what is known of the scenes: accuracy, completeness, time and memory.

    python experiments/stereo.py --scenes fern:8 fountain-P11:4 demo:1 --data-root data [--views 3]

A scene is name:downscale. Depths that the stereo is confident of are compared with exact ones where the scene has them,
else with the points of its COLMAP model that were tracked in the view (by three images or more, with a reprojection
error under 2 pixels); such a model was made with all photos, the stereo sees the training views only. Each scene runs
in a process of its own, twice, so that seconds are with and without compiling. Writes <out>/stereo.json and pictures of
the depth maps first, then prints a Markdown table made from it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ipsm_jax.data import colmap
from ipsm_jax.data.load import load_scene
from ipsm_jax.data.scene import Scene
from ipsm_jax.reporting.files import write_json
from ipsm_jax.reporting.pictures import depth_picture, depth_range, strip
from ipsm_jax.scene.projection import project_points
from ipsm_jax.stereo import StereoDepths, fuse_points, scene_bounds, stereo_depths, stereo_progress

LEAST_TRACK = 3
MOST_ERROR = 2.0  # pixels


def reference_points(scene: Scene, view: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and depth where the depth of a view is known."""
    if scene.depths is not None:
        row, column = np.nonzero(scene.depths[view] > 0)
        return row, column, scene.depths[view][row, column]
    folder, _ = colmap.model_folder(scene.path)
    if folder is not None:
        ids = {Path(image.name).stem: image.id for image in colmap.read_model(folder).images}
        image_id = ids[Path(scene.names[view]).stem]
    else:
        # LLFF publishes fern's model without its images, whose ids are the sorted positions plus 1.
        folder, image_id = scene.path / colmap.MODEL_FOLDERS[0], view + 1
    points = colmap.read_points(folder)
    if points is None:
        raise SystemExit(f"{scene.path} has neither exact depths nor a COLMAP model with points to compare with")
    tracks = np.bincount(points.track_points, minlength=len(points.positions))
    seen = points.by_image().get(image_id, np.zeros(0, np.int64))
    seen = seen[(tracks[seen] >= LEAST_TRACK) & (points.errors[seen] < MOST_ERROR)]
    found = project_points(scene.cameras[view], points.positions[seen])
    return *found.cells, found.depth[found.inside]


def accuracy(scene: Scene, result: StereoDepths) -> dict[str, float]:
    """Relative errors of the confident depths, and how many of the references and of all pixels are confident."""
    errors, references = [], 0
    for i, view in enumerate(scene.train):
        row, column, depth = reference_points(scene, view)
        references += len(depth)
        sure = result.confident[i, row, column]
        errors.append((np.abs(result.depth[i, row, column] - depth) / depth)[sure])
    error = np.concatenate(errors)
    return {
        "references": references,
        "median": float(np.median(error)),
        "within_1_percent": float(np.mean(error < 0.01)),
        "within_3_percent": float(np.mean(error < 0.03)),
        "complete_references": len(error) / references,
        "complete_pixels": float(result.confident.mean()),
    }


def timed(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What a function gives, and its seconds on the wall and on all processors together."""
    wall, processor = time.perf_counter(), time.process_time()
    result = run()
    return result, {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor}


def pictures(scene: Scene, result: StereoDepths) -> np.ndarray:
    """A row for each view: photo, depth, depth where confident."""
    limits = depth_range(result.depth, result.confident.astype(np.float32))
    rows = []
    for i, view in enumerate(scene.train):
        depth, known, sure = result.depth[i], result.depth[i] > 0, result.confident[i]
        tiles = [scene.images[view], *(depth_picture(depth * m, m.astype(float), limits) for m in (known, sure))]
        share = f"where confident ({sure.mean():.0%})"
        rows.append(strip(tiles, [scene.names[view], "depth", share]))
    return np.concatenate(rows)


def run_scene(name: str, downscale: int, views: int, data_root: Path | None, out: Path) -> None:
    """Measure one scene; writes its figures and its picture."""
    scene = load_scene(name, data_root=data_root, views=views, downscale=downscale)
    train = list(scene.train)
    cameras, images, bounds = scene.train_cameras, scene.train_images, scene_bounds(scene)
    with stereo_progress() as progress:
        result, cold = timed(lambda: stereo_depths(cameras, images, bounds, progress=progress))
        _, warm = timed(lambda: stereo_depths(cameras, images, bounds, progress=progress))
    points, fusing = timed(lambda: fuse_points(cameras, images, result))
    label = f"{scene.name}-{scene.width}x{scene.height}-{len(train)}"
    figures = {
        "scene": scene.name,
        "size": [scene.width, scene.height],
        "views": len(train),
        **accuracy(scene, result),
        "points": len(points.positions),
        "cold": cold,
        "warm": warm,
        "fusing": fusing,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    write_json(out / f"{label}.json", figures)
    Image.fromarray(pictures(scene, result)).save(out / f"{label}.png")
    print(json.dumps(figures), flush=True)


def table(results: list[dict[str, Any]]) -> str:
    """One row per scene; completeness is that of reference points, then of all pixels."""
    lines = ["| scene | views | median | < 1 % | < 3 % | complete | points | cold s | warm s | warm CPU s | peak MiB |"]
    lines.append("|" + "---|" * 11)
    for r in results:
        cells = [f"{r['scene']} {r['size'][0]}x{r['size'][1]}", str(r["views"]), f"{100 * r['median']:.2f} %"]
        cells += [f"{r['within_1_percent']:.3f}", f"{r['within_3_percent']:.3f}"]
        cells += [f"{r['complete_references']:.2f}, {r['complete_pixels']:.2f}", str(r["points"])]
        cells += [f"{r['cold']['seconds']:.1f}", f"{r['warm']['seconds']:.1f}", f"{r['warm']['cpu_seconds']:.1f}"]
        lines.append("| " + " | ".join([*cells, f"{r['peak_mib']:.0f}"]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", required=True, help="name:downscale")
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/stereo"))
    parser.add_argument("--here", action="store_true", help="one scene, in this process")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.here:
        name, _, downscale = args.scenes[0].rpartition(":")
        run_scene(name, int(downscale), args.views, args.data_root, args.out)
        return
    results = []
    for scene in args.scenes:
        command = [sys.executable, __file__, "--here", "--scenes", scene, "--views", str(args.views)]
        command += ["--out", str(args.out)]
        if args.data_root is not None:
            command += ["--data-root", str(args.data_root)]
        finished = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        if finished.returncode != 0:
            raise SystemExit(f"failed: {' '.join(command)}")
        results.append(json.loads(finished.stdout.splitlines()[-1]))
        write_json(args.out / "stereo.json", results)
    print(table(results))


if __name__ == "__main__":
    main()
