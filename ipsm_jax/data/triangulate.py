"""Points that training views alone see: SIFT, exhaustive matching, triangulation with known poses (METHOD section 2).

Uses pycolmap, the optional dependency of the extra `sfm`. Features are found in the largest photos whose long side is
at most 1008 pixels: guided matching at 12 megapixels needs more than 24 GB. No other photo is opened.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ipsm_jax.data.cache import cache_root, digest, read_arrays
from ipsm_jax.data.capture import Capture
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.images import largest_within
from ipsm_jax.data.load import pinhole_views, read_capture
from ipsm_jax.data.pictures import as_array, read_picture, resize
from ipsm_jax.data.scene import PointCloud, Scene
from ipsm_jax.data.sizes import one_size
from ipsm_jax.reporting.files import atomic_write
from ipsm_jax.scene.camera import Camera

LONG_SIDE = 1008  # pixels
MAX_FEATURES = 32768  # per photo, as published; photos of this size have fewer
_SEED = 0
_CACHE_VERSION = 2  # raised when the procedure changes, so that old points are not taken for new ones


class Triangulation(NamedTuple):
    """Points, and `seen` (n,) int: how many of them were found in each of n photos."""

    points: PointCloud
    seen: np.ndarray


class MissingPycolmapError(DataError):
    """The optional dependency is not installed."""


def import_pycolmap(purpose: str = "triangulated starting points") -> ModuleType:
    """The pycolmap module.

    Args:
      purpose: what needs it, for the message.

    Raises:
      MissingPycolmapError: if it is not installed; says how to install it.
    """
    try:
        import pycolmap
    except ImportError as error:
        raise MissingPycolmapError(
            f"pycolmap, needed for {purpose}, cannot be imported ({error}); "
            'install it with: pip install "ipsm_jax[sfm]"'
        ) from error
    return pycolmap


def triangulated_points(scene: Scene, *, cache: bool = True) -> PointCloud:
    """The points of `triangulate_scene`."""
    return triangulate_scene(scene, cache=cache).points


def triangulate_scene(scene: Scene, *, cache: bool = True) -> Triangulation:
    """Colored points that at least two training views of the scene see, in world units; there may be none.

    The same photos and poses give the same points. They are kept in the cache.

    Raises:
      MissingPycolmapError: if pycolmap is not installed.
      DataError: for fewer than two training views, or photos that cannot be read.
    """
    if len(scene.train) < 2:
        raise DataError(f"triangulation needs two training views, the scene has {len(scene.train)}")
    pycolmap = import_pycolmap()
    images, cameras = training_photos(scene)
    parts = [images.tobytes(), repr(images.shape), cameras.camera_from_world.tobytes(), cameras.intrinsics.tobytes()]
    key = digest([*parts, _CACHE_VERSION, pycolmap.__version__])
    file = cache_root() / "triangulated" / f"{key}.npz"
    if cache and (stored := read_arrays(file, ("positions", "colors", "seen"))) is not None:
        return Triangulation(PointCloud(stored[0], stored[1]), stored[2])
    result = triangulate(images, cameras)
    if cache:
        with atomic_write(file) as temporary:
            np.savez(temporary, positions=result.points.positions, colors=result.points.colors, seen=result.seen)
    return result


def training_photos(scene: Scene) -> tuple[np.ndarray, Camera]:
    """(n, H, W, 3) uint8 training photos, long side at most 1008 pixels, undistorted, and their n cameras.

    Raises:
      DataError: if the scene's folder has changed since it was loaded, or a photo is broken.
    """
    capture = read_capture(scene.path)
    if len(capture.photos) != len(scene.names):
        raise DataError(
            f"{scene.path}: now has {len(capture.photos)} photos, had {len(scene.names)} when it was loaded"
        )
    files, ratio = largest_within(capture, LONG_SIDE, sample=scene.train[0])
    pictures = []
    for view in scene.train:
        photo = capture.photos[view]
        picture = read_picture(files[view], shape=(photo.width, photo.height))
        pictures.append(resize(picture, (round(picture.width * ratio), round(picture.height * ratio))))
    pictures, photos, _ = one_size(pictures, [capture.photos[i] for i in scene.train], [files[i] for i in scene.train])
    chosen = Capture(capture.path, capture.layout, photos, ignore_distortion=capture.ignore_distortion)
    cameras, images, _ = pinhole_views(chosen, np.stack([as_array(picture) for picture in pictures]))
    return images, cameras


def triangulate(images: np.ndarray, cameras: Camera) -> Triangulation:
    """Points that at least two of the photos see.

    Args:
      images: (n, H, W, 3) uint8, n >= 2, no distortion.
      cameras: their n cameras.
    """
    pycolmap = import_pycolmap()
    with tempfile.TemporaryDirectory(prefix="ipsm_jax_") as name, quiet(pycolmap):
        folder = Path(name)
        photos = folder / "photos"
        photos.mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(photos / _name(i))
        model = _known_poses(pycolmap, cameras)
        database = folder / "database.db"
        _write_database(pycolmap, database, model)
        _match(pycolmap, database, photos, len(images))
        points = _triangulate(pycolmap, model, database, photos, folder / "model")
    order = sorted(points)
    positions = np.array([points[i].xyz for i in order], np.float32).reshape(-1, 3)
    colors = np.array([points[i].color for i in order], np.float32).reshape(-1, 3) / 255
    finite = np.asarray(np.isfinite(positions).all(axis=1))
    seen = np.zeros(len(images), np.int64)
    for i, number in enumerate(order):
        seen[list({element.image_id - 1 for element in points[number].track.elements})] += bool(finite[i])
    return Triangulation(PointCloud(positions[finite], colors[finite]), seen)


def _name(index: int) -> str:
    return f"{index:04d}.png"


@contextlib.contextmanager
def quiet(pycolmap: ModuleType) -> Iterator[None]:
    """No log lines but fatal ones; pycolmap's own setting is restored afterwards."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL.value)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


def _known_poses(pycolmap: ModuleType, cameras: Camera) -> Any:
    """A reconstruction with the cameras and no points; camera, image and frame i + 1 belong to photo i."""
    model = pycolmap.Reconstruction()
    for i, (matrix, intrinsics) in enumerate(
        zip(np.asarray(cameras.camera_from_world, np.float64), np.asarray(cameras.intrinsics, np.float64), strict=True)
    ):
        camera = pycolmap.Camera(
            camera_id=i + 1, model="PINHOLE", width=cameras.width, height=cameras.height, params=list(intrinsics)
        )
        camera.has_prior_focal_length = True
        model.add_camera_with_trivial_rig(camera)
        image = pycolmap.Image(name=_name(i), camera_id=i + 1, image_id=i + 1)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(matrix[:3]))
    return model


def _write_database(pycolmap: ModuleType, path: Path, model: Any) -> None:
    """The same cameras and images, with the same ids, as the matcher's database.

    Written before features are extracted, because the extractor would number images in the order its threads finish.
    """
    with pycolmap.Database.open(path) as database:
        for camera in model.cameras.values():
            database.write_camera(camera, use_camera_id=True)
        for rig in model.rigs.values():
            database.write_rig(rig, use_rig_id=True)
        for frame in model.frames.values():
            database.write_frame(frame, use_frame_id=True)
        for image in model.images.values():
            database.write_image(image, use_image_id=True)


def _match(pycolmap: ModuleType, database: Path, photos: Path, count: int) -> None:
    """Features and geometrically verified matches of all pairs, with the published settings."""
    extraction = pycolmap.FeatureExtractionOptions(use_gpu=False)
    extraction.sift.max_num_features = MAX_FEATURES
    extraction.sift.estimate_affine_shape = True
    extraction.sift.domain_size_pooling = True
    names = [_name(i) for i in range(count)]
    pycolmap.extract_features(
        database, photos, image_names=names, extraction_options=extraction, device=pycolmap.Device.cpu
    )
    matching = pycolmap.FeatureMatchingOptions(use_gpu=False, guided_matching=True, max_num_matches=32768)
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = _SEED
    pycolmap.match_exhaustive(
        database, matching_options=matching, verification_options=verification, device=pycolmap.Device.cpu
    )


def _triangulate(pycolmap: ModuleType, model: Any, database: Path, photos: Path, output: Path) -> dict[int, Any]:
    """Points by id, from the verified matches and the fixed poses."""
    output.mkdir()
    options = pycolmap.IncrementalPipelineOptions(num_threads=1, random_seed=_SEED)
    options.triangulation.random_seed = _SEED
    # With three photos most points are seen by two of them; COLMAP would drop those by default.
    options.triangulation.ignore_two_view_tracks = False
    result = pycolmap.triangulate_points(model, database, photos, output, options=options)
    return dict(result.points3D)
