"""Folders that are not what they should be: each error says what was found, where, and what to do."""

import json
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_checkpoint import UNET, write_pair

from ipsm_jax.priors.checkpoint import WHOLE, check_weights, inspect_folder, read_schedule, read_weights
from ipsm_jax.priors.config import PriorError
from ipsm_jax.priors.stable_diffusion import check_stable_diffusion, load_stable_diffusion
from ipsm_jax.priors.unet import UNetConfig, unet_shapes

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
SHAPES = unet_shapes(UNetConfig.from_json(UNET))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def pair(original, tmp_path):
    """A copy to spoil."""
    return tuple(shutil.copytree(folder, tmp_path / folder.name) for folder in original)


@pytest.fixture(autouse=True)
def nothing_is_read_before_all_is_checked(monkeypatch):
    """Every refusal here has to come from names and headers: reading an array fails the test."""

    def refuse(*_):
        raise AssertionError("arrays were read")

    monkeypatch.setattr("ipsm_jax.priors.stable_diffusion.read_weights", refuse)


def refusal(pair, **kwargs):
    with pytest.raises(PriorError) as caught:
        load_stable_diffusion(*pair, "a fern", **kwargs)
    return str(caught.value)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def test_complete_folder(pair):
    report = inspect_folder(pair[0])
    assert report.missing == () and report.pickles == ()
    assert UNET_FILE in report.present and "tokenizer/vocab.json" in report.present
    checked = check_stable_diffusion(*pair)
    assert checked.size_in_bytes(jnp.bfloat16) * 2 == checked.size_in_bytes(jnp.float32)


def test_no_folder(pair, tmp_path):
    text = refusal((tmp_path / "none", pair[1]))
    assert "there is no folder" in text and "hf download stable-diffusion-v1-5/stable-diffusion-v1-5" in text
    text = refusal((pair[0], tmp_path / "none"))
    assert "hf download stable-diffusion-v1-5/stable-diffusion-inpainting unet/config.json" in text


def test_partial_folder_says_what_is_there_and_what_is_not(pair):
    (pair[0] / "vae" / "config.json").unlink()
    shutil.rmtree(pair[0] / "tokenizer")
    text = refusal(pair)
    assert "There: unet/config.json, unet/diffusion_pytorch_model.safetensors, vae/diffusion" in text
    assert "Missing: vae/config.json, tokenizer/vocab.json, tokenizer/merges.txt." in text
    assert "--local-dir" in text


def test_inpainting_folder_needs_only_its_unet(pair):
    for part in WHOLE:
        if part != "unet":
            shutil.rmtree(pair[1] / part)
    check_stable_diffusion(*pair)


def test_pickles_are_refused_with_the_reason(pair):
    (pair[0] / UNET_FILE).rename(pair[0] / "unet" / "diffusion_pytorch_model.bin")
    text = refusal(pair)
    assert "unet/diffusion_pytorch_model.bin: a pickle can run code when opened" in text
    assert "safe_serialization=True" in text
    single = pair[0].parent / "v1-5-pruned.ckpt"
    single.write_bytes(b"")
    text = refusal((single, pair[1]))
    assert "is a pickle, which can run code" in text and "from_single_file" in text


def test_cut_off_file(pair):
    path = pair[1] / UNET_FILE
    path.write_bytes(path.read_bytes()[:-1000])
    text = refusal(pair)
    assert str(path) in text and "damaged or cut off, download it again" in text
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "(43 bytes) is damaged" in refusal(pair)


def test_missing_unknown_and_misshapen_arrays_are_named(pair):
    def spoil(weights):
        del weights["conv_in.bias"]
        weights["extra.weight"] = np.zeros(3, np.float32)
        weights["conv_out.weight"] = np.zeros((4, 8, 1, 1), np.float32)

    edit_weights(pair[0] / UNET_FILE, spoil)
    text = refusal(pair)
    assert "1 missing: conv_in.bias" in text
    assert "1 unknown: extra.weight" in text
    assert "1 of another shape: conv_out.weight [4, 8, 1, 1] instead of [4, 8, 3, 3]" in text


def test_many_names_are_counted(pair):
    edit_json(pair[0] / "unet" / "config.json", layers_per_block=2)
    assert ", ..." in refusal(pair)


def test_array_under_its_old_and_its_new_name(pair):
    def double(weights):
        old = "encoder.mid_block.attentions.0.query.weight"
        weights[old] = weights["encoder.mid_block.attentions.0.to_q.weight"]

    edit_weights(pair[0] / "vae" / "diffusion_pytorch_model.safetensors", double)
    assert "1 there twice: encoder.mid_block.attentions.0" in refusal(pair)


def test_integer_weights_are_refused(pair):
    edit_weights(pair[0] / UNET_FILE, lambda w: w.update({"conv_in.bias": np.zeros(8, np.int8)}))
    assert "must be one of F32, F16, BF16, found conv_in.bias (I8)" in refusal(pair)


def test_position_ids_are_skipped(pair):
    path = pair[0] / "text_encoder" / "model.safetensors"
    ids = np.arange(77)[None]
    edit_weights(path, lambda weights: weights.update({"text_model.embeddings.position_ids": ids}))
    check_stable_diffusion(*pair)


def test_exchanged_folders(pair):
    assert "takes 4 and gives 4. Are the two folders exchanged?" in refusal(pair[::-1])


def test_inpainting_model_of_another_family(pair):
    edit_json(pair[1] / "vae" / "config.json", scaling_factor=0.13)
    edit_json(pair[1] / "scheduler" / "scheduler_config.json", beta_end=0.02)
    assert "has another vae and scheduler than the plain model" in refusal(pair)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("unet/config.json", {"sample_size": 16}, "differ in sample_size or cross_attention_dim"),
        ("text_encoder/config.json", {"vocab_size": 100}, "text_encoder do not fit its config.json"),
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}, "prediction_type must be 'epsilon'"),
        ("scheduler/scheduler_config.json", {"beta_start": None}, "beta_start must be a positive number, found None"),
        ("scheduler/scheduler_config.json", {"beta_end": 2.0}, "a schedule needs 0 < beta_start <= beta_end < 1"),
        ("tokenizer/vocab.json", {"more": 530}, "has ids up to 530"),
    ],
)
def test_settings_that_do_not_fit(pair, file, changes, message):
    edit_json(pair[0] / file, **changes)
    assert message in refusal(pair)


def test_config_that_is_not_json(pair):
    (pair[0] / "unet" / "config.json").write_text("<html>")
    assert "unet/config.json is not readable as JSON" in refusal(pair)
    (pair[0] / "unet" / "config.json").write_text("[]")
    assert "must hold a JSON object, found list" in refusal(pair)


def test_half_precision_is_no_compute_type(pair):
    with pytest.raises(ValueError, match="float16 overflows in the autoencoder"):
        load_stable_diffusion(*pair, "a fern", dtype=jnp.float16)


@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize("wanted", [jnp.float32, jnp.bfloat16])
def test_precisions(pair, stored, wanted):
    path = pair[0] / UNET_FILE
    save_file({name: value.astype(stored) for name, value in load_file(path).items()}, path)
    if stored == np.float16:  # the name that diffusers gives such files
        path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    params = read_weights(check_weights(pair[0] / "unet", SHAPES), wanted)
    assert {value.dtype for value in params.values()} == {jnp.dtype(wanted)}
    weights = load_file(next((pair[0] / "unet").glob("*.safetensors")))
    for name, value in params.items():
        kernel = np.asarray(value).transpose(3, 2, 0, 1) if value.ndim == 4 else np.asarray(value)
        assert np.array_equal(kernel, weights[name].astype(wanted))


def test_file_in_pieces(pair):
    path = pair[0] / UNET_FILE
    whole = load_file(path)
    expected = read_weights(check_weights(pair[0] / "unet", SHAPES), np.float32)
    names = sorted(whole)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: whole[name] for name in part}, pair[0] / "unet" / file)
    index = path.with_name(f"{path.name}.index.json")
    index.write_text(json.dumps({"weight_map": {name: file for file, part in files.items() for name in part}}))
    path.unlink()
    params = read_weights(check_weights(pair[0] / "unet", SHAPES), np.float32)
    assert params.keys() == expected.keys() and all(np.array_equal(params[n], expected[n]) for n in params)
    (pair[0] / "unet" / "b.safetensors").unlink()
    assert "lists 2 files, of which are missing: b.safetensors" in refusal(pair)
    index.write_text(json.dumps({"weight_map": {"a": "../../elsewhere.safetensors"}}))
    assert "must map names of arrays to files beside it" in refusal(pair)


def test_schedule(pair):
    """The cumulative product in float64, from the square roots' straight line."""
    levels = read_schedule(pair[0] / "scheduler" / "scheduler_config.json")
    product = 1.0
    for i in range(1000):
        product *= 1 - (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * i / 999) ** 2
        assert levels[i] == pytest.approx(product, rel=1e-6)


def test_no_weight_file(tmp_path):
    (tmp_path / "unet").mkdir()
    with pytest.raises(PriorError, match=r"has no diffusion_pytorch_model\.safetensors"):
        check_weights(tmp_path / "unet", SHAPES)
