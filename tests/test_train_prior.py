"""Training and judging the embedded prior: samples, holes, steps that can be taken up, export, baselines, sampling."""

import argparse
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ipsm_jax.priors.diffusion import scaled_linear_schedule
from ipsm_jax.priors.embedded.descriptor import CELLS
from ipsm_jax.priors.embedded.load import load_embedded_prior
from ipsm_jax.priors.embedded.patches import PatchConfig, cut, decode_pooled, encode_pooled
from ipsm_jax.priors.exact import gaussian_prior
from ipsm_jax.priors.unet import UNetConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import evaluate_prior
import train_prior
from prior import basis, classical, export, masks, network, photos, samples, sampling, training, wiener

sys.path.pop(0)

CONFIG = PatchConfig(2, 4, 6)
STRUCTURE = network.unet_json([16, 16], 6, 8)
SETUP = training.Setup(UNetConfig.from_json(STRUCTURE), CONFIG, 4, 0.02, 0)
ALPHAS = jnp.asarray(scaled_linear_schedule())


@pytest.fixture(scope="module")
def squares():
    """Smooth random pictures, so that there is something to learn."""
    small = np.random.default_rng(0).uniform(0, 255, (6, 2, 8, 8, 3))
    big = jax.image.resize(jnp.asarray(small), (6, 2, 256, 256, 3), "cubic")
    return np.asarray(jnp.clip(big, 0, 255)).astype(np.uint8)


@pytest.fixture(scope="module")
def vae(squares):
    return {name: jnp.asarray(value) for name, value in basis.fit_basis(squares, CONFIG)[0].items()}


# Photos, crops, holes, timesteps.


def test_two_ends_of_a_photo_and_small_ones_left_out(tmp_path):
    wide = np.zeros((200, 300, 3), np.uint8)
    wide[:, :100], wide[:, 200:] = (255, 0, 0), (0, 0, 255)
    Image.fromarray(wide).save(tmp_path / "b.png")
    Image.fromarray(wide[:150]).save(tmp_path / "a.png")
    found, names = photos.read_squares(photos.list_photos(tmp_path))
    assert names == ["b.png"] and found.shape == (1, 2, 256, 256, 3)
    assert found[0, 0, 128, 5, 0] == 255 and found[0, 0, :, 200:].max() < 40
    assert found[0, 1, 128, 250, 2] == 255 and found[0, 1, :, :50].max() < 40
    with pytest.raises(SystemExit, match="no pictures"):
        photos.list_photos(tmp_path / "b.png")


def test_crops_are_squeezed_parts_of_the_photo():
    """In a picture that tells its own coordinates, a crop is a linear map, upright, inside and within the range."""
    place = np.linspace(0, 1, 256)
    ramp = np.stack([*np.meshgrid(place, place, indexing="ij"), np.zeros((256, 256))], axis=-1)
    data = jnp.asarray(np.broadcast_to(np.round(255 * ramp), (1, 2, 256, 256, 3)).astype(np.uint8))
    crop = jax.jit(lambda key, flip: samples.random_crop(key, data, jnp.asarray(0), flip, 32))
    extents = []
    for seed in range(12):
        image = np.asarray(crop(jax.random.key(seed), jnp.asarray(False)))
        inner = image[4:-4, 4:-4]
        steps = np.diff(inner[..., 0], axis=0).mean(), np.diff(inner[..., 1], axis=1).mean()
        extents.append(np.array(steps) * 32 * 255)
        assert np.abs(inner[..., 0] - inner[:, :1, 0]).max() < 0.01  # rows are rows
        mirrored = np.asarray(crop(jax.random.key(seed), jnp.asarray(True)))
        np.testing.assert_array_equal(mirrored, image[:, ::-1])
    extents = np.array(extents)
    assert extents.min() > samples.SMALLEST_CROP - 3 and extents.max() < 259
    assert extents[:, 0].std() > 15 and (extents[:, 1] / extents[:, 0]).std() > 0.05


def test_timesteps_have_the_shares_that_are_said():
    drawn = np.concatenate([samples.spread_timesteps(jax.random.key(i), 100) for i in range(100)])
    assert drawn.min() >= 0 and drawn.max() <= 999
    inside = (drawn >= 250) & (drawn < 750)
    assert inside.mean() == pytest.approx(samples.JUDGED_SHARE, abs=0.005)
    for part, (low, high) in ((drawn[inside], (250, 750)), (drawn[drawn < 250], (0, 250)), (drawn, (0, 1000))):
        assert part.mean() == pytest.approx((low + high - 1) / 2, abs=5)
    assert (drawn < 250).sum() == pytest.approx((drawn >= 750).sum(), rel=0.05)


def test_holes_are_everything_or_parts():
    known = np.asarray(jax.jit(jax.vmap(lambda k: masks.random_known(k, 32)))(jax.random.split(jax.random.key(0), 600)))
    shares = known.mean((1, 2))
    assert (shares == 0).mean() == pytest.approx(masks.ALL_HOLE, abs=0.08)
    part = shares[(shares > 0) & (shares < 1)]
    assert len(part) > 250 and part.min() < 0.3 and part.max() > 0.97
    # holes lie at borders more often than inside, but anywhere
    where = 1 - known[(shares > 0)].mean(0)
    assert where[:2].mean() > where[14:18, 14:18].mean() > 0.1
    assert 0.4 < float(masks.partly_known(jax.random.key(1), 32).mean()) < 0.95


def test_samples_show_what_the_distillation_loss_shows(squares, vae):
    view = jnp.asarray(squares[:2, 0, ::8, ::8], jnp.float32) / 255
    known = jnp.ones((2, 32, 32), bool).at[:, :, 16:].set(False)
    batch = samples.make_batch(view, known, jnp.zeros((2, CELLS**2, 12)), jnp.array([3, 4]), CONFIG, vae)
    np.testing.assert_array_equal(batch.hole[0, :, :, 0], np.arange(8)[None, :] >= 4 + np.zeros((8, 1)))
    np.testing.assert_array_equal(batch.masked[:, :, :4], batch.latents[:, :, :4])
    gray = encode_pooled(CONFIG, vae, jnp.full((1, 4, 4, 3), 0.5))
    np.testing.assert_allclose(batch.masked[:, :, 4:], jnp.broadcast_to(gray, (2, 8, 4, 6)), atol=1e-6)


def test_basis_has_unit_variance_and_keeps_most(squares, vae):
    arrays, share = basis.fit_basis(squares, CONFIG)
    np.testing.assert_allclose(arrays["basis"] @ arrays["basis"].T, np.eye(6), atol=1e-6)
    halved = jnp.asarray(squares[:, 0], jnp.float32).reshape(6, 128, 2, 128, 2, 3).mean((2, 4)) / 255
    latents = np.asarray(encode_pooled(CONFIG, vae, halved))
    assert latents.var((0, 1, 2)).mean() == pytest.approx(1, rel=1e-3)
    assert np.all(np.diff(latents.var((0, 1, 2))) < 0)
    lost = np.square(decode_pooled(CONFIG, vae, jnp.asarray(latents)) - halved).mean()
    total = np.asarray(cut(halved, 4)).var((0, 1, 2)).mean()
    assert lost / total == pytest.approx(1 - share, rel=0.1) and share > 0.9


# Training.


def run(state, steps, squares, vae):
    losses = []
    for _ in range(steps):
        state, loss = training.train_step(SETUP, state, vae, ALPHAS, jnp.asarray(squares))
        losses.append(float(loss))
    return state, losses


def test_training_learns_and_goes_on_bit_for_bit(squares, vae, tmp_path):
    through, losses = run(training.first_state(SETUP), 60, squares, vae)
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])

    path, same = tmp_path / "state.safetensors", training.kept(SETUP)
    first, _ = run(training.first_state(SETUP), 25, squares, vae)
    training.save_state(path, first, same | training.changeable(SETUP))
    loaded, found = training.load_state(path, training.first_state(SETUP), same)
    assert found == same | {"batch": "4", "rate": "0.02"}
    again, later = run(loaded, 35, squares, vae)
    assert later == losses[25:]
    jax.tree.map(np.testing.assert_array_equal, again, through)

    for name, value in same.items():
        with pytest.raises(SystemExit, match=re.escape(f"{name} {value} there, other asked for")):
            training.load_state(path, first, {**same, name: "other"})
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SystemExit, match="damaged"):
        training.load_state(path, first, same)


def test_header_says_what_decides(monkeypatch):
    assert training.kept(SETUP)["seed"] == "0" and training.kept(SETUP)["channels"] == "[16, 16]"
    decides = {
        "LEAST_SIGNAL": "loss", "AVERAGE_POWER": "average", "FLAT_UNTIL": "rate_falls", "WARMUP": "rate_falls",
        "DECAY": "optimizer", "SECOND_MOMENT": "optimizer", "LARGEST_GRADIENT": "optimizer", "WHITENING": "latents",
        "DROPPED": "samples", "JUDGED_SHARE": "samples", "SMALLEST_CROP": "samples", "ALL_HOLE": "samples",
    }  # fmt: skip
    usual = training.kept(SETUP)
    for constant, entry in decides.items():
        with monkeypatch.context() as patch:
            patch.setattr(training, constant, 0.125)
            changed = training.kept(SETUP)
        assert [name for name in usual if changed[name] != usual[name]] == [entry]
    other = SETUP._replace(batch=8, rate=0.5)
    assert training.kept(other) == usual and training.changeable(other) == {"batch": "8", "rate": "0.5"}


def test_checkpoint_whose_header_says_less_is_read(tmp_path):
    path, first = tmp_path / "state.safetensors", training.first_state(SETUP)
    training.save_state(path, first, {"seed": "0", "channels": "[16, 16]", "photos": "6"})
    same = {**training.kept(SETUP), "photos": "6"}
    state, found = training.load_state(path, training.first_state(SETUP._replace(seed=1)), same)
    jax.tree.map(np.testing.assert_array_equal, state, first)
    (sentence,) = train_prior._changes(path, 7, found, same | {"batch": "4"})
    assert "does not say its latents, samples, loss, optimizer, rate_falls, average, batch" in sentence
    with pytest.raises(SystemExit, match="photos 6 there, 7 asked for"):
        training.load_state(path, first, {**same, "photos": "7"})


def test_changes_of_batch_and_rate_are_said(tmp_path):
    header = training.kept(SETUP) | training.changeable(SETUP)
    assert train_prior._changes(tmp_path, 7, header, header) == []
    (sentence,) = train_prior._changes(tmp_path, 7, {**header, "batch": "2"}, header)
    assert sentence == "batch was 2 until step 7, and is 4 from now on"


def test_minutes_left_are_those_of_what_ends_first():
    args = argparse.Namespace(minutes=120.0, steps=10**7, batch=16)
    assert train_prior._minutes_left(args, 100, 30.0, None) == 90
    assert train_prior._minutes_left(args, 100, 30.0, 16.0) == 90
    args.steps = 700
    assert train_prior._minutes_left(args, 100, 30.0, 16.0) == 10  # a step a second
    assert train_prior._minutes_left(args, 700, 121.0, 16.0) == 0


def test_average_weights_steps_by_their_ninth_power(squares, vae):
    state, seen = training.first_state(SETUP), []
    for _ in range(6):
        state, _ = run(state, 1, squares, vae)
        seen.append(np.asarray(state.params["conv_in.weight"]))
    # a product of (1 - 1/i)^10 is (i / n)^10, and its differences are the weights
    powers = (np.arange(7) / 6) ** (training.AVERAGE_POWER + 1)
    expected = np.tensordot(np.diff(powers), np.array(seen), 1)
    np.testing.assert_allclose(state.average["conv_in.weight"], expected, atol=1e-6)


def test_export_is_what_is_loaded(squares, vae, tmp_path):
    params = {name: value + 0.1 for name, value in network.first_weights(SETUP.unet, 5).items()}
    # the order in memory must not matter
    export.export(tmp_path, STRUCTURE, params, CONFIG, {name: np.asfortranarray(value) for name, value in vae.items()})
    prior = load_embedded_prior(np.ones((1, 40, 50, 3), np.float32), tmp_path)
    assert prior.image_size == 8 * 8 and prior.latent_shape == (8, 8, 6)
    jax.tree.map(np.testing.assert_array_equal, prior.params["vae"], dict(vae))
    for name, value in prior.params["unet"].items():
        np.testing.assert_array_equal(value, np.asarray(params[name]).astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(prior.alphas_cumprod, ALPHAS)
    with pytest.raises(ValueError, match=r"float16 cannot hold: conv_in\.bias"):
        export.export(tmp_path, STRUCTURE, {**params, "conv_in.bias": jnp.full(16, 1e6)}, CONFIG, vae)


# What it is judged by.


def test_log_tells_with_what_it_was_trained(tmp_path):
    log = tmp_path / "log.jsonl"

    def told(*starts):
        """Of trainings that started at a step with a batch, and each got 100 steps further."""
        lines = []
        for step, batch in starts:
            lines += [{"step": step, "settings": {"seed": "0", "batch": batch}}, {"step": step + 100, "loss": 0.5}]
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return evaluate_prior.settings_text(evaluate_prior.read_log(log)["settings"])

    assert told((0, "16"), (100, "16")) == "From step 0: seed 0; batch 16."
    assert told((0, "16"), (1000, "32")) == "From step 0: seed 0; batch 16. From step 1,000: batch 32."
    assert told((0, "16"), (1000, "32"), (1000, "16")) == "From step 0: seed 0; batch 16."  # killed before it was kept
    assert told((0, "16"), (1000, "32"), (900, "64")) == "From step 0: seed 0; batch 16. From step 900: batch 64."
    assert told((50, "16")) == "From step 50: seed 0; batch 16. The log says nothing of the steps before."
    assert evaluate_prior.settings_text([]) == ""


def test_linear_denoiser_is_exact_for_gaussian_fields():
    """Against the formula on the whole covariance matrix, and its expected error against the measured one."""
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(3, 3)) * 0.7
    fields = rng.normal(size=(4000, 4, 4, 3)) @ mixed
    fields = 0.6 * fields + 0.4 * np.roll(fields, 1, axis=2) + 0.3
    spectrum = wiener.fit_spectrum(fields)
    alpha, noise = np.full(4000, 0.4), rng.normal(size=fields.shape)
    noisy = np.sqrt(0.4) * fields + np.sqrt(0.6) * noise
    predicted = wiener.predict(spectrum, noisy, alpha)
    assert np.mean((predicted - noise) ** 2) == pytest.approx(wiener.expected_error(spectrum, alpha), rel=0.01)

    # the covariance of the fields, known: every place is 0.6 of its own draw and 0.4 of its left neighbor's
    shift = np.roll(np.eye(4), 1, axis=0)
    row = 0.6 * np.eye(4) + 0.4 * shift
    covariance = np.kron(np.kron(np.eye(4), row @ row.T), mixed.T @ mixed)
    gain = np.sqrt(0.6) * np.linalg.inv(0.4 * covariance + 0.6 * np.eye(48))
    expected = ((noisy - np.sqrt(0.4) * 0.3).reshape(-1, 48) @ gain).reshape(noisy.shape)
    assert np.abs(predicted - expected).max() < 0.15
    assert np.mean((predicted - expected) ** 2) < 0.002  # what is left is the estimate of the spectrum

    alone = wiener.channels_only(fields)
    v = fields.var((0, 1, 2))
    np.testing.assert_allclose(
        wiener.predict(alone, noisy, alpha),
        np.sqrt(0.6) * (noisy - np.sqrt(0.4) * fields.mean((0, 1, 2))) / (0.4 * v + 0.6),
        atol=1e-9,
    )


def test_harmonic_fill_continues_planes_and_stays_between_its_borders():
    rows, columns = np.mgrid[0:20, 0:24] / 24
    plane = np.stack([rows, columns, 1 - rows], axis=-1)
    known = np.ones((20, 24), bool)
    known[5:12, 6:20] = False
    np.testing.assert_allclose(classical.harmonic_fill(plane * known[..., None], known), plane, atol=1e-9)
    rng = np.random.default_rng(0)
    image, scattered = rng.uniform(size=(20, 24, 3)), rng.uniform(size=(20, 24)) > 0.7
    filled = classical.harmonic_fill(image, scattered)
    np.testing.assert_array_equal(filled[scattered], image[scattered])
    for i, j in np.argwhere(~scattered):
        neighbors = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
        around = [filled[a, b] for a, b in neighbors if 0 <= a < 20 and 0 <= b < 24]
        np.testing.assert_allclose(filled[i, j], np.mean(around, axis=0), atol=1e-9)
    flat = classical.mean_fill(image, scattered)
    assert np.abs(flat[~scattered] - image[scattered].mean(0)[None]).max() < 1e-12


def test_sampling_draws_from_the_prior_that_it_is_given():
    """With a prior known exactly: samples have its mean and variance, and keep what is known."""
    rng = np.random.default_rng(0)
    mean, deviation = rng.uniform(-0.5, 0.5, (2, 2, 3)), rng.uniform(0.1, 0.4, 12)
    prior = gaussian_prior(mean.astype(np.float32), np.diag(deviation**2).astype(np.float32))
    tokens = jnp.broadcast_to(prior.positive, (2000, 2, 2, 3))
    drawn = np.asarray(sampling.sample(jax.random.key(0), prior, tokens, 1.0, steps=500)).reshape(2000, 12)
    np.testing.assert_allclose(drawn.mean(0), mean.ravel(), atol=0.04)
    np.testing.assert_allclose(drawn.std(0), deviation, rtol=0.1)
    hole = jnp.ones((2, 2, 2, 1)).at[:, 0, 0].set(0.0)
    known = jnp.full((2, 2, 2, 3), 0.25)
    filled = sampling.sample(jax.random.key(1), prior, tokens[:2], 1.0, hole, known, steps=100)
    np.testing.assert_allclose(filled[:, 0, 0], 0.25, atol=0.01)
    assert float(jnp.abs(filled[0, 1:] - filled[1, 1:]).min()) > 0


def test_guided_samples_go_beyond_the_described(vae):
    prior = gaussian_prior(np.zeros((2, 2, 3), np.float32), np.eye(12, dtype=np.float32) * 0.01)
    tokens = jnp.full((4, 2, 2, 3), 0.2)
    none, described, guided = (
        float(sampling.sample(jax.random.key(0), prior, tokens, scale, steps=50).mean()) for scale in (0.0, 1.0, 2.0)
    )
    assert none == pytest.approx(0, abs=0.03) and described == pytest.approx(0.2, abs=0.03)
    assert guided == pytest.approx(0.4, abs=0.05)


def test_card_gets_the_figures(tmp_path):
    log = tmp_path / "log.jsonl"
    lines = [{"step": 50, "loss": 0.5, "samples_per_second": 9.0}, {"step": 60, "val_plain": 0.2, "val_inpaint": 0.1}]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = evaluate_prior.read_log(log)
    losses = {"step": 60, "val_plain": 0.2, "val_inpaint": 0.1}
    assert found == {"steps": 60, "samples_per_second": 9.0, "settings": [], **losses}
    whole, partly = evaluate_prior.WHOLE, evaluate_prior.PARTLY
    rows = [
        {"first": i, "last": i + 99, **dict.fromkeys(whole, value), **dict.fromkeys(partly, value + 0.5)}
        for i, value in ((0, 0.1), (100, 0.2))
    ]
    results = {"weights": 1000, "megabytes": 2.5, "photos": {"val": 95}, "training": found, "loss": rows}
    text = evaluate_prior.tables({**results, "inpainting": {"harmonic": {"psnr": 20.0, "lpips": 0.25}}})
    assert "trained for 60 steps" in text and "| 0-99 | 0.1000 |" in text and "| all | 0.1500 |" in text
    assert "| 0-99 | 0.6000 |" in text and "| all | 0.6500 |" in text
    assert "| harmonic | 20.00 | 0.2500 |" in text
    card = tmp_path / "README.md"
    card.write_text("before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n")
    evaluate_prior.put_into_card(card, text)
    evaluate_prior.put_into_card(card, text)
    assert card.read_text().count("| harmonic |") == 1 and "old" not in card.read_text()
    assert card.read_text().startswith("before\n") and card.read_text().endswith("\nafter\n")
