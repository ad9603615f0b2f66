"""Our networks against torch's (diffusers, transformers): both read one tiny checkpoint of random weights.

Errors are relative: largest difference over largest value. float32 on both sides leaves about 1e-6; 1e-5 is asserted.
"""

import importlib
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_checkpoint import TEXT, UNET, VAE, write_network, write_pair

from ipsm_jax.priors import clip, vae
from ipsm_jax.priors.checkpoint import check_weights, read_weights
from ipsm_jax.priors.stable_diffusion import load_stable_diffusion
from ipsm_jax.priors.tokenizer import read_tokenizer
from ipsm_jax.priors.unet import UNetConfig, unet, unet_shapes

REASON = "parity with torch needs the extra `parity`: torch, diffusers and transformers"
torch = pytest.importorskip("torch", reason=REASON)
with warnings.catch_warnings():  # these packages warn about each other when imported
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip("diffusers", reason=REASON)
    transformers = pytest.importorskip("transformers", reason=REASON)
    for lazy in ("UNet2DConditionModel", "AutoencoderKL"):
        getattr(diffusers, lazy)
    for lazy in ("CLIPTextModel", "CLIPTokenizer"):
        getattr(transformers, lazy)

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("own_caches")]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def prior(folders):
    return load_stable_diffusion(*folders, "a photo of the thing", "blurry, unrealistic", jnp.float32)


def relative_error(ours, theirs):
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def to_torch(array):
    """NHWC to NCHW."""
    return torch.from_numpy(np.asarray(array).transpose(0, 3, 1, 2).copy())


def from_torch(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_unet(folders, prior):
    noisy, t = normal(0, 2, 8, 8, 4), jnp.array([17, 803])
    text = jnp.stack([prior.negative, prior.positive])
    mask = (normal(1, 2, 8, 8, 1) > 0).astype(jnp.float32)
    masked = normal(2, 2, 8, 8, 4)
    plain, inpainting = (diffusers.UNet2DConditionModel.from_pretrained(f, subfolder="unet") for f in folders)
    context, steps = torch.from_numpy(np.array(text)), torch.from_numpy(np.array(t))
    with torch.no_grad():
        theirs = plain(to_torch(noisy), steps, context).sample
        inputs = torch.cat([to_torch(a) for a in (noisy, mask, masked)], 1)
        theirs_inpaint = inpainting(inputs, steps, context).sample
    ours = prior.predict_noise(prior.params, noisy, t, text)
    ours_inpaint = prior.predict_noise_inpaint(prior.params, noisy, t, mask, masked, text)
    assert relative_error(ours, from_torch(theirs)) < TOLERANCE
    assert relative_error(ours_inpaint, from_torch(theirs_inpaint)) < TOLERANCE


VARIANTS = {
    # the way of Stable Diffusion 2: a head count per resolution, linear layers around the transformers, 3 resolutions
    "linear projection": {
        "attention_head_dim": [1, 2, 4],
        "block_out_channels": [8, 16, 16],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "layers_per_block": [1, 2, 1],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "no transformers": {
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "mid_block_type": "UNetMidBlock2D",
    },
    "sines first": {"flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-4},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_unet_of_another_structure(name, tmp_path):
    settings = {**UNET, **VARIANTS[name]}
    config = UNetConfig.from_json(settings)
    write_network(tmp_path / "unet", settings, unet_shapes(config), 3)
    theirs = diffusers.UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    params = read_weights(check_weights(tmp_path / "unet", unet_shapes(config)), np.float32)
    noisy, text = normal(0, 1, 8, 12, 4), normal(1, 1, 5, 16)
    with torch.no_grad():
        expected = theirs(to_torch(noisy), 250, torch.from_numpy(np.array(text))).sample
    ours = unet(config, params, noisy, jnp.array([250]), text)
    assert relative_error(ours, from_torch(expected)) < TOLERANCE


def test_unet_without_text(tmp_path):
    """Transformers that attend to the picture alone: for torch, cross-attention whose output is multiplied by 0."""
    with_text = UNetConfig.from_json(UNET)
    write_network(tmp_path / "unet", UNET, unet_shapes(with_text), 4)
    theirs = diffusers.UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    for name, parameter in theirs.named_parameters():
        if "attn2.to_out.0" in name:
            parameter.data.zero_()
    params = read_weights(check_weights(tmp_path / "unet", unet_shapes(with_text)), np.float32)
    config = UNetConfig.from_json({**UNET, "cross_attention_dim": None})
    needed = {name: params[name] for name in unet_shapes(config)}
    assert len(needed) == len(params) - 4 * 7  # 4 transformers, each with a norm, 3 projections and an output
    noisy = normal(0, 2, 8, 8, 4)
    with torch.no_grad():
        expected = theirs(to_torch(noisy), torch.tensor([1, 900]), torch.ones(2, 3, 16)).sample
    assert relative_error(unet(config, needed, noisy, jnp.array([1, 900])), from_torch(expected)) < TOLERANCE


def test_vae_mean_sample_and_decode(folders, prior):
    theirs = diffusers.AutoencoderKL.from_pretrained(folders[0], subfolder="vae")
    images, key = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3)), jax.random.key(5)
    with torch.no_grad():
        posterior = theirs.encode(2 * to_torch(images) - 1).latent_dist
        mean = 0.18215 * from_torch(posterior.mean)
        noise = np.asarray(jax.random.normal(key, mean.shape))
        sample = mean + 0.18215 * from_torch(posterior.std) * noise
        pictures = (from_torch(theirs.decode(to_torch(mean) / 0.18215).sample) / 2 + 0.5).clip(0, 1)
    assert relative_error(prior.encode(prior.params, images, None), mean) < TOLERANCE
    assert relative_error(prior.encode(prior.params, images, key), sample) < TOLERANCE
    assert relative_error(prior.decode(prior.params, jnp.asarray(mean)), pictures) < TOLERANCE


def test_vae_gradient(folders, prior):
    """The gradient that score distillation sends through the encoder, posterior noise included."""
    theirs = diffusers.AutoencoderKL.from_pretrained(folders[0], subfolder="vae")
    images, key = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3)), jax.random.key(5)
    cotangent = normal(6, 2, 8, 8, 4)
    noise = to_torch(jax.random.normal(key, (2, 8, 8, 4)))
    leaf = to_torch(images).requires_grad_()
    posterior = theirs.encode(2 * leaf - 1).latent_dist
    (0.18215 * (posterior.mean + posterior.std * noise) * to_torch(cotangent)).sum().backward()
    ours = jax.grad(lambda x: jnp.sum(prior.encode(prior.params, x, key) * cotangent))(images)
    assert relative_error(ours, from_torch(leaf.grad)) < TOLERANCE


def test_vae_with_old_attention_names(folders, prior, tmp_path):
    """Checkpoints of before diffusers 0.18 call the attention layers query, key, value and proj_attn."""
    folder = tmp_path / "vae"
    write_network(folder, VAE, vae.vae_shapes(vae.VAEConfig.from_json(VAE)), 1)
    path = folder / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, values in load_file(path).items():
        for now, then in old.items():
            name = name.replace(f".{now}.", f".{then}.")
        renamed[name] = values
    assert sum("query" in name for name in renamed) == 4
    save_file(renamed, path, metadata={"format": "pt"})
    theirs = diffusers.AutoencoderKL.from_pretrained(folder)
    config = vae.VAEConfig.from_json(VAE)
    checked = check_weights(folder, vae.vae_shapes(config), rename=vae.current_name)
    images = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
    with torch.no_grad():
        mean = 0.18215 * from_torch(theirs.encode(2 * to_torch(images) - 1).latent_dist.mean)
    assert relative_error(vae.encode(config, read_weights(checked, np.float32), images), mean) < TOLERANCE


def test_text_states(folders, prior):
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folders[0] / "tokenizer")
    encoder = transformers.CLIPTextModel.from_pretrained(folders[0] / "text_encoder")
    for text, ours in (("a photo of the thing", prior.positive), ("blurry, unrealistic", prior.negative)):
        tokens = tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            theirs = encoder(tokens).last_hidden_state[0]
        assert relative_error(ours, theirs) < TOLERANCE


def test_text_states_with_plain_gelu(tmp_path):
    settings = {**TEXT, "hidden_act": "gelu", "layer_norm_eps": 1e-3}
    config = clip.TextConfig.from_json(settings)
    write_network(tmp_path / "text_encoder", settings, clip.text_shapes(config), 7)
    encoder = transformers.CLIPTextModel.from_pretrained(tmp_path / "text_encoder")
    params = read_weights(check_weights(tmp_path / "text_encoder", clip.text_shapes(config)), np.float32)
    tokens = np.random.default_rng(0).integers(0, TEXT["vocab_size"] - 1, (2, 20)).astype(np.int32)
    with torch.no_grad():
        theirs = encoder(torch.from_numpy(tokens.astype(np.int64))).last_hidden_state
    assert relative_error(clip.text_states(config, params, jnp.asarray(tokens)), theirs) < TOLERANCE


def test_schedule(folders, prior):
    config = json.loads((folders[0] / "scheduler" / "scheduler_config.json").read_text())
    scheduler = diffusers.DDPMScheduler(
        config["num_train_timesteps"], config["beta_start"], config["beta_end"], config["beta_schedule"]
    )
    # they sum in float32, we in float64
    assert relative_error(prior.alphas_cumprod, scheduler.alphas_cumprod) < TOLERANCE


STRINGS = [
    "",
    " ",
    "a photo of the thing, realistic, 8k",
    "Fern in a POT -- it's here; they're thinking, I'll re-shoot",
    "tabs\tand\nlines\r\n  spaces\u00a0\u3000here",
    "don't can't 'Tis 'ReLU 'd'm've rock'n'roll ''s",
    "1234 56.78 x2 3rd ½ Ⅷ ٣٤ 一二三",
    "naïve café über Ångström e\u0301 ﬁ ß İstanbul ΟΔΟΣ",
    "日本語とEnglishの混在 中文字 한국어 русский العربية हिन्दी ไทย",
    "emoji 🙂👩‍👩‍👧 ❤️ flags 🇫🇷 math ∑∫√ arrows →",
    "zero\u200bwidth bad\x00byte \x07bell \ufffd replacement \u2028 line",
    "<|endoftext|> inside <|startoftext|>x<|endoftext|>y !<|endoftext|> <|ENDOFTEXT|> <|other|>",
    "under_score __init__ a.b.c/d?e=f&g#h user@example.com \\ | ~ ` ^ {}[]()<>",
    "photo photograph photos are area there where thing things " * 20,
    "'\u017f 'S 'RE \u01c5 Straße K",
]


@pytest.mark.parametrize("text", STRINGS)
def test_tokenizer(folders, text):
    theirs = transformers.CLIPTokenizer.from_pretrained(folders[0] / "tokenizer")
    ours = read_tokenizer(folders[0] / "tokenizer")
    assert ours.tokens(text) == theirs(text, add_special_tokens=False).input_ids
    padded = theirs(text, padding="max_length", max_length=77, truncation=True).input_ids
    assert ours.encode(text).tolist() == padded


def test_tokenizer_on_random_characters(folders):
    theirs = transformers.CLIPTokenizer.from_pretrained(folders[0] / "tokenizer")
    ours = read_tokenizer(folders[0] / "tokenizer")
    rng = np.random.default_rng(0)
    ranges = np.array(
        [[32, 127], [0xA0, 0x250], [0x370, 0x530], [0x2000, 0x2700], [0x3040, 0x9FFF], [0x1F300, 0x1F64F]]
    )
    for _ in range(300):
        low, high = ranges[rng.integers(len(ranges), size=12)].T
        text = "".join(map(chr, rng.integers(low, high)))
        assert ours.tokens(text) == theirs(text, add_special_tokens=False).input_ids, repr(text)


def test_what_is_compared_is_what_was_asked_for():
    """The versions that the extra pins; others have other code."""
    found = {name: importlib.import_module(name).__version__ for name in ("diffusers", "transformers")}
    assert found == {"diffusers": "0.39.0", "transformers": "4.57.6"}
