"""Photos to a scene: ``python -m ipsm_jax.prepare PHOTOS OUT``. Cameras, bounds, depth maps and a picture report."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from ipsm_jax.data.cache import atomic_folder
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.load import read_capture
from ipsm_jax.data.locate import detect_layout
from ipsm_jax.sfm.complete import Training, complete_scene
from ipsm_jax.sfm.extras import keep_extras
from ipsm_jax.sfm.pairs import all_pairs, sequence_pairs
from ipsm_jax.sfm.photos import LEAST, Photos, read_photos
from ipsm_jax.sfm.progress import StageClock, stages, with_forecast
from ipsm_jax.sfm.scene_folder import kept_points, write_scene
from ipsm_jax.sfm.solve import Solved, solve
from ipsm_jax.sfm.sources import capture_sources, solved_sources
from ipsm_jax.sfm.summary import Outcome, posed_outcome, solved_outcome
from ipsm_jax.sfm.video import SUFFIXES, extract_frames, is_video
from ipsm_jax.training.environment import enable_compilation_cache

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
    """Turn a folder of photos, or a video, into a scene that `ipsm-jax train` reads.

    The cameras are found by structure from motion (pycolmap, extra sfm) unless the folder has them already.
    """

    photos: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PHOTOS")]
    """Folder of photos, or a video."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder of the scene; it must not exist yet."""
    views: int | None = 3
    """Number of training views that bounds and depth maps are made from; give the same to train. None = all that are
    not test views."""
    split: Literal["auto", "llff", "all"] = "auto"
    """Rule that divides the photos into training and test views, as in train."""
    downscale: int | None = None
    """Factor by which the photos are reduced for training; default: to about 640 pixels."""
    frames: int = 40
    """Of a video: how many frames to take, the sharpest of as many equal intervals."""
    depth_maps: bool = True
    """Write the training views' depth maps as depth_maps/*.npy, 0 where unknown, for other programs and train --depth
    maps."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 2 unusable input, 130 stopped on request."""
    options = tyro.cli(PrepareOptions, args=argv, prog="ipsm-jax prepare")
    console = Console()
    enable_compilation_cache()
    try:
        prepare(options, lambda sentence: console.print(sentence, highlight=False, markup=False, soft_wrap=True))
    except KeyboardInterrupt:
        print(f"stopped; {options.out} was not made", file=sys.stderr)
        return 130
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def prepare(options: PrepareOptions, say: Say) -> None:
    """Make the folder `options.out`, whole or not at all.

    Raises:
      DataError: unusable input, or the folder exists; says what to do.
      MissingPycolmapError: the photos have no poses, and what finds them is not installed.
    """
    check(options)
    training = Training(options.out, options.views, options.split, options.downscale, options.depth_maps)
    clock = StageClock()
    with atomic_folder(options.out) as folder:
        try:
            outcome = _pose(options, folder, clock, say)
            complete_scene(training, folder, outcome, clock, say)
        except DataError as error:
            # The temporary name means nothing to the person.
            raise DataError(str(error).replace(str(folder), str(options.out))) from error
        if options.out.exists():
            raise DataError(f"{options.out} was made by somebody else in the meantime; nothing was written")


def check(options: PrepareOptions) -> None:
    """Refuse at once what cannot work.

    Raises:
      DataError: what is wrong with the options, and what to do.
    """
    photos, out = options.photos, options.out
    if out.exists() or out.is_symlink():
        raise DataError(f"{out} exists already and is not overwritten: choose another name, or remove it first")
    if not photos.exists():
        raise DataError(f"there is no {photos}: give a folder of photos, or a video")
    if photos.is_file() and not is_video(photos):
        raise DataError(
            f"{photos} is neither a folder of photos nor a video ({', '.join(sorted(SUFFIXES))}): give the folder that "
            "the photos are in"
        )
    if photos.is_dir() and out.resolve().is_relative_to(photos.resolve()):
        raise DataError(f"{out} would lie among the photos in {photos}: choose a place outside of it")
    if options.views is not None and options.views < 2:
        raise DataError(f"--views must be at least 2, since depth is seen from two places, got {options.views}")
    if options.downscale is not None and options.downscale < 1:
        raise DataError(f"--downscale must be at least 1, got {options.downscale}")
    if options.frames < LEAST:
        raise DataError(f"--frames must be at least {LEAST}, got {options.frames}")


def _pose(options: PrepareOptions, folder: Path, clock: StageClock, say: Say) -> Outcome:
    """Photos and cameras into the scene folder."""
    layout = detect_layout(options.photos)
    if layout is not None:
        return _keep_poses(options.photos, layout, folder, clock, say)
    with tempfile.TemporaryDirectory(prefix="ipsm_jax_") as name:
        work = Path(name)
        photos, solved = _solve(options, work, clock, say)
        sources = solved_sources(photos.photos, solved.solution)
        if len(sources.kept) < LEAST:
            raise DataError(
                f"only {len(sources.kept)} of the photos whose cameras were found can be cropped to one shape, and a "
                f"scene needs {LEAST}: crop or turn the others to the same shape, or take more photos"
            )
        clock("writing photos", 0, 1)
        written = write_scene(folder, sources.kept, kept_points(solved.solution, sources.lost))
        outcome = solved_outcome(options.photos, photos, solved, sources, written, work)
    say(outcome.sentences[0])
    for left in outcome.left_out:
        say(f"  {left.name}: {left.reason}")
    return outcome


def _keep_poses(source: Path, layout: str, folder: Path, clock: StageClock, say: Say) -> Outcome:
    capture = read_capture(source)
    say(
        f"{source} has camera poses already ({layout}): structure from motion is skipped, and `train --scene {source}` "
        "reads it as it is"
    )
    clock("writing photos", 0, 1)
    sources = capture_sources(capture)
    written = write_scene(folder, sources.kept)
    numbers = [i for i in range(len(capture.photos)) if i not in sources.lost]
    notes = keep_extras(capture, sources.kept, numbers, written, folder)
    outcome = posed_outcome(capture, layout, sources, numbers, written, notes)
    for left in outcome.left_out:
        say(f"  {left.name}: {left.reason}")
    return outcome


def _solve(options: PrepareOptions, work: Path, clock: StageClock, say: Say) -> tuple[Photos, Solved]:
    source, ordered = options.photos, is_video(options.photos)
    with stages() as bars:
        if ordered:
            source = work / "frames"
            source.mkdir()
            frames = extract_frames(options.photos, source, options.frames, clock.around(bars))
            say(f"{len(frames)} frames of {options.photos.name}, the sharpest of each interval")
    clock("reading photos", 0, 1)
    photos = read_photos(source, work)
    for note in photos.notes:
        say(f"note: {note}")
    count = len(photos.photos)
    pairs = sequence_pairs(count) if ordered else all_pairs(count)
    say(f"{count} photos, {len(pairs)} pairs of them; finding their cameras (this may take minutes)")
    with stages() as bars:
        return photos, solve(photos.photos, work, pairs, with_forecast(clock.around(bars), say))


if __name__ == "__main__":
    raise SystemExit(main())
