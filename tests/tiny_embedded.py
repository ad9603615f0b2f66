"""A tiny embedded prior with random weights, in the layout of the shipped one."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ipsm_jax.priors.checkpoint import file_shape
from ipsm_jax.priors.embedded import patches
from ipsm_jax.priors.unet import UNetConfig, unet_shapes

SIZE, CHANNELS, PATCH, POOLING = 8, 5, 2, 2
UNET = {
    "_class_name": "UNet2DConditionModel",
    "attention_head_dim": 2,
    "block_out_channels": [4, 8],
    "cross_attention_dim": 2 * CHANNELS,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "in_channels": 2 * CHANNELS + 1,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "out_channels": CHANNELS,
    "sample_size": SIZE,
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
}
VAE = {"_class_name": "PatchAutoencoder", "latent_channels": CHANNELS, "patch_size": PATCH, "pooling": POOLING}
SCHEDULER = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
CONFIG = patches.PatchConfig(POOLING, PATCH, CHANNELS)


def random_basis(rng, channels=CHANNELS, patch=PATCH):
    values = 3 * patch**2
    basis = np.linalg.qr(rng.normal(size=(values, channels)))[0].T
    arrays = {"basis": basis, "mean": rng.normal(size=values) * 0.1, "scale": rng.uniform(0.5, 2.0, channels)}
    arrays["variance"] = rng.uniform(0.1, 4.0, channels)
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}


def write_embedded_prior(folder: Path) -> Path:
    """unet/, vae/ and scheduler/ in a folder that is there."""
    rng = np.random.default_rng(0)
    for part, config in (("unet", UNET), ("vae", VAE)):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(config))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    shapes = unet_shapes(UNetConfig.from_json(UNET))
    weights = {name: (rng.normal(size=file_shape(s)) * 0.3).astype(np.float16) for name, s in shapes.items()}
    save_file(weights, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    save_file(random_basis(rng), folder / "vae" / "diffusion_pytorch_model.safetensors")
    return folder
