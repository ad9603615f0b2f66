"""Depth networks without torch: refusals that name what is wrong, the published tensors, and what holds for any."""

import dataclasses
import hashlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_depth import brightness_prior
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tiny_depth import (
    ANYTHING,
    ANYTHING_PREPROCESSOR,
    HYBRID,
    HYBRID_PREPROCESSOR,
    REAL_ANYTHING,
    REAL_HYBRID,
    shapes_of,
    unused_shapes,
    write_depth_network,
)

from ipsm_jax.losses.depth import pseudo_depth_loss
from ipsm_jax.priors.checkpoint import file_shape
from ipsm_jax.priors.config import PriorError
from ipsm_jax.priors.depth import depth_map
from ipsm_jax.priors.layers import stored
from ipsm_jax.priors.monodepth import check_depth_network, depth_anything, dpt_hybrid, load_depth_network
from ipsm_jax.priors.monodepth.preprocessing import Preprocessing
from ipsm_jax.priors.monodepth.resize import interpolation_matrix

pytestmark = pytest.mark.usefixtures("own_caches")

CONFIGS = {"hybrid": (HYBRID, HYBRID_PREPROCESSOR), "anything": (ANYTHING, ANYTHING_PREPROCESSOR)}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("networks")
    return {name: write_depth_network(root / name, *config) for name, config in CONFIGS.items()}


@pytest.fixture(params=CONFIGS)
def folder(request, originals, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(originals[request.param], tmp_path / request.param)


@pytest.fixture
def anything(originals, tmp_path):
    return shutil.copytree(originals["anything"], tmp_path / "anything")


@pytest.fixture
def hybrid(originals, tmp_path):
    return shutil.copytree(originals["hybrid"], tmp_path / "hybrid")


@pytest.fixture(scope="module")
def prior(originals):
    """Depth Anything, which takes inputs of any size."""
    return load_depth_network(originals["anything"])


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


@pytest.mark.parametrize(
    ("config", "count", "parameters", "digest"),
    [(REAL_HYBRID, 414, 122_377_985, "a4ee2d1ce220553e"), (REAL_ANYTHING, 287, 24_785_089, "b0c6160bcc4b3ba8")],
    ids=["hybrid", "anything"],
)
def test_published_networks(config, count, parameters, digest):
    """Names and shapes, with the unused ones, as in the published files (digest of the sorted lines "name [shape]")."""
    found = {name: file_shape(shape) for name, shape in {**shapes_of(config), **unused_shapes(config)}.items()}
    assert len(found) == count
    assert sum(int(np.prod(shape)) for shape in found.values()) == parameters
    lines = "\n".join(sorted(f"{name} {list(shape)}" for name, shape in found.items()))
    assert hashlib.sha256(lines.encode()).hexdigest().startswith(digest)


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


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_input_of_depth_anything_covers_the_size_and_keeps_the_aspect(height, width):
    size = depth_anything.PREPROCESSING.input_size(height, width)
    assert min(size) == 518 and all(side % 14 == 0 for side in size)
    assert max(size) == pytest.approx(518 * max(height, width) / min(height, width), abs=7)
    assert (size[0] <= size[1]) == (height <= width) or size[0] == size[1]


def test_half_precision_is_no_compute_type(anything):
    with pytest.raises(ValueError, match="dtype must be float32 or bfloat16"):
        load_depth_network(anything, jnp.float16)


def test_pictures_of_another_shape(prior):
    for shape in ((20, 30), (20, 30, 4), (1, 20, 30, 3), (0, 30, 3)):
        with pytest.raises(ValueError, match=r"takes one picture \(h, w, 3\), got"):
            depth_map(prior, jnp.zeros(shape))


def test_inputs_that_are_not_whole_patches(originals):
    for name, size, message in (("hybrid", (32, 48), "divisible by 32"), ("anything", (28, 30), "divisible by 14")):
        predictor = check_depth_network(originals[name]).predictor
        with pytest.raises(ValueError, match=f"{message}, got {size[0]} x {size[1]}"):
            predictor.network(predictor.config, stored({}), jnp.zeros((1, *size, 3)))


TRACED = []


@jax.jit
def run(prior, image):
    TRACED.append(image.shape)
    return depth_map(prior, image)


def picture(seed=0, size=(21, 30)):
    return jax.random.uniform(jax.random.key(seed), (*size, 3))


def test_equal_folders_compile_once(originals, prior):
    """The prior is a pytree whose function is equal when the structure is."""
    again = load_depth_network(originals["anything"])
    assert again.predict == prior.predict and hash(again.predict) == hash(prior.predict)
    assert jax.tree.structure(again) == jax.tree.structure(prior)
    expected = run(prior, picture())
    before = len(TRACED)
    np.testing.assert_array_equal(run(again, picture()), expected)
    assert len(TRACED) == before > 0


def test_batches(prior):
    """vmap over pictures is one picture at a time."""
    images = jnp.stack([picture(0), picture(1)])
    both = jax.jit(jax.vmap(depth_map, (None, 0)))(prior, images)
    assert both.shape == (2, 21, 30) and both.dtype == jnp.float32
    for i in range(2):
        np.testing.assert_allclose(both[i], run(prior, images[i]), rtol=1e-4, atol=1e-4)


def test_batches_of_gradients(originals):
    """Every step of both networks can be differentiated and batched; nothing is computed here."""
    for path in originals.values():
        prior = load_depth_network(path)
        gradient = jax.grad(lambda x, p=prior: jnp.sum(depth_map(p, x)))
        shape = jax.eval_shape(jax.vmap(gradient), jnp.zeros((2, 21, 30, 3)))
        assert shape == jax.ShapeDtypeStruct((2, 21, 30, 3), jnp.float32)


def test_gradient_of_the_loss_reaches_the_picture(prior):
    """Against a difference quotient along the gradient, through the correlation that training uses."""
    depth = jax.random.uniform(jax.random.key(3), (21, 30)) + 1.0
    loss = jax.jit(jax.value_and_grad(lambda x: pseudo_depth_loss(depth, depth_map(prior, x))))
    gradient = loss(picture())[1]
    step = 0.02 * gradient / jnp.linalg.norm(gradient)
    slope = (loss(picture() + step)[0] - loss(picture() - step)[0]) / 0.04
    assert float(slope) == pytest.approx(float(jnp.linalg.norm(gradient)), rel=0.05)
    assert float(jnp.min(jnp.max(jnp.abs(gradient), -1))) > 0  # every pixel counts


def test_bfloat16_is_close(originals, prior):
    rough = load_depth_network(originals["anything"], jnp.bfloat16)
    assert {array.dtype for array in jax.tree.leaves(rough.params)} == {jnp.dtype(jnp.bfloat16)}
    exact, found = run(prior, picture()), run(rough, picture())
    assert found.dtype == jnp.float32
    assert len(np.unique(found)) > 500  # not the few steps of bfloat16
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.1


def test_backward_pass_keeps_only_the_inputs_of_blocks(prior):
    """Rematerialised: no attention weights of a block are among what the forward pass hands to the backward pass."""
    config = prior.predict.config

    def pull(x):
        return jax.vjp(lambda y: depth_anything.inverse_depth(config, stored(prior.params), y), x)[1]

    tokens = 5 * 7 + 1
    kept = [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(pull, jnp.zeros((1, 70, 98, 3))))]
    assert (1, tokens, config.transformer.channels) in kept
    assert not [shape for shape in kept if shape[-2:] == (tokens, tokens)]
    assert not [shape for shape in kept if shape[-2:] == (tokens, config.transformer.hidden)]


@given(st.integers(1, 30), st.integers(1, 40), st.sampled_from(["linear", "cubic"]), st.booleans())
def test_interpolation_keeps_constants_and_straight_lines(size, new_size, kernel, align_corners):
    matrix = interpolation_matrix(size, new_size, kernel, align_corners).astype(np.float64)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    if size == new_size:
        np.testing.assert_allclose(matrix, np.eye(size), atol=1e-6)
    new = np.arange(new_size)
    places = new * (size - 1) / max(new_size - 1, 1) if align_corners else (new + 0.5) * size / new_size - 0.5
    if kernel == "linear":
        np.testing.assert_allclose(matrix @ np.arange(size), np.clip(places, 0, size - 1), atol=1e-5)


def test_preparation_and_its_reverse():
    """A picture of one colour, and the size of the map."""
    preprocessing = Preprocessing(40, 60, (0.5, 0.25, 0.0), (0.5, 1.0, 2.0))
    image = jnp.broadcast_to(jnp.array([1.0, 0.25, 0.5]), (11, 17, 3))
    prepared = preprocessing.prepare(image)
    assert prepared.shape == (1, 40, 60, 3)
    np.testing.assert_allclose(prepared, np.broadcast_to([1.0, 0.0, 0.25], prepared.shape), atol=1e-6)
    np.testing.assert_allclose(preprocessing.restore(jnp.full((1, 40, 60), 3.0), (11, 17)), 3.0, rtol=1e-6)


def test_exact_double():
    """What other tests take in place of a network."""
    prior = brightness_prior(gain=2.0, offset=1.0)
    image = picture()
    np.testing.assert_allclose(depth_map(prior, image), 1 + 2 * image.mean(-1), rtol=1e-6)
    gradient = jax.grad(lambda x: depth_map(prior, x).sum())(image)
    np.testing.assert_allclose(gradient, np.full(image.shape, 2 / 3), rtol=1e-6)
    assert dataclasses.replace(prior, params=None).predict is brightness_prior().predict
