"""Plain photos on disk: which can be used, which camera took them, and small upright copies to find features in.

The orientation tag is applied once, here: from then on a photo is what its viewer shows. A focal length in the photo's
EXIF data becomes the first guess of the camera's.

A camera that was held both ways gives landscapes and portraits with one focal length. So that structure from motion
finds one, and not two from fewer photos each, the copies of the less frequent kind lie on their side.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from ipsm_jax.data.cache import digest
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.images import image_names, working
from ipsm_jax.data.pictures import as_array, open_upright, resize

LONG_SIDE = 1600  # pixels of the copies: larger ones cost minutes and place the cameras hardly better
LEAST_SIDE = 32  # pixels of the copies' shorter side: pycolmap's feature detector crashes on 6
LEAST = 3  # photos that a scene needs
_FULL_FRAME_DIAGONAL = float(np.hypot(36, 24))  # mm, what "35 mm equivalent" refers to
_FOCAL_RATIOS = (0.2, 20.0)  # of the longer side; a tag that says something else is wrong
_JPEG = (".jpg", ".jpeg")


class Photo(NamedTuple):
    """One photo that can be read.

    Attributes:
      file: where it is.
      name: its name in the scene's folder of images, unique without the ending too.
      width, height: upright size in pixels.
      focal: focal length in those pixels that its EXIF data imply, or None.
      camera: what took it, equal for photos that share one camera and zoom.
      work_width, work_height: size in pixels of its copy.
      turned: whether the copy is turned counterclockwise by a quarter.
    """

    file: Path
    name: str
    width: int
    height: int
    focal: float | None
    camera: str
    work_width: int
    work_height: int
    turned: bool = False


class Photos(NamedTuple):
    """Usable photos in the order of their names, reasons by file name for those that are not, and notes."""

    photos: tuple[Photo, ...]
    unusable: dict[str, str]
    notes: tuple[str, ...]


def work_file(folder: Path, index: int) -> Path:
    """The small copy of photo number `index`."""
    return folder / f"{index:05d}.png"


def read_photos(folder: Path, work: Path, long_side: int = LONG_SIDE) -> Photos:
    """Look at all pictures in a folder and its sub-folders, and write the small copies of the usable ones.

    Args:
      folder: of the photos.
      work: existing folder for the copies, called as `work_file` says.
      long_side: pixels of the copies' longer side; smaller photos stay as they are.

    Raises:
      DataError: fewer than three photos can be used; says which could not, and why.
    """
    files, notes = _full_size(image_names(folder))
    notes += _others(folder)
    if not files:
        beside = f"; {notes[0]}" if notes else ""
        raise DataError(
            f"{folder}: there are no photos in this folder (JPEG, PNG, WebP, TIFF, BMP and PPM are read){beside}"
        )
    drafts = work / "drafts"
    drafts.mkdir()
    jobs = list(zip(files, _scene_names(files), [drafts / f"{i:05d}.png" for i in range(len(files))], strict=True))
    looked = working(jobs, lambda job: _look(folder / job[0], job[1], job[2], long_side), "reading photos")
    photos: list[Photo] = []
    unusable: dict[str, str] = {}
    seen: dict[str, str] = {}
    for (file, _, draft), found in zip(jobs, looked, strict=True):
        if isinstance(found, str):
            unusable[file] = found
            continue
        photo, content = found
        if content in seen:
            unusable[file] = f"it is the same picture as {seen[content]}"
            continue
        seen[content] = file
        draft.rename(work_file(work, len(photos)))
        photos.append(photo)
    photos = [_turn(photo, work_file(work, i)) if photo.turned else photo for i, photo in enumerate(_one_way(photos))]
    check_count(folder, [photo.file.relative_to(folder).as_posix() for photo in photos], unusable)
    return Photos(tuple(photos), unusable, notes)


def _one_way(photos: list[Photo]) -> list[Photo]:
    """The photos, those marked that lie across most of the same camera."""
    ways: dict[str, Counter[bool]] = {}
    for photo in photos:
        ways.setdefault(photo.camera, Counter())[photo.width > photo.height] += 1
    usual = {camera: counts[True] >= counts[False] for camera, counts in ways.items()}
    return [
        photo._replace(turned=photo.width != photo.height and (photo.width > photo.height) != usual[photo.camera])
        for photo in photos
    ]


def _turn(photo: Photo, copy: Path) -> Photo:
    """Turn its copy on the disk."""
    with Image.open(copy) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(copy, compress_level=1)
    return photo._replace(work_width=photo.work_height, work_height=photo.work_width)


def open_copy(photo: Photo, copy: Path) -> Image.Image:
    """The small copy, upright."""
    with Image.open(copy) as image:
        return image.transpose(Image.Transpose.ROTATE_270) if photo.turned else image.copy()


def check_count(folder: Path, usable: list[str], unusable: dict[str, str]) -> None:
    """Refuse what cannot become a scene.

    Raises:
      DataError: fewer than three different photos.
    """
    if len(usable) >= LEAST:
        return
    total = len(usable) + len(unusable)
    lost = "".join(f"\n  {name}: {reason}" for name, reason in list(unusable.items())[:8])
    raise DataError(
        f"{folder}: {total} photo{'s' if total != 1 else ''}, of which {len(usable)} can be used; at least {LEAST} "
        f"different ones are needed, taken from places a step apart, all showing the same part of the scene{lost}"
    )


def _full_size(files: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The files that are not in folders of smaller copies, such as images_8 beside images, and notes about these."""
    tops = {PurePosixPath(file).parts[0] for file in files if "/" in file}
    factors = {top: re.fullmatch(r"(.+)_([1-9]\d?)", top) for top in tops}
    stems = {top: (match[1], int(match[2])) if match else (top, 1) for top, match in factors.items()}
    smaller = {
        top: min((factor, other) for other, (base, factor) in stems.items() if base == stem)[1]
        for top, (stem, _) in stems.items()
    }
    copies = sorted(top for top in tops if smaller[top] != top)
    kept = tuple(file for file in files if PurePosixPath(file).parts[0] not in copies)
    notes = tuple(f"{top}/ is taken to hold smaller copies of {smaller[top]}/ and is left aside" for top in copies)
    return kept, notes


def _others(folder: Path) -> tuple[str, ...]:
    """A sentence about photos in formats that are not read."""
    kinds = (".heic", ".heif", ".avif", ".cr2", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2")
    files = sorted(path.name for path in folder.rglob("*") if path.suffix.lower() in kinds)
    if not files:
        return ()
    return (f"{len(files)} files such as {files[0]} cannot be read: export them as JPEG or PNG first",)


def _scene_names(files: tuple[str, ...]) -> list[str]:
    """Flat names without spaces, at which COLMAP's text files are split, unique without their ending; photos that are
    not JPEG are written as PNG.
    """
    flat = [PurePosixPath(re.sub(r"\s", "_", file.replace("/", "__"))) for file in files]
    stems = [path.stem for path in flat]
    names, taken = [], set(stems)
    for path in flat:
        stem = path.stem
        if stems.count(stem) > 1:
            plain = stem = path.name.replace(".", "_")
            number = 2
            while stem in taken:
                stem, number = f"{plain}_{number}", number + 1
            taken.add(stem)
        names.append(stem + (path.suffix if path.suffix.lower() in _JPEG else ".png"))
    return names


def _look(file: Path, name: str, draft: Path, long_side: int) -> tuple[Photo, str] | str:
    """The photo and a digest of its pixels, its copy written; or why it cannot be used."""
    try:
        image, exif = open_upright(file)
    except DataError as error:
        return str(error).removeprefix(f"{file}: ")
    width, height = image.size
    shrink = min(1.0, long_side / max(width, height))
    small = resize(image, (max(1, round(width * shrink)), max(1, round(height * shrink))))
    if min(small.size) < LEAST_SIDE:
        return f"with {width}x{height} pixels it is too small, or too narrow, to find anything in"
    small.save(draft, compress_level=1)
    focal = focal_pixels(exif, width, height)
    camera = camera_key(exif, width, height)
    content = digest([as_array(small).tobytes(), width, height])
    return Photo(file, name, width, height, focal, camera, *small.size), content


def _number(value: object) -> float:
    """A number of the EXIF data, 0 where it is missing or nonsense (a fraction may have the denominator 0)."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
    return number if np.isfinite(number) else 0.0


def focal_pixels(exif: Image.Exif, width: int, height: int) -> float | None:
    """Focal length in pixels that EXIF data imply, or None.

    From the focal length in millimetres and the density of the sensor's pixels, else from the 35 mm equivalent, which
    compares diagonals.

    Args:
      exif: of the photo.
      width, height: of the photo, in pixels, either way up.
    """
    details = exif.get_ifd(ExifTags.IFD.Exif)
    millimetres = _number(details.get(ExifTags.Base.FocalLength))
    density = _number(details.get(ExifTags.Base.FocalPlaneXResolution))
    unit = {2: 25.4, 3: 10.0, 4: 1.0}.get(int(_number(details.get(ExifTags.Base.FocalPlaneResolutionUnit, 2))), 0.0)
    stored = _number(details.get(ExifTags.Base.ExifImageWidth))
    equivalent = _number(details.get(ExifTags.Base.FocalLengthIn35mmFilm))
    focal = 0.0
    if millimetres > 0 and density > 0 and unit > 0 and stored > 0:
        # The density counts the pixels that were stored; the photo may have been made smaller since.
        focal = (
            millimetres
            * density
            / unit
            * max(width, height)
            / max(stored, _number(details.get(ExifTags.Base.ExifImageHeight)))
        )
    elif equivalent > 0:
        focal = equivalent / _FULL_FRAME_DIAGONAL * float(np.hypot(width, height))
    low, high = (ratio * max(width, height) for ratio in _FOCAL_RATIOS)
    return focal if low <= focal <= high else None


def camera_key(exif: Image.Exif, width: int, height: int) -> str:
    """What tells cameras apart: make, model, lens, zoom and the size of the picture, held either way."""
    details = exif.get_ifd(ExifTags.IFD.Exif)
    words = [exif.get(tag) for tag in (ExifTags.Base.Make, ExifTags.Base.Model)]
    tags = (ExifTags.Base.LensModel, ExifTags.Base.FocalLength, ExifTags.Base.DigitalZoomRatio)
    words += [details.get(tag) for tag in tags]
    named = " ".join(str(word).strip("\0 ") for word in words if word not in (None, ""))
    return f"{named} {max(width, height)}x{min(width, height)}".strip()
