"""What fuzzing has found, once each."""

import contextlib
import json
import shutil
import struct
import tracemalloc
import zipfile
import zlib

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from readers import READERS
from tiny_checkpoint import SCHEDULER, TEXT, UNET
from tiny_depth import ANYTHING_PREPROCESSOR
from tiny_run import tiny_gaussians

from ipsm_jax.config import ConfigError, TrainConfig, from_json
from ipsm_jax.data import transforms
from ipsm_jax.data.cache import read_arrays
from ipsm_jax.data.capture import checked_name
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.pictures import open_upright, orientation, read_picture
from ipsm_jax.metrics.array_pickle import read_array_pickle
from ipsm_jax.metrics.perceptual import LpipsWeightsError, load_lpips
from ipsm_jax.priors.checkpoint import read_json, read_schedule
from ipsm_jax.priors.clip import TextConfig
from ipsm_jax.priors.config import PriorError
from ipsm_jax.priors.embedded.load import load_embedded_prior
from ipsm_jax.priors.monodepth import depth_anything
from ipsm_jax.priors.monodepth.preprocessing import read_preprocessing
from ipsm_jax.priors.tokenizer import read_tokenizer
from ipsm_jax.priors.unet import UNetConfig
from ipsm_jax.trained import CommandError, limit_note, read_optional_json
from ipsm_jax.training.checkpoint import CheckpointError, list_checkpoints, load_checkpoint, save_checkpoint
from ipsm_jax.training.recorder import LogError, read_log
from ipsm_jax.training.state import init_state

MAKE = {reader.name: reader.make for reader in READERS}


def test_messages_can_be_printed_whatever_they_quote():
    text = str(DataError(f"a.txt, line 3: {'(' * 200_000} and \x1b[2J and \ud800 and é\nnext line"))
    assert len(text) < 500
    assert text.startswith("a.txt, line 3: ((((") and text.endswith("é\nnext line")
    assert all(c.isprintable() or c == "\n" for c in text)
    assert r"\x1b[2J" in text
    assert len(str(DataError("word " * 100_000))) <= 10_000
    assert str(DataError("a path/with.txt")) == "a path/with.txt"


def chunk(kind, content, length=None):
    length = len(content) if length is None else length
    return struct.pack(">I", length) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@contextlib.contextmanager
def allocating_less_than(size):
    """Fails if Python and numpy hold so many bytes at any time within."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


def png(width, height, *, claimed=None):
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(33 * 32))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows, claimed) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png(8_000, 9_000), "it claims 8000x9000 pixels in 7[0-9] bytes"),
        (png(33, 32, claimed=2**31 - 1), "damaged or cut short"),
        (png(20_000, 20_000), "larger than the 178,956,970 pixels that are opened; replace it, or make it smaller"),
    ],
)
def test_a_picture_gets_no_memory_for_what_it_only_claims(data, message, tmp_path):
    path = tmp_path / "small.png"
    path.write_bytes(png(32, 32))
    assert open_upright(path)[0].size == (32, 32)
    path.write_bytes(data)
    with allocating_less_than(1 << 24), pytest.raises(DataError, match=rf"small\.png: .*{message}"):
        open_upright(path)


def test_a_large_picture_of_one_color_is_no_lie(tmp_path):
    Image.new("L", (5000, 4000)).save(tmp_path / "mask.png")
    assert read_picture(tmp_path / "mask.png").size == (5000, 4000)


def test_whatever_pillow_raises_is_a_sentence(tmp_path, monkeypatch):
    path = tmp_path / "photo.png"
    Image.new("RGB", (4, 4)).save(path)

    def fail(*_):
        raise struct.error("unpack requires a buffer of 4 bytes")

    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert orientation(path) == 1
    with pytest.raises(DataError, match=r"photo\.png: the picture is damaged or cut short \(unpack"):
        open_upright(path)


@pytest.mark.parametrize("name", ["é" * 150, "a/" * 3000 + "b", "a\x1bb", "../a", ""])
def test_names_that_no_file_system_takes_are_refused(name, tmp_path):
    with pytest.raises(DataError, match="cannot be the name of a file"):
        checked_name(name, "transforms.json")
    MAKE["transforms.json"](tmp_path)
    content = json.loads((tmp_path / "transforms.json").read_text())
    (tmp_path / "transforms.json").write_text(json.dumps(content | {"ply_file_path": name}))
    with pytest.raises(DataError, match="ply_file_path"):
        transforms.sparse_points(tmp_path)


def test_archives_that_zipfile_cannot_open_are_no_cache(tmp_path):
    (path,) = [path for path in MAKE["cache (.npz)"](tmp_path) if path.name == "plain.npz"]
    assert read_arrays(path, ("seen",)) is not None
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    data[start + 10] = 99  # a way of compression that is not known: NotImplementedError
    path.write_bytes(data)
    assert read_arrays(path, ("positions",)) is None
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("seen.npy", b"no array")  # which numpy hands out as bytes
    assert read_arrays(path, ("seen",)) is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\xff", "line 1 of .* is not JSON"),
        (b"[" * 100_000, "line 1 of .* is not JSON"),
        (b"[1]", "is no record"),
        (b'{"loss": 0.5}', "is no record"),
        (b'{"iteration": 5, "psnr": "high"}', "is no record"),
        (b'{"iteration": 5, "terms": {"photometric": null}}', "is no record"),
    ],
)
def test_logs_hold_iterations_and_numbers(line, message, tmp_path):
    (tmp_path / "log.jsonl").write_bytes(line + b"\n")
    with pytest.raises(LogError, match=message):
        read_log(tmp_path)


def test_nesting_without_end_is_refused_everywhere(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("[" * 100_000)
    with pytest.raises(PriorError, match=r"config\.json is not readable as JSON"):
        read_json(path)
    with pytest.raises(CommandError, match=r"config\.json is not JSON"):
        read_optional_json(path)
    with pytest.raises(ConfigError, match="does not hold the settings of a run"):
        from_json(path.read_text())


def test_odd_settings_of_a_run_do_not_break_its_notes(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"iteration": 5, "refused": 3}\n')
    (tmp_path / "config.json").write_text('{"density": 7}')
    assert "limited to None" in limit_note(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alive": np.full(64, 2, np.uint8).view(bool)}, "alive holds bytes that are neither 0 nor 1"),
        ({"step": np.array(-5, np.int32)}, "it says that -5 iterations are done"),
    ],
)
def test_checkpoints_with_impossible_values_are_refused(change, message, tmp_path):
    gaussians, alive = tiny_gaussians()
    path = save_checkpoint(tmp_path, TrainConfig(), init_state(jax.random.key(0), gaussians, alive))
    with safetensors.safe_open(path, framework="numpy") as file:
        header = file.metadata()
    arrays = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file({**arrays, **change}, path, metadata=header)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_files_that_are_numbers_only_to_some_alphabets_are_no_checkpoints(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "².safetensors").write_bytes(b"")
    assert list_checkpoints(tmp_path) == {}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("special_tokens_map.json", {"pad_token": ["a"]}, "is not in vocab"),
        ("special_tokens_map.json", {"pad_token": {"content": {}}}, "is not in vocab"),
        ("vocab.json", {"a": -1}, "must map tokens to integers from 0"),
        ("vocab.json", {"a": 10**20}, "must map tokens to integers from 0"),
    ],
)
def test_tokenizers_with_odd_tokens_are_refused(file, content, message, tmp_path):
    MAKE["tokenizer"](tmp_path)
    path = tmp_path / "tokenizer" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | content))
    with pytest.raises(PriorError, match=message):
        read_tokenizer(tmp_path / "tokenizer")


@pytest.mark.parametrize(
    ("read", "settings", "change"),
    [
        (TextConfig.from_json, TEXT, {"num_hidden_layers": 10**9}),
        (TextConfig.from_json, TEXT, {"hidden_act": ["gelu"]}),
        (TextConfig.from_json, TEXT, {"layer_norm_eps": "small"}),
        (UNetConfig.from_json, UNET, {"layers_per_block": 10**9}),
        (UNetConfig.from_json, UNET, {"sample_size": 10**9}),
        (UNetConfig.from_json, UNET, {"freq_shift": "x"}),
        (UNetConfig.from_json, UNET, {"norm_eps": float("nan")}),
        (
            lambda settings: read_preprocessing(settings, "p.json", depth_anything.PREPROCESSING),
            ANYTHING_PREPROCESSOR,
            {"image_mean": [10**400, 0, 0]},
        ),
        (
            lambda settings: read_preprocessing(settings, "p.json", depth_anything.PREPROCESSING),
            ANYTHING_PREPROCESSOR,
            {"size": {"height": 10**9, "width": 14}},
        ),
    ],
)
def test_settings_that_would_take_hours_or_all_memory_are_refused(read, settings, change):
    read(settings)
    with pytest.raises(PriorError, match=next(iter(change))) if "size" not in change else pytest.raises(PriorError):
        read({**settings, **change})


def test_a_schedule_of_a_billion_steps_is_refused(tmp_path):
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps(SCHEDULER))
    assert len(read_schedule(path)) == 1000
    path.write_text(json.dumps(SCHEDULER | {"num_train_timesteps": 10**9}))
    with pytest.raises(PriorError, match=r"scheduler_config\.json: num_train_timesteps must be"):
        read_schedule(path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    MAKE["embedded prior"](tmp_path)
    assert load_embedded_prior(folder=tmp_path).image_size > 0
    path = tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    arrays = safetensors.numpy.load_file(path)
    arrays["conv_in.bias"][1] = np.nan
    safetensors.numpy.save_file(arrays, path)
    with pytest.raises(PriorError, match=r"damaged, download it again: conv_in\.bias holds NaN"):
        load_embedded_prior(folder=tmp_path)


def test_pickles_get_no_memory_for_what_they_only_claim():
    with allocating_less_than(1 << 22):
        assert read_array_pickle(b"\x80\x03}r\xff\xff\xff\x0f.") == {}  # stored as number 2^28 - 1 of what it holds
        for claim in (b"\x80\x03B\xff\xff\xff\x7fabc.", b"\x80\x04\x8e" + b"\xff" * 7 + b"\0abc."):
            with pytest.raises(ValueError, match=r"expected \d+ bytes"):
                read_array_pickle(claim)


def test_lpips_weights_of_other_shapes_are_refused(tmp_path):
    (path,) = MAKE["LPIPS weights"](tmp_path)
    weights = load_lpips.__wrapped__("alex", tmp_path)
    assert weights.kernels[0].shape == (2, 2, 3, 4)
    shutil.copy(path, tmp_path / "vgg16.ckpt")
    with pytest.raises(LpipsWeightsError, match=r"vgg16\.ckpt is not the LPIPS weight file"):
        load_lpips.__wrapped__("vgg", tmp_path)
    path.write_bytes(
        path.read_bytes().replace(np.asarray(weights.biases[2]).tobytes(), np.full(4, np.nan, "<f4").tobytes())
    )
    with pytest.raises(LpipsWeightsError, match="do not fit, or it holds NaN"):
        load_lpips.__wrapped__("alex", tmp_path)
