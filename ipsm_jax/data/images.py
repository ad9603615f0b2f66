"""The photos of a capture at a wanted downscale.

Beside a folder `images` of full-size photos, captures keep `images_8` and the like with the same photos at 1/8.
They are used when they are there. If not, they are made from the largest photos there are and kept: beside the
originals where that folder may be written, in the cache otherwise.

File names in `images_8` may differ from those in `images` (LLFF has IMG_4026.JPG and image000.png): they are matched by
name, else by name without ending, else by sorted order if there are equally many.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from rich.console import Console
from rich.progress import track

from ipsm_jax.data.cache import atomic_folder, cache_root, digest, writable
from ipsm_jax.data.capture import Capture, PosedPhoto
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.pictures import SUFFIXES, Background, as_array, orientation, picture_size, read_picture, resize
from ipsm_jax.data.sizes import one_size

LONG_JOB = 8  # this many pictures or more get a progress bar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def image_names(folder: Path) -> tuple[str, ...]:
    """Sorted names, relative with "/", of the picture files in a folder and its sub-folders, hidden ones left out."""
    if not folder.is_dir():
        return ()
    files = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    relative = (p.relative_to(folder) for p in files)
    return tuple(sorted(p.as_posix() for p in relative if not any(part.startswith(".") for part in p.parts)))


def levels(folder: Path) -> dict[int, Path]:
    """Existing folders of one photo set by downscale: {1: images, 4: images_4, ...}, in rising order."""
    found = {1: folder} if folder.is_dir() else {}
    for sibling in folder.parent.glob(f"{folder.name}_*"):
        match = re.fullmatch(re.escape(folder.name) + r"_([1-9]\d?)", sibling.name)
        if match and int(match[1]) > 1 and sibling.is_dir():
            found[int(match[1])] = sibling
    return dict(sorted(found.items()))


def _without_suffix(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def match_names(names: Sequence[str], folder: Path, order: Sequence[str] = ()) -> list[Path | None]:
    """The file in `folder` for each of `names`, None where there is none.

    Args:
      names: image names of the source.
      folder: where to look.
      order: all names of the full set, sorted; if `folder` has equally many and none of them by name, files
        correspond by position.
    """
    present = image_names(folder)
    exact = set(present)
    stems: dict[str, list[str]] = {}
    for name in present:
        stems.setdefault(_without_suffix(name), []).append(name)

    def by_name(name: str) -> Path | None:
        if name in exact:
            return folder / name
        # A cache of pictures whose names differ in the ending alone keeps the full name and appends its own.
        if f"{name}.png" in exact:
            return folder / f"{name}.png"
        candidates = stems.get(_without_suffix(name), [])
        return folder / candidates[0] if len(candidates) == 1 else None

    found = [by_name(name) for name in names]
    if not any(found) and present and len(present) == len(order):
        position = {name: i for i, name in enumerate(order)}
        found = [folder / present[position[name]] if name in position else None for name in names]
    return found


def find_files(photos: Sequence[PosedPhoto], downscale: int) -> list[Path | None]:
    """The existing file of each photo at exactly this downscale, or None."""
    files: list[Path | None] = [None] * len(photos)
    for folder in dict.fromkeys(photo.folder for photo in photos):
        mine = [i for i, photo in enumerate(photos) if photo.folder == folder]
        level = levels(folder).get(downscale)
        if level is None:
            continue
        names = [photos[i].name for i in mine]
        order = image_names(folder) or tuple(sorted(names))
        for i, file in zip(mine, match_names(names, level, order), strict=True):
            files[i] = file
    return files


def existing(photos: Sequence[PosedPhoto]) -> list[bool]:
    """Whether each photo is there at any downscale."""
    factors = {factor for folder in {photo.folder for photo in photos} for factor in levels(folder)}
    found = np.zeros(len(photos), bool)
    for factor in factors:
        found |= [file is not None for file in find_files(photos, factor)]
    return found.tolist()


def working(items: Iterable[_In], job: Callable[[_In], _Out], label: str) -> list[_Out]:
    """`job` of every item, on all cores, with a progress bar when there are many."""
    items = list(items)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        results = pool.map(job, items)
        if len(items) < LONG_JOB:
            return list(results)
        console = Console(stderr=True)
        return list(track(results, label, len(items), console=console, transient=True, disable=not console.is_terminal))


def _complete(files: Sequence[Path | None]) -> list[Path] | None:
    found = [file for file in files if file is not None]
    return found if len(found) == len(files) else None


def _largest_source(capture: Capture, downscale: int) -> tuple[int, list[Path]]:
    """Downscale and files of the largest complete photo set that is larger than 1/`downscale`."""
    factors = sorted({factor for photo in capture.photos for factor in levels(photo.folder)})
    for factor in factors:
        if factor < downscale:
            files = _complete(find_files(capture.photos, factor))
            if files:
                return factor, files
    folder = capture.photos[0].folder
    have = ", ".join(level.name for level in levels(folder).values()) or "none"
    raise DataError(
        f"{capture.path}: there are no photos at 1/{downscale} and none larger to make them from "
        f"(folders there: {have}). Add {folder.name}/ with the full-size photos, or ask for a downscale that is there"
    )


def image_files(capture: Capture, downscale: int) -> tuple[list[Path], tuple[str, ...]]:
    """Files of all photos at 1/`downscale`, made and kept if they are not there yet, and notes about that.

    Raises:
      DataError: if they can be neither found nor made; names what is missing.
    """
    if downscale < 1:
        raise DataError(f"the downscale is a whole number from 1 (full size), got {downscale}")
    files = _complete(find_files(capture.photos, downscale))
    if files:
        return files, ()
    source_factor, sources = _largest_source(capture, downscale)
    ratio = downscale / source_factor
    outputs = _output_names(capture.photos)
    folders = {photo.folder for photo in capture.photos}
    folder = capture.photos[0].folder
    target = folder.with_name(f"{folder.name}_{downscale}")
    if len(folders) > 1 or target.exists() or not writable(target.parent):
        stamps = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in sources]
        target = cache_root() / "images" / digest([repr(stamps), downscale, "transparency kept"])
    tags: list[str] = []
    if not target.is_dir():
        with atomic_folder(target) as temporary:

            def make(job: tuple[Path, PosedPhoto, str]) -> str:
                source, photo, output = job
                image = read_picture(source, shape=(photo.width, photo.height), background=None)
                size = (max(1, round(image.width / ratio)), max(1, round(image.height / ratio)))
                (temporary / output).parent.mkdir(parents=True, exist_ok=True)
                resize(image, size).save(temporary / output)
                return _orientation(source, image)

            tags = working(zip(sources, capture.photos, outputs, strict=True), make, f"making photos at 1/{downscale}")
    note = f"photos at 1/{downscale} were made from {sources[0].parent.name}/ and are kept in {target}"
    return [target / output for output in outputs], (note, *_on_orientation(tags))


def _output_names(photos: Sequence[PosedPhoto]) -> list[str]:
    """PNG names for photos; the ending of the original is kept where dropping it would make two the same."""
    short = [_without_suffix(photo.name) + ".png" for photo in photos]
    names = short if len(set(short)) == len(short) else [f"{photo.name}.png" for photo in photos]
    if len({photo.folder for photo in photos}) > 1:
        names = [f"{photo.folder.name}/{name}" for photo, name in zip(photos, names, strict=True)]
    return names


def load_images(
    files: Sequence[Path], photos: Sequence[PosedPhoto], background: Background = (0.0, 0.0, 0.0)
) -> tuple[UInt8[np.ndarray, "v h w 3"], tuple[PosedPhoto, ...], tuple[str, ...]]:
    """(V, H, W, 3) uint8 pixels of all files, brought to one size, the photos that these now are, and notes about it.

    Args:
      files: one for each photo.
      photos: the cameras that the files belong to.
      background: behind transparent pictures.

    Raises:
      DataError: for a broken picture, a picture that does not fit its camera, or sizes that are too different.
    """

    def load(job: tuple[Path, PosedPhoto]) -> tuple[Image.Image, str]:
        file, photo = job
        picture = read_picture(file, (photo.width, photo.height), background)
        return picture, _orientation(file, picture)

    read = working(zip(files, photos, strict=True), load, "reading photos")
    pictures, photos, notes = one_size([picture for picture, _ in read], photos, files)
    tags = [tag for _, tag in read]
    return np.stack([as_array(picture) for picture in pictures]), photos, (*_on_orientation(tags), *notes)


def _orientation(file: Path, picture: Image.Image) -> str:
    """What became of a file's orientation tag when it was read: "applied", "ignored", or "" where it has none."""
    if orientation(file) == 1:
        return ""
    return "applied" if picture.size != picture_size(file) else "ignored"


def _on_orientation(tags: Sequence[str]) -> list[str]:
    """Notes about what `_orientation` found."""
    notes = []
    if count := tags.count("applied"):
        notes.append(f"{count} photos were turned as their orientation tag says: only then do they fit their cameras")
    if count := tags.count("ignored"):
        notes.append(
            f"{count} photos have an orientation tag, which is ignored: poses are taken to be those of the pixels as "
            "stored, as in COLMAP and nerfstudio. If renders come out turned, store the photos upright, without a tag"
        )
    return notes


def largest_within(capture: Capture, long_side: int, sample: int = 0) -> tuple[list[Path], float]:
    """The largest existing photo set and the ratio (<= 1) that brings its long side down to `long_side` pixels.

    Only photo number `sample` is opened, to see how large they are.

    Raises:
      DataError: if no complete set exists.
    """
    factors = sorted({factor for photo in capture.photos for factor in levels(photo.folder)}, reverse=True)
    best: tuple[list[Path], float] | None = None
    for factor in factors:  # smallest first: the first that is large enough needs the least resizing
        files = _complete(find_files(capture.photos, factor))
        if files:
            size = max(picture_size(files[sample]))
            best = (files, min(1.0, long_side / size))
            if size >= long_side:
                break
    if best is None:
        raise DataError(f"{capture.path}: no folder holds all {len(capture.photos)} photos")
    return best
