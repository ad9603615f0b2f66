"""`transforms.json` captures, as nerfstudio and instant-ngp write them (and NeRF's `transforms_train.json`).

Poses are world_from_camera in OpenGL axes (x right, y up, z backwards). Camera numbers may stand once for all frames or
in each frame: fl_x, fl_y, cx, cy, w, h, or camera_angle_x in radians; distortion k1..k6, p1, p2; camera_model.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ipsm_jax.data.capture import Capture, PosedPhoto, checked_intrinsics, checked_name, checked_pose, rigid_inverse
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.images import existing, find_files, levels
from ipsm_jax.data.lenses import PINHOLE, Lens, make_lens
from ipsm_jax.data.pictures import SUFFIXES, picture_size
from ipsm_jax.data.ply import read_points_ply
from ipsm_jax.data.scene import PointCloud

FILE = "transforms.json"
SPLIT_FILES = {"train": "transforms_train.json", "test": "transforms_test.json"}
_OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
_PINHOLE_MODELS = ("PINHOLE", "SIMPLE_PINHOLE")
_PERSPECTIVE_MODELS = ("OPENCV", "RADIAL", "SIMPLE_RADIAL", "FULL_OPENCV", "PERSPECTIVE")
_FISHEYE_MODELS = ("OPENCV_FISHEYE", "RADIAL_FISHEYE", "SIMPLE_RADIAL_FISHEYE")


def read_transforms(root: Path) -> Capture:
    """The capture in a folder with `transforms.json`, or with `transforms_train.json` and `transforms_test.json`.

    Frames whose picture does not exist are left out and named in the notes.

    Raises:
      DataError: for malformed JSON, frames without a pose or a camera, and when no picture exists.
    """
    listed: dict[str, tuple[str, ...]] = {}
    photos: list[PosedPhoto] = []
    notes: list[str] = []
    if (root / FILE).is_file():
        content = _load(root / FILE)
        photos = _photos(root, root / FILE, content, notes)
        listed = _listed(root, content)
    else:
        for part, name in SPLIT_FILES.items():
            if (root / name).is_file():
                more = _photos(root, root / name, _load(root / name), notes)
                photos += more
                listed[part] = tuple(_full_name(root, photo) for photo in more)
    if len({_full_name(root, photo) for photo in photos}) < len(photos):
        raise DataError(f"{root}: a picture is listed twice among the frames of its transforms file")
    photos.sort(key=lambda photo: _full_name(root, photo))
    index = {_full_name(root, photo): i for i, photo in enumerate(photos)}
    split = {part: tuple(sorted(index[name] for name in names if name in index)) for part, names in listed.items()}
    return Capture(root, "transforms", tuple(photos), listed=split or None, notes=tuple(notes))


def _full_name(root: Path, photo: PosedPhoto) -> str:
    """Path of a photo without ending, relative to the scene folder: what identifies it in lists of names."""
    path = PurePosixPath(photo.folder.relative_to(root).as_posix()) / photo.name
    return path.with_suffix("").as_posix() if path.suffix.lower() in SUFFIXES else path.as_posix()


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or an integer of thousands of digits
        raise DataError(f"{path}: not valid JSON ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list) or not content["frames"]:
        raise DataError(f'{path}: expected an object with a list "frames" that is not empty')
    return content


def _number(frame: dict[str, Any], content: dict[str, Any], key: str, where: str) -> float | None:
    """A number of the frame, or else of the whole file; None if neither has it."""
    value = frame.get(key, content.get(key))
    if value is None:
        return None
    # Python's integers have no limit; 1e300 is within what a float holds and far outside of what a camera needs.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        raise DataError(f'{where}: "{key}" should be a finite number, found {value!r:.60}')
    return float(value)


def _photos(root: Path, path: Path, content: dict[str, Any], notes: list[str]) -> list[PosedPhoto]:
    """All frames whose picture exists."""
    places = [_place(root, frame, f"{path}, frame {i}") for i, frame in enumerate(content["frames"])]
    stubs = [PosedPhoto(folder, name, np.eye(4), 1, 1, (1, 1, 0, 0)) for folder, name in places]
    there = existing(stubs)
    lost = [f"{stub.folder.name}/{stub.name}" for stub, ok in zip(stubs, there, strict=True) if not ok]
    if not any(there):
        raise DataError(
            f"{path}: none of its {len(stubs)} pictures exist under {root} (the first is {lost[0]}); "
            "put them where the file says, or correct its file_path entries"
        )
    if lost:
        some = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
        notes.append(
            f"{len(lost)} of {len(stubs)} pictures that {path.name} lists do not exist and are left out: {some}"
        )
    photos = []
    for i, (frame, stub, ok) in enumerate(zip(content["frames"], stubs, there, strict=True)):
        if ok:
            where = f"{path}, frame {i} ({stub.name})"
            photos.append(_posed(frame, content, stub, where))
    return photos


def _place(root: Path, frame: Any, where: str) -> tuple[Path, str]:
    """(folder of full-size pictures, name in it) of a frame."""
    if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str) or not frame["file_path"].strip():
        raise DataError(f'{where}: expected an object with "file_path" and "transform_matrix"')
    given = PurePosixPath(frame["file_path"].replace("\\", "/"))
    parts = given.parts
    if given.is_absolute():
        try:
            parts = given.relative_to(root.resolve().as_posix()).parts
        except ValueError:
            # Written on another machine: the last folder and the name are what can be found again.
            parts = given.parts[-2:]
    parts = tuple(part for part in parts if part != "/")
    checked_name("/".join(parts), where)
    folder, name = (root / parts[0], PurePosixPath(*parts[1:])) if len(parts) > 1 else (root, PurePosixPath(*parts))
    match = _scaled_folder(folder)
    return match or folder, name.as_posix()


def _scaled_folder(folder: Path) -> Path | None:
    """`images` if the file lists pictures in `images_4`, so that the downscale counts from the full size."""
    stem, _, number = folder.name.rpartition("_")
    if stem and number.isdigit() and folder.is_dir() and int(number) in levels(folder.with_name(stem)):
        return folder.with_name(stem)
    return None


def _posed(frame: dict[str, Any], content: dict[str, Any], stub: PosedPhoto, where: str) -> PosedPhoto:
    try:
        matrix = np.asarray(frame.get("transform_matrix"), np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.zeros(0)
    if matrix.shape not in ((4, 4), (3, 4)):
        raise DataError(f"{where}: transform_matrix should be 4 rows of 4 numbers")
    world_from_opengl = checked_pose(matrix, where)
    camera_from_world = rigid_inverse(world_from_opengl @ _OPENCV_FROM_OPENGL)
    numbers = {key: _number(frame, content, key, where) for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")}
    width, height = numbers["w"], numbers["h"]
    if width is None or height is None:
        width, height = _size_on_disk(stub)
    if not (width >= 1 and height >= 1):
        raise DataError(f"{where}: image size {width:g}x{height:g} is not possible")
    fx = numbers["fl_x"] or _from_angle(_number(frame, content, "camera_angle_x", where), width, where)
    fy = numbers["fl_y"] or _from_angle(_number(frame, content, "camera_angle_y", where), height, where)
    fx, fy = fx or fy, fy or fx
    if fx is None or fy is None:
        raise DataError(f"{where}: no focal length: neither fl_x nor camera_angle_x is given")
    cx = width / 2 if numbers["cx"] is None else numbers["cx"]
    cy = height / 2 if numbers["cy"] is None else numbers["cy"]
    lens = _lens(frame, content, where)
    checked_intrinsics((fx, fy, cx, cy), width, height, lens, where)
    return PosedPhoto(stub.folder, stub.name, camera_from_world, width, height, (fx, fy, cx, cy), lens)


def _from_angle(angle: float | None, pixels: float, where: str) -> float | None:
    """Focal length in pixels from a field of view in radians."""
    if angle is None:
        return None
    if not 0 < angle < np.pi:
        raise DataError(f"{where}: a field of view of {angle:g} radians is not possible for a perspective camera")
    return pixels / (2 * np.tan(angle / 2))


def _size_on_disk(stub: PosedPhoto) -> tuple[float, float]:
    """Full size of a picture whose file does not say it, from its largest copy."""
    for factor in levels(stub.folder):
        (file,) = find_files([stub], factor)
        if file is not None:
            width, height = picture_size(file)
            return width * factor, height * factor
    raise DataError(f"{stub.folder / stub.name}: there is no such picture")


def _lens(frame: dict[str, Any], content: dict[str, Any], where: str) -> Lens:
    radial = tuple(_number(frame, content, f"k{i}", where) or 0.0 for i in range(1, 7))
    tangential = tuple(_number(frame, content, f"p{i}", where) or 0.0 for i in (1, 2))
    model = frame.get("camera_model", content.get("camera_model"))
    if model is None:
        model = "OPENCV_FISHEYE" if content.get("is_fisheye") is True else "OPENCV"
    if model in _PINHOLE_MODELS:
        return PINHOLE
    if model in _FISHEYE_MODELS:
        return make_lens(radial[:4], fisheye=True)
    if model in _PERSPECTIVE_MODELS:
        # k4 belongs to fisheyes and to the rational model; nerfstudio writes k4 = 0 for the others.
        return make_lens(radial if model == "FULL_OPENCV" else radial[:3], tangential)
    known = ", ".join((*_PINHOLE_MODELS, *_PERSPECTIVE_MODELS, *_FISHEYE_MODELS))
    raise DataError(
        f"{where}: camera_model {model!r} is not supported (supported: {known}); undistort the photos first"
    )


def _listed(root: Path, content: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """The file's own split, as `_full_name`s; the validation list stands in for a missing test list."""
    found: dict[str, tuple[str, ...]] = {}
    for part in ("train", "test", "val"):
        names = content.get(f"{part}_filenames")
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            frames = [_place(root, {"file_path": name}, f"{FILE}, {part}_filenames") for name in names]
            stubs = [PosedPhoto(folder, name, np.eye(4), 1, 1, (1, 1, 0, 0)) for folder, name in frames]
            found[part] = tuple(_full_name(root, stub) for stub in stubs)
    validation = found.pop("val", None)
    if validation and "test" not in found:
        found["test"] = validation
    return found if {"train", "test"} <= found.keys() else {}


def sparse_points(root: Path) -> PointCloud | None:
    """The sparse points that nerfstudio stores beside the frames, made with all views; None if there are none.

    Raises:
      DataError: for a broken file.
    """
    name = _load(root / FILE).get("ply_file_path") if (root / FILE).is_file() else None
    if not isinstance(name, str) or not (root / checked_name(name, f"{root / FILE}, ply_file_path")).is_file():
        return None
    return read_points_ply(root / name)
