"""Our depth networks against transformers' in torch: both read one checkpoint that transformers saved.

Errors are relative: largest difference over largest value. float32 on both sides leaves 1e-6 to 2e-5.
"""

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from tiny_depth import (
    ANYTHING,
    HYBRID,
    REAL_ANYTHING,
    REAL_HYBRID,
    TINY,
    depth_weights,
    shapes_of,
    unused_shapes,
)

from ipsm_jax.priors.checkpoint import file_shape
from ipsm_jax.priors.depth import depth_map
from ipsm_jax.priors.monodepth import load_depth_network
from ipsm_jax.priors.monodepth.depth_anything import PREPROCESSING
from ipsm_jax.priors.monodepth.resize import interpolation_matrix, resize

REASON = "parity with torch needs the extra `parity`: torch, diffusers and transformers"
torch = pytest.importorskip("torch", reason=REASON)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason=REASON)
    for lazy in ("DPTForDepthEstimation", "DepthAnythingForDepthEstimation", "DPTImageProcessor"):
        getattr(transformers, lazy)

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("own_caches")]
TOLERANCE = 1e-4


def build(config):
    """transformers' model of a config.json."""
    if config["model_type"] == "dpt":
        return transformers.DPTForDepthEstimation(transformers.DPTConfig(**config)).eval()
    return transformers.DepthAnythingForDepthEstimation(transformers.DepthAnythingConfig(**config)).eval()


def allow_any_size(model):
    """transformers' DPT-Hybrid takes squares of the trained size only, though its positions are resized."""
    embeddings, neck, inner = model.dpt.embeddings, model.neck, model.neck.forward
    run = model.forward

    def forward(pixels):
        embeddings.image_size = pixels.shape[2:]
        neck.forward = lambda states, *_: inner(states, pixels.shape[2] // 16, pixels.shape[3] // 16)
        return run(pixels)

    model.forward = forward


def torch_map(model, pixels, size, preprocessor):
    """The map of (1, 3, h, w) pixels in [0, 1], with the network's input of `size`."""
    x = torch.nn.functional.interpolate(pixels, size, mode="bicubic", align_corners=False)
    mean, deviation = (torch.tensor(preprocessor[f"image_{k}"]).view(1, 3, 1, 1) for k in ("mean", "std"))
    depth = model((x - mean) / deviation).predicted_depth
    depth = torch.nn.functional.interpolate(depth[:, None], pixels.shape[2:], mode="bicubic", align_corners=False)
    return depth[0, 0]


def relative_error(ours, theirs):
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


@pytest.fixture(scope="module", params=TINY)
def network(request, tmp_path_factory):
    """Name, their model and our folder, saved by transformers."""
    config, preprocessor = TINY[request.param]
    model = build(config)
    model.load_state_dict({name: torch.from_numpy(a) for name, a in depth_weights(config, 3).items()})
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder, safe_serialization=True)
    transformers.DPTImageProcessor(**preprocessor).save_pretrained(folder)
    if request.param == "hybrid":
        allow_any_size(model)
    return request.param, model, folder


run = jax.jit(depth_map)


@jax.jit
def map_and_gradient(prior, image, cotangent):
    depth, pull = jax.vjp(lambda x: depth_map(prior, x), image)
    return depth, pull(cotangent)[0]


def with_input(prior, height, width):
    """The prior with another size of the network's input."""
    preprocessing = dataclasses.replace(prior.predict.preprocessing, height=height, width=width)
    return dataclasses.replace(prior, predict=dataclasses.replace(prior.predict, preprocessing=preprocessing))


def to_torch(image):
    """(h, w, 3) to (1, 3, h, w)."""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1)[None].copy())


def test_maps_and_gradients(network):
    """Of three pictures. At most one gradient may be off: a rectifier whose input is 0 but for rounding has no
    gradient that float32 can agree on, and there are so many that one in ten pictures meets one, in torch's float32
    against its float64 as well. A wrong network is wrong in all.
    """
    name, model, folder = network
    prior, input_size = load_depth_network(folder), (70, 98)
    if name == "hybrid":
        prior, input_size = with_input(prior, 64, 96), (64, 96)
    errors = []
    for seed in range(3):
        image = jax.random.uniform(jax.random.key(seed), (37, 53, 3))
        cotangent = jax.random.normal(jax.random.key(10 + seed), (37, 53))
        leaf = to_torch(image).requires_grad_()
        theirs = torch_map(model, leaf, input_size, TINY[name][1])
        (theirs * torch.from_numpy(np.array(cotangent))).sum().backward()
        ours, gradient = map_and_gradient(prior, image, cotangent)
        assert np.mean(ours > 0) > 0.5  # or the last ReLU hides the network
        assert np.std(ours) > 0.01 * np.mean(ours)
        assert relative_error(ours, theirs) < TOLERANCE
        errors.append(relative_error(gradient.transpose(2, 0, 1)[None], leaf.grad))
    assert np.median(errors) < TOLERANCE and max(errors) < 0.2


def test_map_of_an_upright_picture(network):
    """At DPT-Hybrid's own input size; Depth Anything's covers 70 pixels, in multiples of 14."""
    name, model, folder = network
    image = jax.random.uniform(jax.random.key(0), (131, 78, 3))
    with torch.no_grad():
        theirs = torch_map(model, to_torch(image), (384, 512) if name == "hybrid" else (112, 70), TINY[name][1])
    assert relative_error(run(load_depth_network(folder), image), theirs) < TOLERANCE


@pytest.mark.parametrize("name", TINY)
def test_half_precision_file(name, tmp_path):
    """A file of float16, computed in float32 on both sides."""
    config, preprocessor = TINY[name]
    model = build(config)
    model.load_state_dict({name: torch.from_numpy(a) for name, a in depth_weights(config, 2).items()})
    model.half().save_pretrained(tmp_path, safe_serialization=True)
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118
    model.float()
    if name == "hybrid":
        allow_any_size(model)
    image = jax.random.uniform(jax.random.key(0), (131, 78, 3))
    # without a preprocessor_config.json: the published preparation
    size = (384, 512) if name == "hybrid" else (868, 518)
    with torch.no_grad():
        theirs = torch_map(model, to_torch(image), size, preprocessor)
    assert relative_error(run(load_depth_network(tmp_path), image), theirs) < TOLERANCE


@pytest.mark.parametrize("config", [HYBRID, ANYTHING, REAL_HYBRID, REAL_ANYTHING], ids=str)
def test_names_and_shapes(config):
    """Ours and those known to be unused are all that transformers' model has."""
    with torch.device("meta"):
        theirs = {name: tuple(array.shape) for name, array in build(config).state_dict().items()}
    ours = {name: file_shape(shape) for name, shape in {**shapes_of(config), **unused_shapes(config)}.items()}
    assert ours == theirs


def test_settings_left_out_are_the_defaults(tmp_path):
    """A config.json as short as the published one, and the complete one that transformers makes of it."""
    for config in (REAL_HYBRID, REAL_ANYTHING):
        with torch.device("meta"):
            complete = json.loads(build(config).config.to_json_string(use_diff=False))
        assert len(complete) > 2 * len(config)
        assert shapes_of(complete) == shapes_of(config)


@given(st.integers(518, 1200), st.integers(518, 1200))
def test_input_size_of_larger_pictures(height, width):
    """As in transformers, whose rule differs for pictures that have to be enlarged."""
    module = transformers.models.dpt.image_processing_dpt
    picture = np.empty((height, width, 3), np.uint8)
    size = module.get_resize_output_image_size(picture, (518, 518), True, 14, "channels_last")
    assert PREPROCESSING.input_size(height, width) == size


KINDS = [("linear", False), ("linear", True), ("cubic", False), ("cubic", True)]


def torch_resize(samples, size, kernel, align_corners):
    """In float64, where torch does not round the places."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}[kernel]
    moved = torch.from_numpy(samples.transpose(0, 3, 1, 2).copy())
    resized = torch.nn.functional.interpolate(moved, size, mode=mode, align_corners=align_corners)
    return resized.numpy().transpose(0, 2, 3, 1)


@given(st.integers(1, 20), st.integers(1, 45), st.sampled_from(KINDS))
def test_interpolation_matrix(size, new_size, kind):
    samples = np.random.default_rng(size).standard_normal((1, size, 3, 2))
    ours = np.einsum("oh,bhwc->bowc", interpolation_matrix(size, new_size, *kind), samples)
    np.testing.assert_allclose(ours, torch_resize(samples, (new_size, 3), *kind), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_resize(kind):
    samples = np.random.default_rng(0).standard_normal((2, 7, 12, 3))
    ours = resize(jnp.asarray(samples, jnp.float32), (15, 5), *kind)
    np.testing.assert_allclose(ours, torch_resize(samples, (15, 5), *kind), atol=1e-5)
