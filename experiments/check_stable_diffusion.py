"""How far our Stable Diffusion is from torch's at full size: relative errors and times, on random weights in float32.

    python experiments/check_stable_diffusion.py FOLDER [--parts text_encoder vae unet] [--json out.json]

Needs the extra `parity`. FOLDER holds a checkpoint of Stable Diffusion 1.5's size in diffusers' layout; where a part is
missing, random weights are written there (5 GB in all). One network is in memory at a time: the U-Net takes 8 GB and a
few minutes on two cores. Errors are largest difference over largest value; the exit code is 1 when one exceeds 1e-4.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "priors"))
from tiny_checkpoint import REAL_TEXT, REAL_UNET, REAL_VAE, write_network

from ipsm_jax.priors import clip, vae
from ipsm_jax.priors.checkpoint import check_weights, read_weights
from ipsm_jax.priors.unet import UNetConfig, unet, unet_shapes

TOLERANCE = 1e-4
Rows = dict[str, dict[str, float]]


def timed(function: Callable[..., Any], *args: Any) -> tuple[np.ndarray, float]:
    """The result and the seconds it took."""
    start = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    return np.asarray(result), time.perf_counter() - start


def compare(rows: Rows, name: str, theirs: tuple[np.ndarray, float], function: Callable[..., Any], *args: Any) -> None:
    """Run ours, compiled beforehand, and note error and times."""
    ours, seconds = timed(jax.jit(function).lower(*args).compile(), *args)
    error = float(np.abs(ours - theirs[0]).max() / np.abs(theirs[0]).max())
    rows[name] = {"relative_error": error, "seconds": seconds, "torch_seconds": theirs[1]}
    print(f"| {name} | {error:.1e} | {seconds:.1f} | {theirs[1]:.1f} |", flush=True)


def nchw(array: np.ndarray) -> torch.Tensor:
    """To torch's order of axes."""
    return torch.from_numpy(array.transpose(0, 3, 1, 2).copy())


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    """To our order of axes."""
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def normal(seed: int, *shape: int) -> np.ndarray:
    """Reproducible float32 noise."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def check_text_encoder(folder: Path, rows: Rows) -> None:
    """Last hidden states of 77 random tokens."""
    config = clip.TextConfig.from_json(REAL_TEXT)
    shapes = clip.text_shapes(config)
    if not folder.exists():
        write_network(folder, REAL_TEXT, shapes, 1)
    tokens = np.random.default_rng(0).integers(0, config.vocabulary, (1, 77)).astype(np.int32)
    model = transformers.CLIPTextModel.from_pretrained(folder)
    theirs = timed(lambda: model(torch.from_numpy(tokens.astype(np.int64))).last_hidden_state.detach().numpy())
    params = read_weights(check_weights(folder, shapes, ignored=clip.IGNORED), np.float32)
    compare(rows, "text states", theirs, lambda p, x: clip.text_states(config, p, x), params, tokens)


def check_vae(folder: Path, rows: Rows) -> None:
    """Mean, picture (before clipping to [0, 1] matters) and the gradient through the encoder at 512 x 512."""
    config = vae.VAEConfig.from_json(REAL_VAE)
    shapes = vae.vae_shapes(config)
    if not folder.exists():
        write_network(folder, REAL_VAE, shapes, 2)
    images = np.random.default_rng(5).random((1, 512, 512, 3), np.float32)
    latents, cotangent = 0.1 * normal(6, 1, 64, 64, 4), normal(7, 1, 64, 64, 4)
    model = diffusers.AutoencoderKL.from_pretrained(folder).requires_grad_(False)
    leaf = nchw(images).requires_grad_()

    def mean() -> torch.Tensor:
        return config.scaling * model.encode(2 * leaf - 1).latent_dist.mean

    def gradient() -> np.ndarray:
        (mean() * nchw(cotangent)).sum().backward()
        return nhwc(leaf.grad)

    def picture() -> np.ndarray:
        return (nhwc(model.decode(nchw(latents) / config.scaling).sample) / 2 + 0.5).clip(0, 1)

    with torch.no_grad():
        theirs = [timed(lambda: nhwc(mean())), timed(picture)]
    theirs.append(timed(gradient))
    params = read_weights(check_weights(folder, shapes, rename=vae.current_name), np.float32)
    compare(rows, "VAE mean", theirs[0], lambda p, x: vae.encode(config, p, x), params, images)
    compare(rows, "VAE decode", theirs[1], lambda p, z: vae.decode(config, p, z), params, latents)
    value = jax.grad(lambda x, p: jnp.sum(vae.encode(config, p, x) * cotangent))
    compare(rows, "VAE gradient", theirs[2], value, images, params)


def check_unet(folder: Path, rows: Rows) -> None:
    """Noise in 64 x 64 latents with two texts, as guidance asks for it."""
    config = UNetConfig.from_json(REAL_UNET)
    shapes = unet_shapes(config)
    if not folder.exists():
        write_network(folder, REAL_UNET, shapes, 3)
    latents, t, text = normal(6, 2, 64, 64, 4), np.int32([500, 500]), normal(8, 2, 77, 768)

    def torch_noise() -> tuple[np.ndarray, float]:
        model = diffusers.UNet2DConditionModel.from_pretrained(folder)
        with torch.no_grad():
            return timed(lambda: nhwc(model(nchw(latents), torch.from_numpy(t), torch.from_numpy(text)).sample))

    theirs = torch_noise()
    gc.collect()  # only one of the two in memory
    params = read_weights(check_weights(folder, shapes), np.float32)
    compare(rows, "U-Net, batch of 2", theirs, lambda p, *x: unet(config, p, *x), params, latents, t, text)


PARTS = {"text_encoder": check_text_encoder, "vae": check_vae, "unet": check_unet}


def main() -> int:
    """Compare the parts asked for; 1 if one differs too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: Rows = {}
    print("| what | relative error | seconds | seconds in torch |\n|---|---|---|---|")
    for part in options.parts:
        PARTS[part](options.folder / part, rows)
        gc.collect()
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return int(any(row["relative_error"] > TOLERANCE for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
