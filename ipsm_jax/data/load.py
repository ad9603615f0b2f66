"""A folder of posed photos in any known layout to one `Scene`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ipsm_jax.data.capture import Capture, PosedPhoto
from ipsm_jax.data.checks import check_parallax, check_same_pictures
from ipsm_jax.data.colmap import model_folder, read_colmap
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.extras import read_depths, read_masks
from ipsm_jax.data.images import image_files, load_images, working
from ipsm_jax.data.lenses import Lens, distort
from ipsm_jax.data.llff import read_llff
from ipsm_jax.data.locate import LAYOUTS, detect_layout, find_scene
from ipsm_jax.data.pictures import Background
from ipsm_jax.data.scene import Scene
from ipsm_jax.data.split_file import read_split
from ipsm_jax.data.splits import choose_split
from ipsm_jax.data.transforms import read_transforms
from ipsm_jax.data.undistort import Undistortion, plan_undistortion, undistort_image
from ipsm_jax.scene.camera import Camera

SMALL = 300
"""Photos whose longer side has fewer pixels are remarked on, if they were reduced."""


def load_scene(
    scene: str,
    *,
    data_root: Path | None = None,
    views: int | None = 3,
    downscale: int = 8,
    split: str = "auto",
    background: Background = (0.0, 0.0, 0.0),
) -> Scene:
    """Photos, cameras and split of a scene, undistorted, at 1/`downscale` of full size.

    Args:
      scene: "demo", a folder, or a name to look for (`locate.find_scene`).
      data_root: where to look for names first.
      views: number of training views; None for all that are not test views.
      downscale: whole number; 8 uses `images_8` where it exists and makes it otherwise.
      split: one of `splits.SPLITS`.
      background: what shows through transparent pictures, RGB in [0, 1]: what training renders on.

    Raises:
      DataError: for anything that is missing, broken or does not fit together; says what, where, and what to do.
    """
    folder = find_scene(scene, data_root)
    capture = read_capture(folder)
    name = "demo" if scene == "demo" else folder.resolve().name
    names = view_names(capture.photos)
    listed = capture.listed or (read_split(folder, names) if split in ("auto", "listed") else None)
    chosen = choose_split(split, len(names), views, name=name, listed=listed)
    files, notes = image_files(capture, downscale)
    images, photos, size_notes = load_images(files, capture.photos, background)
    capture = dataclasses.replace(capture, photos=photos)
    cameras, images, lens_notes = pinhole_views(capture, images)
    longer = max(cameras.width, cameras.height)
    if downscale > 1 and longer < SMALL:
        notes = (
            *notes,
            f"the photos are only {cameras.width}x{cameras.height} pixels at --downscale {downscale}: "
            "lower --downscale for more detail",
        )
    depths, depth_notes = read_depths(capture, names, cameras)
    masks, mask_notes = read_masks(capture, names, cameras, wanted=chosen.name == "dtu")
    loaded = Scene(
        name=name,
        path=folder,
        cameras=cameras,
        images=images,
        names=names,
        train=chosen.train,
        test=chosen.test,
        bounds=None if capture.bounds is None else capture.bounds.astype(np.float32),
        depths=depths,
        masks=masks,
        notes=(*capture.notes, *notes, *size_notes, *lens_notes, *depth_notes, *mask_notes, f"split: {chosen.rule}"),
    )
    check_parallax(loaded)
    return dataclasses.replace(loaded, notes=(*loaded.notes, *check_same_pictures(loaded)))


def read_capture(folder: Path) -> Capture:
    """The posed photos of a scene folder, whatever its layout.

    Raises:
      DataError: if the layout is not known or its files are broken.
    """
    layout = detect_layout(folder)
    if layout == "transforms":
        return read_transforms(folder)
    if layout == "colmap":
        return read_colmap(folder)
    if layout == "llff":
        capture = read_llff(folder)
        remark = model_folder(folder)[1]
        notes = (f"{remark}; poses come from poses_bounds.npy",) if remark else ()
        return dataclasses.replace(capture, notes=(*notes, *capture.notes))
    raise DataError(f"{folder}: no scene in a known layout.\n{LAYOUTS}")


def view_names(photos: Sequence[PosedPhoto]) -> tuple[str, ...]:
    """Names of the views: file names, with their folders joined by "__" where stems alone would not be unique."""
    plain = [Path(photo.name).name for photo in photos]
    if len({Path(name).stem for name in plain}) == len(plain):
        return tuple(plain)
    inside = [photo.name.replace("/", "__") for photo in photos]
    if len({Path(name).stem for name in inside}) == len(inside):
        return tuple(inside)
    return tuple(f"{photo.folder.name}__{name}" for photo, name in zip(photos, inside, strict=True))


def scaled_intrinsics(photo: PosedPhoto, width: int, height: int) -> tuple[float, float, float, float]:
    """(fx, fy, cx, cy) of a photo in pixels of another size."""
    fx, fy, cx, cy = photo.intrinsics
    sx, sy = width / photo.width, height / photo.height
    return fx * sx, fy * sy, cx * sx, cy * sy


def pinhole_views(capture: Capture, images: np.ndarray) -> tuple[Camera, np.ndarray, tuple[str, ...]]:
    """Cameras and photos without distortion.

    Args:
      capture: V photos.
      images: (V, H, W, 3) uint8, at any size.

    Returns:
      Batch of V cameras (numpy float32), the (V, H, W, 3) uint8 photos, undistorted where they need it, and notes.
    """
    height, width = images.shape[1:3]
    intrinsics = [scaled_intrinsics(photo, width, height) for photo in capture.photos]
    bent = [i for i, photo in enumerate(capture.photos) if not photo.lens.ideal]
    notes: tuple[str, ...] = ()
    if bent and capture.ignore_distortion:
        shift = _largest_shift(intrinsics[bent[0]], capture.photos[bent[0]].lens, width, height)
        notes = (
            f"the lens distortion of {len(bent)} photos is ignored, as in the LLFF protocol "
            f"(up to {shift:.1f} pixels in the corners at {width}x{height})",
        )
    elif bent:
        plans: dict[tuple[tuple[float, float, float, float], Lens], Undistortion] = {}
        for i in bent:
            key = (intrinsics[i], capture.photos[i].lens)
            if key not in plans:
                plans[key] = plan_undistortion(*key, width, height)
        chosen = {i: plans[intrinsics[i], capture.photos[i].lens] for i in bent}
        straight = working(bent, lambda i: undistort_image(images[i], chosen[i]), "undistorting photos")
        images = images.copy()
        images[bent] = straight
        factor = chosen[bent[0]].intrinsics[0] / intrinsics[bent[0]][0]
        for i in bent:
            intrinsics[i] = chosen[i].intrinsics
        notes = (
            f"{len(bent)} photos undistorted; focal length times {factor:.4f}, so that only what they cover shows",
        )
        if not all(plan.covered for plan in plans.values()):
            notes = (*notes, "the lens does not cover the corners of the undistorted photos; they are black there")
    cameras = Camera(
        camera_from_world=np.stack([photo.camera_from_world for photo in capture.photos]).astype(np.float32),
        intrinsics=np.asarray(intrinsics, np.float32),
        width=width,
        height=height,
    )
    return cameras, images, notes


def _largest_shift(intrinsics: tuple[float, float, float, float], lens: Lens, width: int, height: int) -> float:
    """How far, in pixels, the lens moves the corner of the picture."""
    fx, fy, cx, cy = intrinsics
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64)
    rays = (corners - (cx, cy)) / (fx, fy)
    return float(np.linalg.norm((distort(lens, rays) - rays) * (fx, fy), axis=-1).max())
