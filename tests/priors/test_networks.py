"""The networks without torch: the real checkpoint's tensors, and properties that hold for any weights."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_checkpoint import REAL_TEXT, REAL_UNET, REAL_VAE, UNET, VAE

from ipsm_jax.priors import clip, vae
from ipsm_jax.priors.checkpoint import file_shape
from ipsm_jax.priors.config import PriorError
from ipsm_jax.priors.layers import attention, declared_shapes, group_norm, linear, stored
from ipsm_jax.priors.unet import UNetConfig, unet, unet_shapes
from ipsm_jax.priors.vae import VAEConfig

pytestmark = pytest.mark.usefixtures("own_caches")


@pytest.mark.parametrize(
    ("shapes", "count", "parameters", "digest"),
    [
        (lambda: unet_shapes(UNetConfig.from_json(REAL_UNET)), 686, 859_520_964, "06ab0a594a10b99f"),
        (
            lambda: unet_shapes(UNetConfig.from_json({**REAL_UNET, "in_channels": 9})),
            686,
            859_535_364,
            "2737c4bf65acefd5",
        ),
        (lambda: vae.vae_shapes(VAEConfig.from_json(REAL_VAE)), 248, 83_653_863, "a8eb7356226250e7"),
        (lambda: clip.text_shapes(clip.TextConfig.from_json(REAL_TEXT)), 196, 123_060_480, "3a39d8acef0ccd33"),
    ],
    ids=["unet", "inpainting unet", "vae", "text encoder"],
)
def test_real_checkpoint(shapes, count, parameters, digest):
    """Names and shapes are exactly those of the published files (digest of the sorted lines "name [shape]")."""
    found = {name: file_shape(shape) for name, shape in shapes().items()}
    assert len(found) == count
    assert sum(int(np.prod(shape)) for shape in found.values()) == parameters
    lines = "\n".join(sorted(f"{name} {list(shape)}" for name, shape in found.items()))
    assert hashlib.sha256(lines.encode()).hexdigest().startswith(digest)


def test_an_array_asked_for_twice_is_an_error():
    def network(w):
        return linear(w, "a", linear(w, "a", jnp.zeros((1, 3)), 3), 3)

    with pytest.raises(ValueError, match=r"uses a\.weight twice"):
        declared_shapes(network)


def test_attention_is_a_weighted_mean_of_values():
    """Against the sums written out, per head; causal: row i depends on the first i + 1 tokens only."""
    query, key, value = jax.random.normal(jax.random.key(0), (3, 1, 4, 6))
    for causal in (False, True):
        expected = np.zeros((4, 6))
        for head in range(2):
            part = slice(3 * head, 3 * head + 3)
            for i in range(4):
                seen = i + 1 if causal else 4
                scores = np.exp(np.asarray(key[0, :seen, part]) @ np.asarray(query[0, i, part]) / np.sqrt(3))
                expected[i, part] = scores / scores.sum() @ np.asarray(value[0, :seen, part])
        np.testing.assert_allclose(attention(query, key, value, 2, causal=causal)[0], expected, atol=1e-6)


def test_group_norm_of_large_offsets():
    """Variance is taken about the mean, so that it survives an offset of a thousand deviations."""
    x = 1000.0 + jax.random.normal(jax.random.key(0), (1, 8, 8, 4))
    params = {"n.weight": jnp.ones(4), "n.bias": jnp.zeros(4)}
    y = np.asarray(group_norm(stored(params), "n", x, 2, 1e-5)).reshape(64, 2, 2)
    np.testing.assert_allclose(y.mean((0, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(y.std((0, 2)), 1, atol=1e-3)


CONFIG = UNetConfig.from_json(UNET)


def test_wrong_sizes_are_refused():
    sample, t, text = jnp.zeros((1, 8, 8, 4)), jnp.zeros(1, jnp.int32), jnp.zeros((1, 4, 16))
    with pytest.raises(ValueError, match=r"\(batch, height, width, 4\) .* divisible by 2, got \(1, 8, 7, 4\)"):
        unet(CONFIG, {}, sample[:, :, :7], t, text)
    with pytest.raises(ValueError, match="takes text states of 16 channels, got none"):
        unet(CONFIG, {}, sample, t, None)
    with pytest.raises(ValueError, match="takes text states of no channels, got 16"):
        unet(UNetConfig.from_json({**UNET, "cross_attention_dim": None}), {}, sample, t, text)
    with pytest.raises(ValueError, match="sides divisible by 2, got"):
        vae.encode(VAEConfig.from_json(VAE), {}, jnp.zeros((1, 15, 16, 3)))
    with pytest.raises(ValueError, match="at most 77 tokens, got 78"):
        clip.text_states(clip.TextConfig.from_json(REAL_TEXT), {}, jnp.zeros((1, 78), jnp.int32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"addition_embed_type": "text_time"}, r"addition_embed_type='text_time' \(implemented: None\)"),  # SDXL
        ({"some_new_setting": 3}, r"some_new_setting=3 \(unknown\)"),
        ({"act_fn": "gelu"}, "act_fn='gelu'"),
        (
            {"block_out_channels": [8, -1]},
            r"block_out_channels must be a list of positive integers up to \d+, found \[8, -1\]",
        ),
        ({"layers_per_block": [1, 1, 1]}, "layers_per_block must be one integer or a list of 2"),
        ({"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}, "must list 2 of CrossAttnDownBlock2D, DownBlock2D"),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "UNetMidBlock2DSimpleCrossAttn"),
        ({"norm_num_groups": 3}, "8 channels cannot be split into 3 groups and 2 heads"),
        ({"sample_size": "8"}, "sample_size must be a positive integer, found '8'"),
    ],
)
def test_unet_settings_that_are_not_implemented(changes, message):
    with pytest.raises(PriorError, match=message) as caught:
        UNetConfig.from_json({**UNET, **changes}, "some/unet/config.json")
    assert "some/unet/config.json" in str(caught.value)


def test_other_settings_that_are_not_implemented():
    with pytest.raises(PriorError, match="cross_attention_dim is missing"):
        UNetConfig.from_json({k: v for k, v in UNET.items() if k != "cross_attention_dim"})
    with pytest.raises(PriorError, match="use_quant_conv=False"):
        VAEConfig.from_json({**VAE, "use_quant_conv": False})
    with pytest.raises(PriorError, match="scaling_factor must be a positive number, found 0"):
        VAEConfig.from_json({**VAE, "scaling_factor": 0})
    with pytest.raises(PriorError, match="hidden_act must be one of quick_gelu, gelu, found 'relu'"):
        clip.TextConfig.from_json({**REAL_TEXT, "hidden_act": "relu"})
    with pytest.raises(PriorError, match="model_type must be clip_text_model, found 't5'"):
        clip.TextConfig.from_json({**REAL_TEXT, "model_type": "t5"})
