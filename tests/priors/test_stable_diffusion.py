"""The pair of models as a prior: shapes, precision, jit, vmap, gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_checkpoint import write_pair

from ipsm_jax.priors.diffusion import guided_noise, guided_noise_inpaint
from ipsm_jax.priors.stable_diffusion import check_stable_diffusion, encode_texts, load_stable_diffusion

pytestmark = pytest.mark.usefixtures("own_caches")

IMAGES = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
LATENTS = jax.random.normal(jax.random.key(1), (2, 8, 8, 4))
T = jnp.array([30, 700])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def prior(folders):
    return load_stable_diffusion(*folders, "a photo of the thing", "blurry", jnp.float32)


@jax.jit
def everything(prior, images, latents, t, key):
    """All functions of a prior, in one program."""
    mask = (latents[..., :1] > 0).astype(latents.dtype)
    return {
        "latents": prior.encode(prior.params, images, None),
        "sample": prior.encode(prior.params, images, key),
        "pictures": prior.decode(prior.params, latents),
        "noise": guided_noise(prior, latents, t, 2.0),
        "inpaint": guided_noise_inpaint(prior, latents, t, mask, latents, 2.0),
    }


def test_shapes_and_range(prior):
    out = everything(prior, IMAGES, LATENTS, T, jax.random.key(2))
    assert prior.image_size == 16 and prior.latent_shape == (8, 8, 4)
    assert all(value.dtype == jnp.float32 and np.isfinite(value).all() for value in out.values())
    assert out["pictures"].shape == (2, 16, 16, 3)
    assert all(value.shape == (2, 8, 8, 4) for name, value in out.items() if name != "pictures")
    assert out["pictures"].min() >= 0 and out["pictures"].max() <= 1
    for one, other in (("latents", "sample"), ("noise", "inpaint")):
        assert np.abs(out[one] - out[other]).max() > 1e-3


def test_bfloat16_computes_the_same_roughly(prior, folders):
    half = load_stable_diffusion(*folders, "a photo of the thing", "blurry", jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype(jnp.bfloat16)}
    rough, exact_values = (everything(p, IMAGES, LATENTS, T, jax.random.key(2)) for p in (half, prior))
    for name, value in rough.items():
        exact = exact_values[name]
        assert value.dtype == jnp.float32
        error = jnp.sqrt(jnp.mean(jnp.square(value - exact)) / jnp.mean(jnp.square(exact)))
        assert error < 0.1, f"{name}: {error}"  # 8 bits of mantissa, amplified by guidance


def test_weights_stored_in_half_precision(prior, tmp_path):
    folders = write_pair(tmp_path, dtype=np.float16)
    half = load_stable_diffusion(*folders, "a photo of the thing", "blurry", jnp.float32)
    for name, value in half.params["unet"].items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, prior.params["unet"][name], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(half.positive, prior.positive, atol=0.02)


def test_prompts(prior, folders):
    """The first token is the same and sees nothing else; the others differ."""
    assert prior.positive.shape == (77, 16)
    np.testing.assert_array_equal(prior.positive[0], prior.negative[0])
    assert np.abs(prior.positive[1:] - prior.negative[1:]).max(-1).min() > 1e-4
    with pytest.warns(UserWarning, match="'the the .*' has 100 tokens; the text encoder sees the first 75"):
        encode_texts(check_stable_diffusion(*folders), ("the " * 100,))


def test_prior_of_one_structure_compiles_once(prior, folders):
    other = load_stable_diffusion(*folders, "the photo", "", jnp.float32)
    traces = []

    @jax.jit
    def decode(prior, latents):
        traces.append(1)
        return prior.decode(prior.params, latents)

    decode(prior, LATENTS)
    decode(other, LATENTS)
    assert len(traces) == 1


def test_functions_map_under_vmap(prior):
    """One image at a time, mapped, gives what the batch gives."""

    single = jax.jit(jax.vmap(lambda *row: everything(prior, *(a[None] for a in row), jax.random.key(2))))
    batch = everything(prior, IMAGES, LATENTS, T, jax.random.key(2))
    for name, value in single(IMAGES, LATENTS, T).items():
        if name != "sample":  # its noise is drawn for a whole batch at once
            np.testing.assert_allclose(value[:, 0], batch[name], atol=1e-4)


def test_gradient_through_the_encoder_is_right(prior):
    """Against central differences of the same function along random directions."""
    key, cotangent = jax.random.key(4), jax.random.normal(jax.random.key(5), (2, 8, 8, 4))

    @jax.jit
    def value(images):
        return jnp.sum(prior.encode(prior.params, images, key) * cotangent)

    gradient = jax.jit(jax.grad(value))(IMAGES)
    assert np.isfinite(gradient).all() and np.abs(gradient).min() > 0
    for seed in range(3):
        direction = jax.random.normal(jax.random.key(seed), IMAGES.shape)
        step = 2e-3
        slope = (value(IMAGES + step * direction) - value(IMAGES - step * direction)) / (2 * step)
        assert float(slope) == pytest.approx(float(jnp.sum(gradient * direction)), rel=2e-2, abs=2e-2)


def test_backward_pass_of_the_encoder_keeps_little(prior):
    """Blocks are computed again: what is kept between the passes is a few inputs, not every intermediate result."""
    encode = prior.encode
    images = jnp.zeros((1, 64, 64, 3))

    def kept(function):
        _, pullback = jax.eval_shape(lambda x: jax.vjp(function, x), images)
        return sum(leaf.size for leaf in jax.tree.leaves(pullback))

    weights = sum(leaf.size for leaf in jax.tree.leaves(prior.params["vae"]))
    activations = kept(lambda x: encode(prior.params, x, None)) - weights
    # per pixel: 8 channels into each of 2 residual blocks and the last norms, a quarter of that below
    assert activations < 64 * 64 * 8 * 12


def test_equal_functions_are_equal(prior):
    again = dataclasses.replace(prior.encode)
    assert again == prior.encode and hash(again) == hash(prior.encode)
    assert prior.predict_noise.config != prior.predict_noise_inpaint.config
