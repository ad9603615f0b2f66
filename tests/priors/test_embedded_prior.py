"""The embedded prior: its linear autoencoder, descriptors, one network as two models, loading, and what is shipped."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_embedded import CHANNELS, CONFIG, random_basis, write_embedded_prior

from ipsm_jax.losses.distillation import DistillationOptions, distillation_loss
from ipsm_jax.losses.schedule import GuidanceSchedule
from ipsm_jax.priors.config import PriorError
from ipsm_jax.priors.diffusion import add_noise, guided_noise, guided_noise_inpaint
from ipsm_jax.priors.embedded import patches
from ipsm_jax.priors.embedded.descriptor import CELLS, describe
from ipsm_jax.priors.embedded.load import MOST_PHOTOS, WEIGHTS, check_embedded_prior, load_embedded_prior


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_embedded_prior(tmp_path_factory.mktemp("embedded"))


@pytest.fixture
def folder(original, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(original, tmp_path / "prior")


@pytest.fixture(scope="module")
def photos():
    return np.random.default_rng(1).uniform(size=(3, 20, 30, 3)).astype(np.float32)


def inputs(prior, batch=2, seed=3):
    rng = np.random.default_rng(seed)
    noisy, masked = (jnp.asarray(rng.normal(size=(batch, *prior.latent_shape)), jnp.float32) for _ in range(2))
    hole = jnp.asarray(rng.uniform(size=(batch, *prior.latent_shape[:2], 1)) > 0.5, jnp.float32)
    return noisy, jnp.array([300, 700][:batch]), hole, masked


# The autoencoder.


def test_latents_are_projections_of_averaged_patches():
    rng = np.random.default_rng(0)
    vae, images = random_basis(rng), rng.uniform(size=(2, 8, 12, 3)).astype(np.float32)
    latents = patches.encode(CONFIG, vae, jnp.asarray(images))
    assert latents.shape == (2, 2, 3, CHANNELS)
    for b, row, column in np.ndindex(2, 2, 3):
        cell = images[b, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].astype(np.float64)
        vector = [2 * cell[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, k].mean() - 1 for i, j, k in np.ndindex(2, 2, 3)]
        expected = vae["scale"] * (vae["basis"] @ (np.array(vector) - vae["mean"]))
        np.testing.assert_allclose(latents[b, row, column], expected, atol=1e-5)


def test_decoding_undoes_encoding_where_the_basis_is_complete():
    rng = np.random.default_rng(1)
    config, vae = patches.PatchConfig(1, 2, 12), random_basis(rng, 12)
    images = jnp.asarray(rng.uniform(size=(1, 6, 4, 3)), jnp.float32)
    np.testing.assert_allclose(patches.decode(config, vae, patches.encode(config, vae, images)), images, atol=1e-5)


def test_encoding_undoes_decoding_within_range():
    rng = np.random.default_rng(2)
    vae = random_basis(rng)
    latents = jnp.asarray(rng.normal(size=(1, 3, 3, CHANNELS)) * 0.1, jnp.float32)
    images = patches.decode(CONFIG, vae, latents)
    assert images.shape == (1, 12, 12, 3)
    assert float(images.min()) > 0 and float(images.max()) < 1  # nothing was clipped
    np.testing.assert_allclose(patches.encode(CONFIG, vae, images), latents, atol=1e-5)


def test_gradient_is_the_same_everywhere_and_reaches_every_pixel():
    rng = np.random.default_rng(3)
    vae, weights = random_basis(rng), jnp.asarray(rng.normal(size=(1, 2, 2, CHANNELS)), jnp.float32)
    gradient = jax.grad(lambda images: jnp.sum(weights * patches.encode(CONFIG, vae, images)))
    one, other = (gradient(jnp.asarray(rng.uniform(size=(1, 8, 8, 3)), jnp.float32)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert float(jnp.abs(one).min()) > 1e-6


def test_sides_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="divisible by 4"):
        patches.encode(CONFIG, random_basis(np.random.default_rng(0)), jnp.zeros((1, 8, 6, 3)))


# Descriptors.


def test_tokens_are_mean_and_log_deviation_of_cells():
    latents = np.random.default_rng(4).normal(size=(2, 8, 8, 3)).astype(np.float32)
    tokens = describe(jnp.asarray(latents))
    assert tokens.shape == (2, CELLS**2, 6)
    for row, column in np.ndindex(CELLS, CELLS):
        cell = latents[1, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].astype(np.float64).reshape(4, 3)
        expected = np.concatenate([cell.mean(0), np.log(cell.std(0))])
        np.testing.assert_allclose(tokens[1, CELLS * row + column], expected, atol=1e-4)


def test_flat_photos_have_finite_tokens_and_gradients():
    value, gradient = jax.value_and_grad(lambda z: describe(z).sum())(jnp.ones((1, 8, 8, 3)))
    assert np.isfinite(float(value)) and np.isfinite(np.asarray(gradient)).all()


def test_descriptor_is_a_set(original, photos):
    prior = load_embedded_prior(photos, original)
    noisy, t, *_ = inputs(prior, 1)
    tokens = prior.positive[None]
    once = prior.predict_noise(prior.params, noisy, t, tokens)
    for changed in (tokens[:, ::-1], jnp.concatenate([tokens, tokens], axis=1)):
        np.testing.assert_allclose(prior.predict_noise(prior.params, noisy, t, changed), once, atol=1e-4)
    # and it matters what is in it
    assert float(jnp.abs(prior.predict_noise(prior.params, noisy, t, 2 * tokens) - once).max()) > 1e-3


def test_many_photos_are_thinned_out_evenly(original):
    photos = np.linspace(0, 1, 9, dtype=np.float32)[:, None, None, None] * np.ones((9, 16, 16, 3), np.float32)
    tokens = load_embedded_prior(photos, original).positive.reshape(MOST_PHOTOS, CELLS**2, -1)
    few = load_embedded_prior(photos[[0, 3, 5, 8]], original).positive.reshape(MOST_PHOTOS, CELLS**2, -1)
    np.testing.assert_array_equal(tokens, few)


@pytest.mark.parametrize("bad", [np.zeros((2, 8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_photos_that_are_none_are_refused(original, bad):
    with pytest.raises(ValueError, match=r"floats in \[0, 1\]"):
        load_embedded_prior(bad, original)


# One network as two models.


def test_plain_model_is_the_other_one_with_everything_to_fill(original, photos):
    prior = load_embedded_prior(photos, original)
    noisy, t, *_ = inputs(prior)
    gray = prior.encode(prior.params, jnp.full((2, prior.image_size, prior.image_size, 3), 0.5), None)
    everything = jnp.ones((*noisy.shape[:3], 1))
    filled = guided_noise_inpaint(prior, noisy, t, everything, gray, 2.0)
    np.testing.assert_allclose(guided_noise(prior, noisy, t, 2.0), filled, atol=1e-5)


def test_network_that_says_nothing_leaves_the_best_guess_from_each_latent_alone(original):
    """The formula for independent Gaussian latents, and its error on them."""
    prior = load_embedded_prior(None, original)
    params, rng = dict(prior.params), np.random.default_rng(5)
    params["unet"] = {**params["unet"]} | {
        n: jnp.zeros_like(params["unet"][n]) for n in ("conv_out.weight", "conv_out.bias")
    }
    v = np.asarray(params["vae"]["variance"], np.float64)
    t, shape = np.repeat([100, 400, 900], 30), (90, *prior.latent_shape)
    latents, noise = rng.normal(size=shape) * np.sqrt(v), rng.normal(size=shape)
    a = np.asarray(prior.alphas_cumprod, np.float64)[t][:, None, None, None]
    noisy = np.sqrt(a) * latents + np.sqrt(1 - a) * noise
    tokens = jnp.zeros((90, *prior.negative.shape))
    predicted = prior.predict_noise(params, jnp.asarray(noisy, jnp.float32), jnp.asarray(t), tokens)
    np.testing.assert_allclose(predicted, np.sqrt(1 - a) * noisy / (a * v + 1 - a), atol=1e-5)
    for first in (0, 30, 60):
        part = slice(first, first + 30)
        expected = np.mean(a[part] * v / (a[part] * v + 1 - a[part]))
        assert np.mean((predicted[part] - noise[part]) ** 2) == pytest.approx(expected, rel=0.1)


def test_inpainting_depends_on_hole_and_picture(original):
    prior = load_embedded_prior(None, original)
    noisy, t, hole, masked = inputs(prior)
    first = guided_noise_inpaint(prior, noisy, t, hole, masked, 1.0)
    for other in ((1 - hole, masked), (hole, 0.5 * masked)):
        assert float(jnp.abs(guided_noise_inpaint(prior, noisy, t, *other, 1.0) - first).max()) > 1e-3


def test_guidance_needs_photos(original, photos):
    for given, changes in ((None, False), (photos, True)):
        prior = load_embedded_prior(given, original)
        noisy, t, *_ = inputs(prior)
        weak, strong = (guided_noise(prior, noisy, t, scale) for scale in (0.0, 7.5))
        assert bool(jnp.abs(weak - strong).max() > 1e-3) == changes


def test_distillation_is_compiled_once_for_all_scenes(original, photos):
    options = DistillationOptions(terms=("sds", "g1", "g2"), schedule=GuidanceSchedule(start=0, stop=10, ramp=1))
    image = jnp.asarray(photos[0])

    def loss(prior, image, key):
        return distillation_loss(key, options, prior, image, image, image[..., 0] > 0.3, 5)[0]

    gradient, gradients = jax.jit(jax.grad(loss, argnums=1)), []
    for given in (photos, photos[::-1]):
        prior = load_embedded_prior(given, original)
        gradients.append(gradient(prior, image, jax.random.key(0)))
    assert gradient._cache_size() == 1
    assert float(jnp.abs(gradients[0]).max()) > 0 and np.isfinite(np.asarray(gradients)).all()


def test_key_changes_nothing_in_encoding(original):
    prior = load_embedded_prior(None, original)
    pictures = jnp.ones((1, prior.image_size, prior.image_size, 3)) * 0.3
    drawn = prior.encode(prior.params, pictures, jax.random.key(1))
    np.testing.assert_array_equal(drawn, prior.encode(prior.params, pictures, None))


def test_half_precision_is_close(original, photos):
    whole, half = (load_embedded_prior(photos, original, dtype) for dtype in (jnp.float32, jnp.bfloat16))
    assert half.params["unet"]["conv_in.weight"].dtype == jnp.bfloat16
    noisy, t, *_ = inputs(whole)
    a, b = (guided_noise(prior, noisy, t, 1.0) for prior in (whole, half))
    assert b.dtype == jnp.float32
    assert float(jnp.linalg.norm(a - b) / jnp.linalg.norm(a)) < 0.05
    with pytest.raises(ValueError, match="float32 or bfloat16"):
        load_embedded_prior(photos, original, jnp.float16)


# Folders that are not what they should be.


def refusal(folder):
    with pytest.raises(PriorError) as caught:
        load_embedded_prior(None, folder)
    return str(caught.value)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_missing_files_are_named(folder):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "config.json").unlink()
    text = refusal(folder)
    assert "unet/config.json, vae/diffusion_pytorch_model.safetensors" in text and "train_prior.py" in text


def test_every_array_is_needed_and_no_other(folder):
    path = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    weights = load_file(path)
    weights["surprise"] = weights.pop("conv_out.bias")
    save_file(weights, path)
    assert "1 missing: conv_out.bias; 1 unknown: surprise" in refusal(folder)


@pytest.mark.parametrize(
    ("part", "change", "text"),
    [
        ("vae", {"_class_name": "AutoencoderKL"}, "_class_name must be 'PatchAutoencoder'"),
        ("vae", {"pooling": 3}, "power of two"),
        ("vae", {"latent_channels": 13}, "has 12 values"),
        ("vae", {"colors": 3}, "colors=3"),
        ("unet", {"out_channels": 4}, "gives 4"),
        ("unet", {"cross_attention_dim": None}, "attends to None"),
        ("unet", {"sample_size": 6}, "divisible by 4"),
    ],
)
def test_structures_that_do_not_fit(folder, part, change, text):
    edit_json(folder / part / "config.json", **change)
    assert text in refusal(folder)


@pytest.mark.parametrize(
    ("name", "factor", "text"),
    [("basis", 1.01, "orthonormal"), ("scale", -1.0, "positive"), ("variance", 0.0, "positive")],
)
def test_basis_that_cannot_be_undone(folder, name, factor, text):
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights[name] = weights[name] * np.float32(factor)
    save_file(weights, path)
    assert text in refusal(folder)


# What is shipped.


def test_shipped_weights_are_small_and_half_precision():
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert check_embedded_prior().image_size == 512
    kinds = {value.dtype for value in load_file(WEIGHTS / "unet" / "diffusion_pytorch_model.fp16.safetensors").values()}
    assert kinds == {np.dtype(np.float16)}


@pytest.fixture(scope="module")
def drawn_scene():
    """A picture that nobody trained on: a sky, a ground and a disk."""
    rows, columns = np.mgrid[0:512, 0:512] / 512
    sky, ground = np.array([0.55, 0.7, 0.9]), np.array([0.35, 0.4, 0.2])
    image = np.where(rows[..., None] < 0.5 + 0.1 * columns[..., None], sky + 0.2 * rows[..., None], ground)
    image = np.where(((rows - 0.6) ** 2 + (columns - 0.4) ** 2 < 0.03)[..., None], [0.6, 0.2, 0.1], image)
    return jnp.asarray(image, jnp.float32)


def test_shipped_prior_tells_noise_from_picture(drawn_scene):
    prior = load_embedded_prior(drawn_scene[None])
    latents = prior.encode(prior.params, drawn_scene[None], None)
    noise = jax.random.normal(jax.random.key(0), latents.shape)
    hole = jnp.zeros((*latents.shape[:3], 1)).at[:, :, 20:].set(1.0)
    masked = prior.encode(prior.params, drawn_scene.at[:, 320:].set(0.5)[None], None)
    for t in (350, 500, 650):
        times = jnp.array([t])
        noisy = add_noise(prior.alphas_cumprod, latents, noise, times)
        plain = float(jnp.mean(jnp.square(guided_noise(prior, noisy, times, 1.0) - noise)))
        filled = float(jnp.mean(jnp.square(guided_noise_inpaint(prior, noisy, times, hole, masked, 1.0) - noise)))
        # each channel by its own variance, the best that can be done without looking at neighbors
        a = float(prior.alphas_cumprod[t])
        variance = np.asarray(latents).var((0, 1, 2))
        alone = float(np.mean(a * variance / (a * variance + 1 - a)))
        assert filled < plain < alone
