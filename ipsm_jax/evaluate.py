"""Measure Gaussians against photos they were not trained on: ``python -m ipsm_jax.evaluate RUN_FOLDER``.

Writes renders/ (render, photo, error and depth of every view), comparison.png (the same at a glance), metrics.json and
report.html. What is measured are the 8-bit files, read back (METHOD section 8).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import imageio.v3 as iio
import jax
import numpy as np
import tyro
from jaxtyping import Array, Bool, Float
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ipsm_jax.data.scene import Scene
from ipsm_jax.metrics.suite import MASKED, VARIANTS, MetricSuite, Values, mean_metrics, metric_suite
from ipsm_jax.rasterizer import compiled_renderer
from ipsm_jax.rasterizer.render import Backend
from ipsm_jax.reporting.files import write_json, write_png
from ipsm_jax.reporting.html import METRIC_STYLE, ViewPictures, format_metric, write_report
from ipsm_jax.reporting.pictures import depth_picture, error_picture, strip
from ipsm_jax.scene.gaussians import Gaussians
from ipsm_jax.trained import (
    EXPECTED_ERRORS,
    CommandError,
    SourceOptions,
    Trained,
    open_trained,
    read_history,
    read_optional_json,
    run_notes,
)
from ipsm_jax.training.environment import enable_compilation_cache

Split = Literal["test", "train"]
MOST_COMPARED = 3  # views in comparison.png


def evaluate_gaussians(
    gaussians: Gaussians,
    alive: Bool[Array, " n"],
    scene: Scene,
    folder: Path,
    *,
    background: Float[Any, " 3"],
    lpips: bool | None = None,
    sh_degree: int = 3,
    history: Sequence[Mapping[str, Any]] | None = None,
    split: Split = "test",
    backend: Backend = "auto",
    run_folder: Path | None = None,
    iteration: int | None = None,
    notes: Sequence[str] = (),
    progress: bool = False,
) -> dict[str, Any]:
    """Render the views of a split, measure them and write pictures, metrics.json and report.html into `folder`.

    Args:
      gaussians, alive: n slots and which are in use.
      scene: photos, cameras and split; with masks the DTU rules apply.
      folder: where results go; made if missing.
      background: (3,) color behind everything.
      lpips: True demands LPIPS, False leaves it out, None computes it if its weights are installed.
      sh_degree: degree of the spherical harmonics in use.
      history: records for the training curves; default: those in the run folder's log.jsonl.
      split: which views.
      backend: rasterizer.
      run_folder: where config.json, environment.json and log.jsonl lie; default: `folder`.
      iteration: number of training iterations, for the report.
      notes: sentences for the report, beside the scene's own.
      progress: show a progress bar.

    Returns:
      What metrics.json holds: "mean" (value or None by metric), "views" (the same for each view's file name),
      "variants" (what each metric is), "not_computed" (reason by metric), "split", "scene", "gaussians", "iteration".

    Raises:
      CommandError: if the split has no views.
      LpipsUnavailableError: if lpips is True and the weights are missing.
    """
    folder = Path(folder)
    run_folder = folder if run_folder is None else Path(run_folder)
    indices = scene.test if split == "test" else scene.train
    if not indices:
        raise CommandError(f"scene {scene.name} has no {split} views to evaluate")
    suite = metric_suite(scene.height, scene.width, with_lpips=lpips)
    draw = compiled_renderer(sh_degree=sh_degree, background=np.asarray(background), backend=backend)
    views: dict[str, Values] = {}
    pictures = []
    for index in track(indices, description=f"measuring {split} views", disable=not progress, transient=True):
        result = jax.device_get(draw(gaussians, scene.cameras[index], alive))
        paths = _write_view(folder / "renders", scene, index, result.color, result.depth, result.alpha)
        pictures.append(paths)
        views[paths.name] = _measure_view(suite, paths, None if scene.masks is None else scene.masks[index])
    mean, reasons = mean_metrics(views)
    masked = MASKED if scene.masks is not None else ""
    metrics = {
        "scene": scene.name,
        "split": split,
        "iteration": iteration,
        "gaussians": int(np.sum(np.asarray(alive))),
        "width": scene.width,
        "height": scene.height,
        "mean": mean,
        "views": views,
        "variants": {name: text + masked for name, text in VARIANTS.items()},
        "not_computed": reasons | suite.not_computed,
    }
    write_json(folder / "metrics.json", metrics)
    write_png(folder / "comparison.png", _comparison(pictures[:MOST_COMPARED], views))
    write_report(
        folder,
        title=f"{scene.name}, from {len(scene.train)} photos",
        heading="Training views" if set(indices) <= set(scene.train) else "Views it was not trained on",
        facts=_facts(scene, metrics),
        metrics=metrics,
        views=pictures,
        notes=notes,
        training_photos={scene.names[i]: scene.images[i] for i in scene.train},
        history=read_history(run_folder) if history is None else history,
        config=read_optional_json(run_folder / "config.json"),
        environment=read_optional_json(run_folder / "environment.json"),
        run_folder=run_folder,
    )
    return metrics


def _write_view(folder: Path, scene: Scene, index: int, color: Any, depth: Any, alpha: Any) -> ViewPictures:
    """The four pictures of one view as 8-bit PNG."""
    name = scene.names[index]
    stem = Path(name).stem
    kinds = {"render": "", "ground_truth": "_gt", "error": "_error", "depth": "_depth"}
    paths = ViewPictures(name, **{kind: folder / f"{stem}{suffix}.png" for kind, suffix in kinds.items()})
    photo = scene.images[index] / np.float32(255)
    seen = np.clip(color, 0, 1)
    counted = True if scene.masks is None else scene.masks[index][..., None]  # outside the object nothing is an error
    write_png(paths.render, seen)
    write_png(paths.ground_truth, scene.images[index])
    write_png(paths.error, error_picture(seen, np.where(counted, photo, seen)))
    write_png(paths.depth, depth_picture(depth, alpha))
    return paths


def _comparison(pictures: Sequence[ViewPictures], values: Mapping[str, Values]) -> np.ndarray:
    """Photo, render, error and depth of a few views, one row each."""
    rows = []
    for paths in pictures:
        captions = (
            paths.name,
            f"render, {format_metric('psnr', values[paths.name]['psnr'], unit=True)}",
            "error",
            "depth",
        )
        rows.append(strip([iio.imread(path) for path in paths[1:]], captions))
    return np.concatenate(rows)


def _measure_view(suite: MetricSuite, paths: ViewPictures, mask: np.ndarray | None) -> Values:
    image, target = (iio.imread(path) / np.float32(255) for path in (paths.render, paths.ground_truth))
    return suite.measure(image, target, mask)


def _facts(scene: Scene, metrics: Mapping[str, Any]) -> dict[str, Any]:
    facts = {
        "Scene": scene.name,
        "Photos": f"{len(scene.names)} of {scene.width}x{scene.height} in {scene.path}",
        "Training views": [scene.names[i] for i in scene.train],
        "Test views": [scene.names[i] for i in scene.test],
        "Gaussians": f"{metrics['gaussians']:,}",
    }
    if metrics["iteration"] is not None:
        facts["Iterations"] = f"{metrics['iteration']:,}"
    if scene.notes:
        facts["Notes on the scene"] = "; ".join(scene.notes)
    return facts


@dataclasses.dataclass(frozen=True)
class EvaluateOptions(SourceOptions):
    """Measure a run (or a PLY file) against its scene's photos and write pictures, metrics.json and report.html."""

    split: Split = "test"
    """Which views."""
    lpips: bool = True
    """Compute LPIPS, if its weights are installed."""
    out: Path | None = None
    """Folder for the results. Default: the run folder for its test views at the last checkpoint; otherwise a folder
    named after what was evaluated, inside the run folder or beside the PLY file."""


def results_folder(options: EvaluateOptions, trained: Trained) -> Path:
    """Where the results go, so that those of other views, checkpoints or files do not replace the run's own."""
    if options.out is not None:
        return options.out
    parts = [part for part in (
        options.ply.stem if options.ply is not None else "",
        f"{options.iteration:06d}" if options.iteration is not None else "",
        options.split if options.split != "test" else "",
    ) if part]  # fmt: skip
    return trained.folder / "_".join(["evaluation", *parts]) if parts else trained.folder


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = tyro.cli(EvaluateOptions, args=argv, prog="ipsm-jax evaluate")
    console = Console()
    enable_compilation_cache()
    try:
        trained = open_trained(options)
        folder = results_folder(options, trained)
        metrics = evaluate_gaussians(
            trained.gaussians,
            trained.alive,
            trained.scene,
            folder,
            background=trained.background,
            lpips=None if options.lpips else False,
            sh_degree=trained.sh_degree,
            split=options.split,
            backend=options.backend,
            run_folder=trained.folder,
            iteration=trained.iteration,
            notes=run_notes(trained.folder),
            progress=True,
        )
    except EXPECTED_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_metrics(console, metrics)
    console.print(f"{folder / 'report.html'}", highlight=False, soft_wrap=True)
    return 0


def print_metrics(console: Console, metrics: Mapping[str, Any]) -> None:
    """The metrics as a table on the terminal, and why some are missing."""
    names = [name for name in ("psnr", "ssim", "lpips_vgg", "avge") if metrics["mean"].get(name) is not None]
    table = Table("view", *(METRIC_STYLE[name][0] for name in names))
    for view, values in metrics["views"].items():
        table.add_row(view, *(format_metric(name, values[name]) for name in names))
    table.add_section()
    table.add_row("mean", *(format_metric(name, metrics["mean"][name]) for name in names))
    console.print(table)
    for name, value in metrics["mean"].items():
        if name not in names and value is not None:
            console.print(f"{METRIC_STYLE[name][0]}: {format_metric(name, value)}", highlight=False)
    for name, reason in metrics["not_computed"].items():
        console.print(f"{METRIC_STYLE[name][0]}: not computed. {reason}", highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    raise SystemExit(main())
