"""Folders of depth networks that are not as they should be: errors name what is wrong, before anything is read."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_depth import TINY, write_depth_network

from ipsm_jax.priors.config import PriorError
from ipsm_jax.priors.monodepth import check_depth_network, depth_anything, dpt_hybrid, load_depth_network


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("networks")
    return {name: write_depth_network(root / name, *config) for name, config in TINY.items()}


@pytest.fixture(params=TINY)
def folder(request, originals, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(originals[request.param], tmp_path / request.param)


@pytest.fixture
def anything(originals, tmp_path):
    return shutil.copytree(originals["anything"], tmp_path / "anything")


@pytest.fixture
def hybrid(originals, tmp_path):
    return shutil.copytree(originals["hybrid"], tmp_path / "hybrid")


def refusal(folder):
    """The error's text; it has to come before any array is read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ipsm_jax.priors.monodepth.load.read_weights", lambda *_: pytest.fail("arrays were read"))
        with pytest.raises(PriorError) as caught:
            load_depth_network(folder)
    return str(caught.value)


def edit(folder, part=None, file="config.json", **changes):
    content = json.loads((folder / file).read_text())
    (content if part is None else content[part]).update(changes)
    (folder / file).write_text(json.dumps(content))


def test_complete_folder(folder):
    network = check_depth_network(folder)
    assert network.size_in_bytes(jnp.bfloat16) * 2 == network.size_in_bytes(jnp.float32) > 100_000


def test_no_folder(tmp_path, folder):
    text = refusal(tmp_path / "none")
    assert f"there is no folder {tmp_path / 'none'}" in text
    assert "hf download depth-anything/Depth-Anything-V2-Small-hf config.json preprocessor_config.json model" in text
    assert "hf download Intel/dpt-hybrid-midas" in text
    assert "is a file, not a folder" in refusal(folder / "config.json")


def test_partial_folder_and_pickles(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    text = refusal(folder)
    assert "is incomplete. Missing: model.safetensors. There is pytorch_model.bin, but a pickle can run code" in text
    assert f'M.from_pretrained("{folder}").save_pretrained("{folder}-safetensors")' in text
    (folder / "config.json").unlink()
    assert "Missing: config.json, model.safetensors." in refusal(folder)


def test_cut_off_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "damaged or cut off, download it again" in refusal(folder)


def test_missing_unknown_and_misshapen_arrays_are_named(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["neck.convs.0.weight"]
    weights["extra"] = np.zeros(3, np.float32)
    weights["neck.convs.1.weight"] = np.zeros((16, 12, 1, 1), np.float32)
    save_file(weights, path)
    text = refusal(folder)
    assert "1 missing: neck.convs.0.weight" in text and "1 unknown: extra" in text
    assert "1 of another shape: neck.convs.1.weight [16, 12, 1, 1] instead of [16, " in text


def test_arrays_without_use_may_be_missing(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    unused = [name for name in weights if name in (*dpt_hybrid.IGNORED, *depth_anything.IGNORED)]
    assert len(unused) in (5, 6)
    save_file({name: array for name, array in weights.items() if name not in unused}, path)
    check_depth_network(folder)


def test_other_kinds_of_network(anything):
    edit(anything, model_type="zoedepth")
    text = refusal(anything)
    assert "model_type must be dpt (Intel/dpt-hybrid-midas) or depth_anything" in text and "'zoedepth'" in text


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (None, {"is_hybrid": False}, "is_hybrid=False (implemented: True)"),
        (None, {"readout_type": "add"}, "readout_type='add' (implemented: 'project')"),
        (None, {"use_batch_norm_in_fusion_residual": True}, "use_batch_norm_in_fusion_residual=True"),
        (None, {"reassemble_factors": [1, 1, 2, 1]}, "reassemble_factors=[1, 1, 2, 1]"),
        (None, {"hidden_act": "relu"}, "hidden_act='relu' (implemented: 'gelu')"),
        (None, {"patch_size": 32}, "patch_size=32 (implemented: 16)"),
        (None, {"hidden_size": 25}, "25 channels cannot be split into 3 heads"),
        (None, {"backbone_out_indices": [0, 0, 0, 1]}, "must list 4 blocks from 0, the last one 2, found [0, 0, 0, 1]"),
        (None, {"neck_hidden_sizes": [16, 64, 20, 28]}, "the first two [32, 64] as backbone_config's hidden_sizes"),
        (None, {"layer_norm_eps": "small"}, "layer_norm_eps must be a positive number, found 'small'"),
        (None, {"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer, found 0"),
        (None, {"backbone_config": "bit"}, "backbone_config must be an object, found 'bit'"),
        (None, {"image_size": 128}, "position_embeddings [1, 17, 24] instead of [1, 65, 24]"),
        ("backbone_config", {"layer_type": "preactivation"}, "layer_type='preactivation' (implemented: 'bottleneck')"),
        ("backbone_config", {"global_padding": None}, "global_padding=None (implemented: 'SAME', 'same')"),
        ("backbone_config", {"out_features": ["stage3"]}, "out_features all of them"),
        ("backbone_config", {"hidden_sizes": [24, 64, 96]}, "must be three multiples of 32"),
        ("backbone_config", {"num_groups": 3}, "can be split into 3 groups"),
    ],
)
def test_settings_of_dpt_hybrid(hybrid, part, changes, message):
    edit(hybrid, part, **changes)
    assert message in refusal(hybrid)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (None, {"depth_estimation_type": "metric"}, "depth_estimation_type='metric' (implemented: 'relative')"),
        (None, {"max_depth": 80}, "max_depth=80 (implemented: None, 1, 1.0)"),
        (None, {"reassemble_hidden_size": 25}, "must be backbone_config's hidden_size 24, found 25"),
        (None, {"neck_hidden_sizes": [8, 12, 20]}, "neck_hidden_sizes must list 4, found [8, 12, 20]"),
        (None, {"patch_size": 7}, "patch_size 14 differs from the decoder's 7"),
        (None, {"backbone_config": None}, "backbone_config must be an object, found None"),
        ("backbone_config", {"model_type": "swinv2"}, "model_type='swinv2' (implemented: 'dinov2')"),
        ("backbone_config", {"use_swiglu_ffn": True}, "use_swiglu_ffn=True (implemented: False)"),
        ("backbone_config", {"num_attention_heads": 5}, "24 channels cannot be split into 5 heads"),
        ("backbone_config", {"num_hidden_layers": 7}, "the last one stage7, found [1, 3, 4, 5]"),
        ("backbone_config", {"out_features": ["stem"]}, "out_features must list stages in rising order"),
        ("backbone_config", {"out_features": None, "out_indices": [5, 4, 3, 1]}, "must list stages in rising order"),
        ("backbone_config", {"mlp_ratio": 3}, "mlp.fc1.bias [48] instead of [72]"),
    ],
)
def test_settings_of_depth_anything(anything, part, changes, message):
    edit(anything, part, **changes)
    assert message in refusal(anything)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ensure_multiple_of": 32}, "must be a multiple of the patches' 14 pixels, found 32"),
        ({"resample": 2}, "resample=2 (implemented: 3)"),
        ({"do_pad": True}, "do_pad=True"),
        ({"image_std": [1, 1]}, "image_std must be three positive numbers, found [1, 1]"),
        ({"image_mean": "imagenet"}, "image_mean must be three numbers, found 'imagenet'"),
        ({"size": {"shortest_edge": 518}}, "size: height must be a positive integer, found None"),
        ({"size": [518]}, "size must be a number or {height, width}"),
        ({"size": 100, "keep_aspect_ratio": False}, "size 100 x 100 is not a multiple of ensure_multiple_of=14"),
    ],
)
def test_settings_of_the_preprocessor(anything, changes, message):
    edit(anything, file="preprocessor_config.json", **changes)
    text = refusal(anything)
    assert message in text and "preprocessor_config.json" in text


def test_mean_and_deviation_are_read(folder):
    edit(folder, file="preprocessor_config.json", image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 3])
    found = check_depth_network(folder).predictor.preprocessing
    assert found.mean == (0.1, 0.2, 0.3) and found.deviation == (1.0, 2.0, 3.0)


def test_size_of_the_networks_input(folder):
    """DPT-Hybrid keeps to METHOD section 4, whatever the file says; Depth Anything takes the file's, else 518."""
    found = check_depth_network(folder).predictor.preprocessing
    hybrid = folder.name == "hybrid"
    assert found.input_size(756, 1008) == ((384, 512) if hybrid else (70, 98))
    (folder / "preprocessor_config.json").unlink()
    assert check_depth_network(folder).predictor.preprocessing == (
        dpt_hybrid.PREPROCESSING if hybrid else depth_anything.PREPROCESSING
    )


def test_half_precision_is_no_compute_type(anything):
    with pytest.raises(ValueError, match="dtype must be float32 or bfloat16"):
        load_depth_network(anything, jnp.float16)
