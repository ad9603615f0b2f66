"""The rest of a scene folder once photos and cameras are there: bounds, points, depth maps, report.

Everything here looks at the training views alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ipsm_jax.data.load import load_scene
from ipsm_jax.data.ply import write_points_ply
from ipsm_jax.data.scene import PointCloud, Scene
from ipsm_jax.data.split_file import read_split
from ipsm_jax.data.splits import choose_split
from ipsm_jax.data.triangulate import MissingPycolmapError, triangulated_points
from ipsm_jax.reporting.files import write_json
from ipsm_jax.reporting.pictures import depth_picture, strip
from ipsm_jax.reporting.prepare_report import Tile, write_prepare_report
from ipsm_jax.reporting.top_view import SPARE, TEST, TRAIN, top_view
from ipsm_jax.sfm.progress import StageClock
from ipsm_jax.sfm.scene_folder import write_bounds
from ipsm_jax.sfm.summary import THUMBNAIL, Outcome
from ipsm_jax.stereo import StereoDepths, StereoError, scene_depths, stereo_progress
from ipsm_jax.stereo.bounds import point_bounds

USUAL_SIZE = 640
"""Pixels of the longer side that photos are reduced to if nothing is said: about what published figures are made at."""
TRAINING_POINTS = "training_points.ply"
MOST_DEPTHS = 9  # pictures of depth in the report
_WIDEST = 1200  # pixels of a pair of photo and depth


@dataclasses.dataclass(frozen=True)
class Training:
    """How the scene will be trained on.

    Attributes:
      out: the final name of the scene folder.
      views: number of training views, None for all that are not test views.
      split: one of `splits.SPLITS`.
      downscale: None for the one that gives about `USUAL_SIZE` pixels.
      depth_maps: whether to write depth_maps/*.npy.
    """

    out: Path
    views: int | None
    split: str
    downscale: int | None
    depth_maps: bool


def complete_scene(
    training: Training, folder: Path, outcome: Outcome, clock: StageClock, say: Callable[[str], None]
) -> None:
    """Write bounds, downscaled photos, the training views' points and depth maps, prepare.json and report.html.

    Args:
      training: how the scene will be trained on.
      folder: of the scene, with photos and cameras.
      outcome: about these.
      clock: of the stages so far; goes on.
      say: told what a person should read.
    """
    clock("reducing photos", 0, 1)
    scene, split, sentences = _load(training, folder, outcome)
    clock("bounds", 0, 1)
    scene, points, remark = _bounded(scene, folder, outcome)
    sentences += remark
    if len(points.positions):
        write_points_ply(folder / TRAINING_POINTS, points)
        sentences.append(f"{TRAINING_POINTS} holds the {len(points.positions)} points that the training views share.")
    clock("depth maps", 0, 1)
    depths, remark = _depths(scene)
    sentences += remark
    if depths is not None and training.depth_maps:
        maps = folder / "depth_maps"
        maps.mkdir()
        for view, depth, known in zip(scene.train, depths.depth, depths.confident, strict=True):
            np.save(maps / f"{Path(scene.names[view]).stem}.npy", np.where(known, depth, 0).astype(np.float32))
        sentences.append(
            f"depth_maps/ holds them for --depth maps --depth-path {training.out / 'depth_maps'} --maps-hold depth."
        )
    command = train_command(training, scene, outcome.written.size, split)
    for sentence in sentences:
        say(sentence)
    say(f"report: {training.out / 'report.html'}\nnext:   {command}")
    facts: dict[str, Any] = {
        **outcome.facts,
        "training views": ", ".join(scene.names[i] for i in scene.train),
        "test views": len(set(scene.test) - set(scene.train)),
        "size in training": f"{scene.width}x{scene.height}",
        "points of the training views alone": len(points.positions),
        "depth known": "not computed" if depths is None else f"{depths.confident.mean():.1%} of the training pixels",
        "seconds": clock.spent(),
    }
    _report(training, folder, outcome, scene, points, depths, facts, sentences, command)


def _load(training: Training, folder: Path, outcome: Outcome) -> tuple[Scene, str | None, list[str]]:
    """The scene at the size and with the split that training will use; the split's name if training has to be told it;
    and sentences about these.
    """
    count, name = len(outcome.written.names), training.out.resolve().name
    listed = read_split(folder, outcome.written.names)
    # The protocol of a posed scene may follow from what its own folder is called.
    known_as = outcome.title if outcome.posed else name
    sentences = []
    views, split = training.views, training.split
    candidates = len(choose_split(split, count, None, name=known_as, listed=listed).train)
    if views is not None and candidates < views and (listed or views < count):
        sentences.append(
            f"{views} training views were asked for, and {candidates} are left beside the test views: these are taken."
        )
        views = candidates
    views = None if views is None else min(views, count)
    chosen = choose_split(split, count, views, name=known_as, listed=listed)
    size = max(outcome.written.size)
    downscale = training.downscale or max(1, round(size / USUAL_SIZE))
    # By the split's own name: "auto" depends on that of the folder, which is a temporary one here.
    scene = load_scene(str(folder), views=views, downscale=downscale, split=chosen.name)
    notes = [note.replace(str(folder), str(training.out)) for note in scene.notes]
    by_itself = choose_split("auto", count, views, name=name, listed=listed).name
    told = None if training.split == "auto" and by_itself == chosen.name else chosen.name
    return dataclasses.replace(scene, name=name), told, [*sentences, *(f"{note}." for note in notes)]


def _bounded(scene: Scene, folder: Path, outcome: Outcome) -> tuple[Scene, PointCloud, list[str]]:
    """The scene with depth bounds of the training views' own points, these points, and sentences about them."""
    points = PointCloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))
    try:
        points = triangulated_points(scene)
    except MissingPycolmapError as error:
        if outcome.bounds is None:
            return scene, points, [f"No depth bounds: {error}."]
    bounds, sentences = outcome.bounds, []
    if bounds is None:
        try:
            bounds = point_bounds(scene.cameras, points.positions)
        except StereoError:
            if scene.bounds is None:
                return scene, points, ["The training views share too few points to know the depth bounds."]
            bounds = scene.bounds
            sentences.append(
                f"Depth bounds come from the sparse points of all photos: the {len(scene.train)} training views alone "
                f"give only {len(points.positions)} points."
            )
    write_bounds(folder, outcome.written, np.asarray(bounds, np.float64))
    return dataclasses.replace(scene, bounds=np.asarray(bounds, np.float32)), points, sentences


def _depths(scene: Scene) -> tuple[StereoDepths | None, list[str]]:
    """Depth maps of the training views, kept in the cache for training, and a sentence about them."""
    try:
        with stereo_progress() as progress:
            depths = scene_depths(scene, progress=progress)
    except (StereoError, MissingPycolmapError) as error:
        return None, [f"No depth maps: {error}."]
    each = ", ".join(f"{known.mean():.0%}" for known in depths.confident[:MOST_DEPTHS])
    return depths, [
        f"Dense stereo of the {len(scene.train)} training views knows the depth of {depths.confident.mean():.0%} of "
        f"their pixels ({each})."
    ]


def train_command(training: Training, scene: Scene, size: tuple[int, int], split: str | None) -> str:
    """What to type to train on the scene as it was prepared.

    Args:
      training: how that will be.
      scene: as it was prepared.
      size: (width, height) of its photos in full.
      split: to be named, None where training finds the same by itself.
    """
    words = ["ipsm-jax train --scene", f'"{training.out}"' if " " in str(training.out) else str(training.out)]
    words.append(f"--downscale {round(max(size) / max(scene.width, scene.height))}")
    words.append(f"--views {None if training.views is None else len(scene.train)}")
    if split is not None:
        words.append(f"--split {split}")
    return " ".join(words)


def _report(
    training: Training,
    folder: Path,
    outcome: Outcome,
    scene: Scene,
    points: PointCloud,
    depths: StereoDepths | None,
    facts: dict[str, Any],
    sentences: list[str],
    command: str,
) -> None:
    roles = {**dict.fromkeys(scene.test, TEST), **dict.fromkeys(scene.train, TRAIN)}
    listed = [roles.get(i, SPARE) for i in range(len(scene.names))]
    kinds = {TRAIN: "train", TEST: "test", SPARE: "spare"}
    texts = {TRAIN: "training view", TEST: "test view", SPARE: "neither trains nor tests"}
    tiles = [
        Tile(name, _small(image, THUMBNAIL), kinds[role], texts[role])
        for name, image, role in zip(scene.names, scene.images, listed, strict=True)
    ]
    tiles += [Tile(left.name, left.picture, "out", left.reason) for left in outcome.left_out]
    cloud = points if outcome.points is None else outcome.points
    pictures = []
    for view, number in list(zip(scene.train, range(len(scene.train)), strict=True))[:MOST_DEPTHS]:
        if depths is not None:
            known = depths.confident[number]
            pair = strip(
                [scene.images[view], depth_picture(np.where(known, depths.depth[number], 0), known.astype(float))],
                [scene.names[view], f"depth where it is known: {known.mean():.0%}"],
            )
            pictures.append(_small(pair, _WIDEST))
    cards = {
        "photos found": str(outcome.facts.get("photos found", len(scene.names))),
        "views": str(len(scene.names)),
        "training views": str(len(scene.train)),
        "depth known": "\N{EN DASH}" if depths is None else f"{depths.confident.mean():.0%}",
    }
    write_json(
        folder / "prepare.json",
        {
            "source": outcome.title,
            "views": list(scene.names),
            "training_views": [scene.names[i] for i in scene.train],
            "test_views": [scene.names[i] for i in scene.test],
            "left_out": {left.name: left.reason for left in outcome.left_out},
            "facts": facts,
            "sentences": [*outcome.sentences, *sentences],
            "train": command,
        },
    )
    write_prepare_report(
        folder,
        title=f"{training.out.resolve().name}: {outcome.title}" if outcome.title != scene.name else scene.name,
        cards=cards,
        sentences=[*outcome.sentences, *sentences],
        command=command,
        tiles=tiles,
        above=top_view(scene.cameras, listed, cloud.positions, cloud.colors),
        depths=pictures,
        facts=facts,
    )


def _small(picture: np.ndarray, longer: int) -> np.ndarray:
    """The picture with its longer side at most so many pixels."""
    image = Image.fromarray(picture)
    image.thumbnail((longer, longer))
    return np.asarray(image)
