"""Depth networks without torch: the published tensors, and what holds for any weights."""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_depth import brightness_prior
from hypothesis import given
from hypothesis import strategies as st
from tiny_depth import REAL_ANYTHING, REAL_HYBRID, TINY, shapes_of, unused_shapes, write_depth_network

from ipsm_jax.losses.depth import pseudo_depth_loss
from ipsm_jax.priors.checkpoint import file_shape
from ipsm_jax.priors.depth import depth_map
from ipsm_jax.priors.layers import stored
from ipsm_jax.priors.monodepth import check_depth_network, depth_anything, load_depth_network
from ipsm_jax.priors.monodepth.preprocessing import Preprocessing
from ipsm_jax.priors.monodepth.resize import interpolation_matrix

pytestmark = pytest.mark.usefixtures("own_caches")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("networks")
    return {name: write_depth_network(root / name, *config) for name, config in TINY.items()}


@pytest.fixture(scope="module")
def prior(originals):
    """Depth Anything, which takes inputs of any size."""
    return load_depth_network(originals["anything"])


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


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_input_of_depth_anything_covers_the_size_and_keeps_the_aspect(height, width):
    size = depth_anything.PREPROCESSING.input_size(height, width)
    assert min(size) == 518 and all(side % 14 == 0 for side in size)
    assert max(size) == pytest.approx(518 * max(height, width) / min(height, width), abs=7)
    assert (size[0] <= size[1]) == (height <= width) or size[0] == size[1]


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
    """A picture of one color, and the size of the map."""
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
