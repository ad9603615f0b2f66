"""All readers of files that come from elsewhere: valid files for each, how it reads, which errors it documents.

`read` calls the reader on what `make` wrote, and asserts of what it returns that it is what the reader promises.
"""

from __future__ import annotations

import io
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import ExifTags, Image

sys.path.extend(str(Path(__file__).parents[1] / name) for name in (".", "data", "priors"))
import captures
from tiny_checkpoint import write_pair, write_tokenizer
from tiny_depth import TINY, write_depth_network
from tiny_embedded import write_embedded_prior
from tiny_run import tiny_gaussians, write_run, write_scene

from ipsm_jax.config import ConfigError, load_config
from ipsm_jax.data import colmap, transforms
from ipsm_jax.data.cache import read_arrays
from ipsm_jax.data.captions import read_caption
from ipsm_jax.data.depth_maps import read_depth_maps
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.load import load_scene, read_capture
from ipsm_jax.data.pictures import SUFFIXES, open_upright, orientation, picture_size, read_mask, read_picture
from ipsm_jax.data.ply import ply_kind, read_gaussians_ply, read_points_ply, write_gaussians_ply
from ipsm_jax.data.split_file import read_split, write_split
from ipsm_jax.metrics.perceptual import LpipsWeightsError, load_lpips
from ipsm_jax.priors.config import PriorError
from ipsm_jax.priors.embedded.load import load_embedded_prior
from ipsm_jax.priors.monodepth.load import load_depth_network
from ipsm_jax.priors.stable_diffusion import load_stable_diffusion
from ipsm_jax.priors.tokenizer import read_tokenizer
from ipsm_jax.reporting.video import write_video
from ipsm_jax.sfm.photos import camera_key, focal_pixels
from ipsm_jax.sfm.progress import silent
from ipsm_jax.sfm.video import extract_frames
from ipsm_jax.trained import CommandError, read_optional_json, run_notes
from ipsm_jax.training.checkpoint import CheckpointError, list_checkpoints, load_checkpoint, load_run
from ipsm_jax.training.recorder import LogError, read_log, truncate_log

del sys.path[-3:]

NAMES = [f"view{i}.png" for i in range(4)]
W, H = captures.WIDTH, captures.HEIGHT


class Reader(NamedTuple):
    """One reader.

    Attributes:
      name: for tables.
      make: write valid files into an empty folder; returns those that are to be damaged.
      read: read them from the folder and check what comes out.
      errors: what it documents for unusable files.
      cost: how many inputs of the cheapest readers one of this takes; rounds are divided by it.
    """

    name: str
    make: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...] = (DataError,)
    cost: int = 1


def _captured(folder: Path) -> None:
    """A capture is read, with its points; its cameras can be used."""
    capture = read_capture(folder)
    assert capture.photos
    for photo in capture.photos:
        matrix = photo.camera_from_world
        assert np.isfinite(matrix).all() and np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-6)
        assert np.isfinite([*photo.intrinsics, *photo.lens.radial, *photo.lens.tangential]).all()
        assert min(photo.width, photo.height, *photo.intrinsics[:2]) > 0
        assert (photo.folder / photo.name).resolve().is_relative_to(folder.resolve())
    if capture.bounds is not None:
        assert capture.bounds.shape == (len(capture.photos), 2)
        assert (capture.bounds[:, 0] > 0).all() and (capture.bounds[:, 0] < capture.bounds[:, 1]).all()
    for points in (colmap.sparse_points(folder), transforms.sparse_points(folder)):
        assert points is None or _colored(points)


def _colored(points: Any) -> bool:
    inside = (points.colors >= 0) & (points.colors <= 1)
    return bool(len(points.positions) and np.isfinite(points.positions).all() and inside.all())


def _colmap(text: bool) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        captures.write_pictures(folder / "images", NAMES)
        model, params = "OPENCV", (40.0, 40.0, W / 2, H / 2, 0.01, 0.002, 0.001, 0.0)
        points = captures.colmap_points(8)
        written = captures.write_colmap(
            folder, captures.poses(len(NAMES)), NAMES, text=text, model=model, params=params, points=points
        )
        return sorted(written.iterdir())

    return make


def _llff(folder: Path) -> list[Path]:
    captures.write_llff(folder, 4)
    return [folder / "poses_bounds.npy"]


def _transforms(folder: Path) -> list[Path]:
    names = [f"images/{name}" for name in NAMES]
    captures.write_pictures(folder, names)
    frames: list[dict[str, Any]] = [
        {},
        {"fl_x": 41.0, "k1": 0.01},
        {"w": W, "h": H},
        {"camera_model": "OPENCV_FISHEYE"},
    ]
    fields = {"k1": 0.02, "p1": 1e-4, "cx": W / 2, "cy": H / 2, "camera_model": "OPENCV", "ply_file_path": "points.ply"}
    split = {"train_filenames": names[:3], "test_filenames": names[3:]}
    captures.write_transforms(folder, captures.poses(4), names, frames=frames, **fields, **split)
    _write_points(folder / "points.ply", "binary_big_endian")
    return [folder / "transforms.json"]


def _transforms_pair(folder: Path) -> list[Path]:
    names = [f"train/{name}" for name in NAMES]
    captures.write_pictures(folder, names)
    fields = {"camera_angle_x": 1.08, "fl_x": None, "fl_y": None, "w": None, "h": None}
    for part, rows in (("train", slice(0, 3)), ("test", slice(3, 4))):
        matrices = captures.poses(4)[rows]
        captures.write_transforms(folder, matrices, names[rows], file=f"transforms_{part}.json", **fields)
    return sorted(folder.glob("*.json"))


def _scene(folder: Path) -> list[Path]:
    write_scene(folder)
    photos = sorted((folder / "images").iterdir())
    (folder / "depths").mkdir()
    depths = [folder / "depths" / f"{photo.stem}.npy" for photo in photos]
    for path in depths:
        np.save(path, np.full((34, 40), 3.0, np.float32))
    names = [photo.name for photo in photos]
    write_split(folder, names[1:4], names[4:6])
    return [folder / "poses_bounds.npy", folder / "split.json", *photos[:2], *depths[:2]]


def _whole_scene(folder: Path) -> None:
    scene = load_scene(str(folder), downscale=1)
    assert scene.images.shape == (len(scene.names), scene.height, scene.width, 3)
    assert scene.train and np.isfinite(scene.cameras.camera_from_world).all()
    assert scene.depths is None or (np.isfinite(scene.depths).all() and scene.depths.shape == scene.images.shape[:3])


def _write_points(path: Path, encoding: str, count: int = 12) -> None:
    rng = np.random.default_rng(0)
    kinds = {"x": "double", "y": "float", "z": "float", "red": "uchar", "green": "uchar", "blue": "ushort"}
    header = f"ply\nformat {encoding} 1.0\ncomment points\nelement vertex {count}\n"
    header += "".join(f"property {kind} {name}\n" for name, kind in kinds.items())
    header += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    codes = {"double": "f8", "float": "f4", "uchar": "u1", "ushort": "u2"}
    table = np.zeros(count, [(name, codes[kind]) for name, kind in kinds.items()])
    for name, kind in kinds.items():
        table[name] = rng.normal(size=count) if codes[kind][0] == "f" else rng.integers(0, 255, count)
    if encoding == "ascii":
        body = "".join(" ".join(map(str, row)) + "\n" for row in table.tolist()).encode()
    else:
        body = table.astype(table.dtype.newbyteorder(">" if "big" in encoding else "<")).tobytes()
    path.write_bytes(header.encode() + body)


def _point_files(folder: Path) -> list[Path]:
    for encoding in ("ascii", "binary_little_endian", "binary_big_endian"):
        _write_points(folder / f"{encoding}.ply", encoding)
    return sorted(folder.iterdir())


def _read_points(folder: Path) -> None:
    for path in folder.iterdir():
        assert ply_kind(path) in ("points", "gaussians")
        assert _colored(read_points_ply(path))


def _gaussian_files(folder: Path) -> list[Path]:
    write_gaussians_ply(folder / "binary.ply", *tiny_gaussians(5))
    data = (folder / "binary.ply").read_bytes()
    header, _, body = data.partition(b"end_header\n")
    table = np.frombuffer(body, "<f4").reshape(5, -1)
    text = "".join(" ".join(map(repr, row)) + "\n" for row in table.tolist())
    header = header.replace(b"binary_little_endian", b"ascii")
    (folder / "ascii.ply").write_bytes(header + b"end_header\n" + text.encode())
    return sorted(folder.iterdir())


def _read_gaussians(folder: Path) -> None:
    for path in folder.iterdir():
        gaussians = read_gaussians_ply(path)
        assert gaussians.capacity > 0
        assert all(np.isfinite(np.asarray(field)).all() for field in gaussians)
        assert (np.abs(np.asarray(gaussians.quaternions)).max(axis=1) > 0).all()


def _depth_files(folder: Path) -> list[Path]:
    values = np.random.default_rng(0).uniform(1, 60_000, (H, W))
    values[:3] = 0
    np.save(folder / "a.npy", values)
    np.save(folder / "b.npy", np.asfortranarray(values[None].astype(np.float32)))
    Image.fromarray(values.astype(np.uint16)).save(folder / "c.png")
    Image.fromarray((values / 256).astype(np.uint8)).save(folder / "d.png")
    return sorted(folder.iterdir())


def _read_depths(folder: Path) -> None:
    maps = read_depth_maps(folder, [f"{stem}.jpg" for stem in "abcd"], W // 2, H // 2)
    assert maps.shape == (4, H // 2, W // 2) and maps.dtype == np.float32
    assert np.isfinite(maps).all() and all(one.any() for one in maps)


def _pictures(folder: Path) -> list[Path]:
    picture = Image.fromarray(captures.picture(3))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "Maker"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.FocalLength] = 4.2
    details[ExifTags.Base.FocalLengthIn35mmFilm] = 26
    details[ExifTags.Base.LensModel] = "Lens"
    for ending in ("jpg", "png", "webp"):
        picture.save(folder / f"turned.{ending}", exif=exif)
    del exif[ExifTags.Base.Orientation]  # Pillow itself turns a TIFF
    picture.save(folder / "plain.tif", exif=exif)
    picture.save(folder / "progressive.jpg", progressive=True)
    picture.convert("RGBA").save(folder / "clear.png")
    picture.convert("P").save(folder / "palette.png", transparency=3)
    Image.fromarray(np.asarray(picture)[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    picture.convert("1").save(folder / "bits.png")
    picture.save(folder / "packed.tif", compression="tiff_lzw")
    picture.save(folder / "jpeg.tif", compression="jpeg")
    picture.convert("LA").save(folder / "gray.webp", lossless=True)
    for ending in ("bmp", "ppm"):
        picture.save(folder / f"plain.{ending}")
    picture.convert("L").save(folder / "gray.pgm")
    return sorted(folder.iterdir())


def _read_picture(folder: Path) -> None:
    """All ways to look at a picture; the one that was damaged is the newest."""
    path = max(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    width, height = picture_size(path)
    assert orientation(path) in range(1, 9)
    upright, exif = open_upright(path)
    assert upright.mode == "RGB"
    focal = focal_pixels(exif, *upright.size)
    assert focal is None or np.isfinite(focal)
    assert isinstance(camera_key(exif, *upright.size), str)
    whole = read_picture(path, background=None)
    assert whole.size == (width, height) and whole.mode in ("RGB", "RGBA")
    for shape in ((2 * W, 2 * H), (W, H)) + (((2 * H, 2 * W),) if orientation(path) == 6 else ()):
        assert read_picture(path, shape=shape).size in ((width, height), (height, width))
    assert read_mask(path, (W, H)).shape == (H, W)


def _caption_files(folder: Path) -> list[Path]:
    (folder / "blip_rst.txt").write_text("random select image000.png blip result:a photo of a fern\n")
    (folder / "one.txt").write_text("a room with chairs\n")
    (folder / "scenes.txt").write_text("fern: a plant\nroom\ta table\nhorns = a triceratops\n\n")
    return sorted(folder.iterdir())


def _read_captions(folder: Path) -> None:
    for path in folder.iterdir():
        caption = read_caption(path, "Fern")
        assert caption == caption.strip() != ""


def _split_files(folder: Path) -> list[Path]:
    write_split(folder, NAMES[:2], NAMES[2:])
    return [folder / "split.json"]


def _read_split(folder: Path) -> None:
    split = read_split(folder, NAMES)
    assert split is not None and all(part and set(part) <= set(range(4)) for part in split.values())


def _run(folder: Path) -> list[Path]:
    write_run(folder / "run", folder / "nowhere")
    environment = {"seed": 0, "packages": {"jax": "0"}, "starting_points": "12 random points"}
    (folder / "run" / "environment.json").write_text(json.dumps(environment))
    with (folder / "run" / "log.jsonl").open("a") as log:
        log.write('{"iteration": 20, "loss": 0.2, "psnr": 14.0, "gaussians": 40, "seconds": 2.0, "refused": 3}\n')
        log.write('{"iteration": 20, "test_psnr": 13.0, "test_ssim": 0.4}\n')
    return [folder / "run" / name for name in ("config.json", "environment.json", "log.jsonl")]


def _read_run(folder: Path) -> None:
    run = folder / "run"
    assert all(isinstance(note, str) for note in run_notes(run))
    config = load_config(run / "config.json")
    assert config.optimization.iterations > 0
    assert all(isinstance(line["iteration"], int) for line in read_log(run))
    truncate_log(run, 20)
    assert max((line["iteration"] for line in read_log(run)), default=0) <= 20
    environment = read_optional_json(run / "environment.json")
    assert isinstance(environment, dict)


def _checkpoints(folder: Path) -> list[Path]:
    write_run(folder / "run", folder / "nowhere")
    return list(list_checkpoints(folder / "run").values())


def _read_checkpoints(folder: Path) -> None:
    """Each by itself, after the run as a whole, which is to find the one that is not damaged."""
    assert int(load_run(folder / "run")[1].step) >= 0
    for path in list_checkpoints(folder / "run").values():
        config, state = load_checkpoint(path)
        assert config.optimization.iterations > 0
        assert np.asarray(state.alive).view(np.uint8).max() <= 1
        assert int(state.step) >= 0
        assert jax.random.uniform(state.key).shape == ()


def _diffusion(folder: Path) -> list[Path]:
    _, inpainting = write_pair(folder)
    shutil.rmtree(inpainting / "vae")
    shutil.rmtree(inpainting / "text_encoder")
    stem = "diffusion_pytorch_model.safetensors"
    whole = inpainting / "unet" / stem  # as one piece of an index
    pieces = dict.fromkeys(_tensor_names(whole), "piece.safetensors")
    whole.rename(whole.with_name("piece.safetensors"))
    (inpainting / "unet" / f"{stem}.index.json").write_text(json.dumps({"weight_map": pieces}))
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.parent.name != "tokenizer")


def _tensor_names(path: Path) -> list[str]:
    data = path.read_bytes()
    return [name for name in json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]) if name != "__metadata__"]


def _finite(params: Any) -> bool:
    return all(bool(np.isfinite(np.asarray(leaf, np.float32)).all()) for leaf in jax.tree.leaves(params))


def _read_diffusion(folder: Path) -> None:
    prior = load_stable_diffusion(folder / "plain", folder / "inpainting", "a photo of a fern", "")
    assert _finite(prior.params) and prior.image_size > 0
    assert ((prior.alphas_cumprod > 0) & (prior.alphas_cumprod <= 1)).all()


def _tokenizer(folder: Path) -> list[Path]:
    write_tokenizer(folder / "tokenizer")
    return sorted((folder / "tokenizer").iterdir())


def _read_tokens(folder: Path) -> None:
    ids = read_tokenizer(folder / "tokenizer").encode("The Photo, é 漢字 of 12 things!")
    assert ids.shape == (77,) and ids.dtype == np.int32 and (ids >= 0).all()


def _embedded(folder: Path) -> list[Path]:
    write_embedded_prior(folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _read_embedded(folder: Path) -> None:
    prior = load_embedded_prior(folder=folder)
    assert _finite(prior.params) and prior.latent_shape[0] > 0


def _depth_network(kind: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        write_depth_network(folder / "network", *TINY[kind])
        return sorted((folder / "network").iterdir())

    return make


def _read_depth_network(folder: Path) -> None:
    prior = load_depth_network(folder / "network")
    assert _finite(prior.params)
    preparation = prior.predict.preprocessing  # type: ignore[attr-defined]
    assert min(preparation.input_size(32, 48)) > 0


def _lpips(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)

    def array(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    layers = {f"Conv_{i}": {"kernel": array(2, 2, 4 if i else 3, 4), "bias": array(4)} for i in range(5)}
    tree: dict[str, Any] = {"AlexNet_0": layers}
    tree |= {f"NetLinLayer_{i}": {"Conv_0": {"kernel": array(1, 1, 4, 1)}} for i in range(5)}
    (folder / "alexnet.ckpt").write_bytes(pickle.dumps(tree, protocol=3))
    return [folder / "alexnet.ckpt"]


def _read_lpips(folder: Path) -> None:
    weights = load_lpips.__wrapped__("alex", folder)
    assert len(weights.kernels) == len(weights.biases) == len(weights.lins) == 5


def _cached(folder: Path) -> list[Path]:
    arrays = {"positions": np.zeros((9, 3), np.float32), "colors": np.ones((9, 3), np.float32), "seen": np.arange(3)}
    np.savez(folder / "plain.npz", **arrays)
    np.savez_compressed(folder / "packed.npz", **arrays)
    return sorted(folder.iterdir())


def _read_cached(folder: Path) -> None:
    for path in folder.iterdir():
        arrays = read_arrays(path, ("positions", "colors", "seen"))
        if arrays is None:  # which is how the cache says that it has nothing
            raise DataError(f"{path} is not used")
        assert all(isinstance(array, np.ndarray) and array.dtype != object for array in arrays)


def _video(folder: Path) -> list[Path]:
    write_video(folder / "walk.mp4", [captures.picture(i) for i in range(5)], fps=5)
    return [folder / "walk.mp4"]


def _read_video(folder: Path) -> None:
    frames = folder / "frames"
    shutil.rmtree(frames, ignore_errors=True)
    frames.mkdir()
    for path in extract_frames(folder / "walk.mp4", frames, 3, silent):
        assert path.suffix in SUFFIXES and picture_size(path)[0] > 0


def malicious_npy(command: Callable[[], Any]) -> bytes:
    """A .npy file of one object whose pickle calls `command` when opened."""

    class Payload:
        def __reduce__(self) -> Any:
            return command, ()

    stream = io.BytesIO()
    np.save(stream, np.array([Payload()], object), allow_pickle=True)
    return stream.getvalue()


_RUN_ERRORS = (ConfigError, CheckpointError, CommandError, LogError)

READERS = (
    Reader("COLMAP, binary", _colmap(text=False), _captured),
    Reader("COLMAP, text", _colmap(text=True), _captured),
    Reader("LLFF", _llff, _captured),
    Reader("transforms.json", _transforms, _captured),
    Reader("transforms_train.json, transforms_test.json", _transforms_pair, _captured),
    Reader("scene folder", _scene, _whole_scene, cost=4),
    Reader("PLY of points", _point_files, _read_points),
    Reader("PLY of Gaussians", _gaussian_files, _read_gaussians),
    Reader("depth maps", _depth_files, _read_depths),
    Reader("pictures", _pictures, _read_picture),
    Reader("captions", _caption_files, _read_captions),
    Reader("split.json", _split_files, _read_split),
    Reader("run folder", _run, _read_run, _RUN_ERRORS),
    Reader("checkpoint", _checkpoints, _read_checkpoints, _RUN_ERRORS, cost=2),
    Reader("Stable Diffusion", _diffusion, _read_diffusion, (PriorError,), cost=20),
    Reader("tokenizer", _tokenizer, _read_tokens, (PriorError,)),
    Reader("embedded prior", _embedded, _read_embedded, (PriorError,), cost=5),
    Reader("depth network, hybrid", _depth_network("hybrid"), _read_depth_network, (PriorError,), cost=8),
    Reader("depth network, Depth Anything", _depth_network("anything"), _read_depth_network, (PriorError,), cost=4),
    Reader("LPIPS weights", _lpips, _read_lpips, (LpipsWeightsError,)),
    Reader("cache (.npz)", _cached, _read_cached),
    Reader("video", _video, _read_video, cost=40),
)
