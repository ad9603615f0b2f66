"""Features of the photos and verified matches of pairs of them, in pycolmap's database.

Everything random has a fixed seed, and cameras and images are numbered before features are extracted: the same photos
give the same database. Work is handed over in small pieces, so that progress shows and Ctrl-C is heard between them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from ipsm_jax.sfm.pairs import Pairs
from ipsm_jax.sfm.photos import Photo, work_file
from ipsm_jax.sfm.progress import Report

SEED = 0
FEW = 12  # photos up to which every match counts and more careful features are worth their time
MAX_FEATURES = 8192  # per photo; COLMAP's own default
LEAST_MATCHES = 15  # geometrically consistent ones, for two photos to be taken as overlapping; COLMAP's default
_FOCAL_GUESS = 1.2  # x longer side, COLMAP's own guess where EXIF is silent: about what a phone has
_PAIRS_AT_ONCE = 64


class Matches(NamedTuple):
    """What is known about N photos before any camera is placed.

    Attributes:
      features: (N,) number of features in each.
      shared: (N, N) symmetric, matches of a pair that agree with one camera motion; 0 where they do not.
      flat: (N, N) bool, pairs that one homography relates: the camera was only turned, or saw one flat thing.
      moved: (N, N) median distance between the places of these matches in both photos, in parts of the longer side;
        infinity where there are none.
    """

    features: np.ndarray
    shared: np.ndarray
    flat: np.ndarray
    moved: np.ndarray


def find_matches(
    pycolmap: ModuleType, database: Path, work: Path, photos: Sequence[Photo], pairs: Pairs, report: Report
) -> Matches:
    """Write cameras, features and verified matches into a new database.

    Args:
      pycolmap: the module.
      database: file to be made.
      work: folder of the small copies.
      photos: N of them; photo i gets image id i + 1.
      pairs: which are compared.
      report: told about photos and pairs.
    """
    _write_cameras(pycolmap, database, photos)
    careful = len(photos) <= FEW
    _extract(pycolmap, database, work, len(photos), careful, report)
    _match(pycolmap, database, work, pairs, careful, report)
    return _read(pycolmap, database, photos)


def _write_cameras(pycolmap: ModuleType, path: Path, photos: Sequence[Photo]) -> None:
    """One camera for all photos that share one, and an image for each photo."""
    numbers: dict[tuple[str, int, int], int] = {}
    known: dict[tuple[str, int, int], float] = {}  # focal lengths in pixels of the copies, from the first that has one
    for photo in photos:
        if photo.focal is not None:
            ratio = max(photo.work_width, photo.work_height) / max(photo.width, photo.height)
            known.setdefault((photo.camera, photo.work_width, photo.work_height), photo.focal * ratio)
    with pycolmap.Database.open(path) as database:
        for i, photo in enumerate(photos):
            key = (photo.camera, photo.work_width, photo.work_height)
            if key not in numbers:
                numbers[key] = len(numbers) + 1
                longer = max(photo.work_width, photo.work_height)
                focal = known.get(key, _FOCAL_GUESS * longer)
                # One focal length and one radial coefficient: what ordinary lenses need and few photos can tell.
                camera = pycolmap.Camera.create_from_model_name(
                    numbers[key], "SIMPLE_RADIAL", focal, photo.work_width, photo.work_height
                )
                camera.has_prior_focal_length = key in known
                database.write_camera(camera, use_camera_id=True)
                rig = pycolmap.Rig(rig_id=numbers[key])
                rig.add_ref_sensor(camera.sensor_id)
                database.write_rig(rig, use_rig_id=True)
            image = pycolmap.Image(name=work_file(Path(), i).name, camera_id=numbers[key], image_id=i + 1)
            frame = pycolmap.Frame(frame_id=i + 1, rig_id=numbers[key])
            frame.add_data_id(image.data_id)
            database.write_frame(frame, use_frame_id=True)
            image.frame_id = i + 1
            database.write_image(image, use_image_id=True)


def _extract(pycolmap: ModuleType, database: Path, work: Path, count: int, careful: bool, report: Report) -> None:
    options = pycolmap.FeatureExtractionOptions(use_gpu=False)
    options.sift.max_num_features = MAX_FEATURES
    # Affine shapes and pooled descriptors survive larger changes of the viewpoint, at several times the cost.
    options.sift.estimate_affine_shape = careful
    options.sift.domain_size_pooling = careful
    step = max(1, os.cpu_count() or 1)
    for start in range(0, count, step):
        report("finding features", start, count)
        names = [work_file(work, i).name for i in range(start, min(start + step, count))]
        pycolmap.extract_features(
            database, work, image_names=names, extraction_options=options, device=pycolmap.Device.cpu
        )
    report("finding features", count, count)


def _match(pycolmap: ModuleType, database: Path, work: Path, pairs: Pairs, careful: bool, report: Report) -> None:
    matching = pycolmap.FeatureMatchingOptions(use_gpu=False, guided_matching=careful)
    verification = pycolmap.TwoViewGeometryOptions(min_num_inliers=LEAST_MATCHES, compute_relative_pose=True)
    verification.ransac.random_seed = SEED
    listed = work / "pairs.txt"
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        report("matching pairs of photos", start, len(pairs))
        some = pairs[start : start + _PAIRS_AT_ONCE]
        listed.write_text("".join(f"{work_file(work, a).name} {work_file(work, b).name}\n" for a, b in some))
        pycolmap.match_image_pairs(
            database,
            matching_options=matching,
            pairing_options=pycolmap.ImportedPairingOptions(match_list_path=listed),
            verification_options=verification,
            device=pycolmap.Device.cpu,
        )
    report("matching pairs of photos", len(pairs), len(pairs))


def _read(pycolmap: ModuleType, path: Path, photos: Sequence[Photo]) -> Matches:
    count = len(photos)
    shared, flat = np.zeros((count, count), int), np.zeros((count, count), bool)
    moved = np.full((count, count), np.inf)
    kinds = pycolmap.TwoViewGeometryConfiguration
    # Turned cameras count as PLANAR where the focal length is only guessed: their homography is then no rotation.
    flat_kinds = (kinds.PLANAR, kinds.PANORAMIC, kinds.PLANAR_OR_PANORAMIC)
    with pycolmap.Database.open(path) as database:
        places = [
            database.read_keypoints(i + 1)[:, :2] / max(photo.work_width, photo.work_height)
            for i, photo in enumerate(photos)
        ]
        ids, geometries = database.read_two_view_geometries()
    for pair, geometry in zip(ids, geometries, strict=True):
        a, b = (number - 1 for number in pycolmap.pair_id_to_image_pair(pair))
        chosen = np.asarray(geometry.inlier_matches, int).reshape(-1, 2)
        shared[a, b] = shared[b, a] = len(chosen)
        flat[a, b] = flat[b, a] = geometry.config in flat_kinds
        if len(chosen):
            distances = np.linalg.norm(places[a][chosen[:, 0]] - places[b][chosen[:, 1]], axis=1)
            moved[a, b] = moved[b, a] = np.median(distances)
    return Matches(np.array([len(each) for each in places]), shared, flat, moved)
