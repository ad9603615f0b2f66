"""Write a tiny Stable Diffusion pair with random weights, in the layout and under the names of the real one.

    python tests/priors/tiny_checkpoint.py FOLDER          writes FOLDER/plain and FOLDER/inpainting (1 MB)
    python tests/priors/tiny_checkpoint.py FOLDER --full   of Stable Diffusion 1.5's own size (4.3 GB, float16)

Needs neither torch nor diffusers. The tiny structure is the real one at another size: images of 16 x 16 pixels, latents
of 8 x 8, text states of 16 channels.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ipsm_jax.priors.checkpoint import STEMS, file_shape
from ipsm_jax.priors.clip import TextConfig, text_shapes
from ipsm_jax.priors.tokenizer import BYTE_CHARACTERS, END, START
from ipsm_jax.priors.unet import UNetConfig, unet_shapes
from ipsm_jax.priors.vae import VAEConfig, vae_shapes

UNET = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_head_dim": 2,
    "block_out_channels": [8, 16],
    "center_input_sample": False,
    "cross_attention_dim": 16,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 1,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "norm_num_groups": 4,
    "out_channels": 4,
    "sample_size": 8,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "out_channels": 3,
    "sample_size": 16,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}
TEXT = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_act": "quick_gelu",
    "hidden_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 77,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 530,
}
# The config.json files of Stable Diffusion 1.5, by their published values.
REAL_UNET = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
REAL_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
REAL_TEXT = {
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "max_position_embeddings": 77,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "vocab_size": 49408,
}

SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "trained_betas": None,
}
MERGES = [
    "t h",
    "th e</w>",
    "i n",
    "in g</w>",
    "r e",
    "a t",
    "a re</w>",
    "p h",
    "ph o",
    "pho t",
    "phot o</w>",
    "e r</w>",
]


def random_weights(shapes, seed, dtype=np.float32):
    """Arrays by name, in the file's layout: norms near one, biases near zero, the rest of variance 1 / inputs."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes.items():
        shape = file_shape(shape)
        values = rng.standard_normal(shape, np.float32)
        if "embedding.weight" in name:
            values *= 0.5
        elif len(shape) == 1:
            values = 0.1 * values + (1.0 if name.endswith("weight") else 0.0)
        else:
            values /= np.sqrt(np.prod(shape[1:]))
        weights[name] = values.astype(dtype)
    return weights


def write_network(folder, config, shapes, seed, dtype=np.float32):
    """One sub-folder: config.json and the weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    weights = random_weights(shapes, seed, dtype)
    save_file(weights, folder / f"{STEMS[folder.name]}.safetensors", metadata={"format": "pt"})


def write_tokenizer(folder):
    """A vocabulary of all bytes and a few joined pairs."""
    folder.mkdir(parents=True)
    joined = ["".join(line.split()) for line in MERGES]
    tokens = [*BYTE_CHARACTERS, *(f"{c}</w>" for c in BYTE_CHARACTERS), *joined, START, END]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": END}))


def write_pipeline(folder, in_channels, seed, dtype=np.float32, configs=(UNET, VAE, TEXT)):
    """One complete folder; equal seeds give equal text encoders and autoencoders whatever `in_channels` is."""
    unet, vae, text = configs
    unet = {**unet, "in_channels": in_channels}
    write_network(folder / "unet", unet, unet_shapes(UNetConfig.from_json(unet)), seed + in_channels, dtype)
    write_network(folder / "vae", vae, vae_shapes(VAEConfig.from_json(vae)), seed + 1, dtype)
    write_network(folder / "text_encoder", text, text_shapes(TextConfig.from_json(text)), seed + 2, dtype)
    write_tokenizer(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))


def write_pair(folder, seed=0, dtype=np.float32, configs=(UNET, VAE, TEXT)):
    """Both folders; returns (plain, inpainting)."""
    plain, inpainting = Path(folder) / "plain", Path(folder) / "inpainting"
    write_pipeline(plain, 4, seed, dtype, configs)
    write_pipeline(inpainting, 9, seed, dtype, configs)
    return plain, inpainting


if __name__ == "__main__":
    full = "--full" in sys.argv[2:]
    settings = {"dtype": np.float16, "configs": (REAL_UNET, REAL_VAE, REAL_TEXT)} if full else {}
    print(*write_pair(Path(sys.argv[1]), **settings), sep="\n")
