"""How far our Stable Diffusion is from torch's: relative errors and times, in float32.

    python experiments/check_stable_diffusion.py FOLDER [--parts text_encoder vae unet gradient] [--json out.json]

Needs the extra `parity`. FOLDER holds the plain and the inpainting model as `find_stable_diffusion` wants it;
if it is not there, a pair of Stable Diffusion 1.5's size with random weights is written to it (4 GB). The first three
parts compare networks of the plain model; the fourth a whole gradient of score distillation, from a picture through
encoder and models to the picture, for SDS, G1, and G1 + G2 with both signs. Errors are largest difference over largest
value; the exit code is 1 when one exceeds 1e-4. Of the gradients, our times include compilation, and torch's is that of
all terms, reading included; `time_guidance.py` measures ours.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "priors"))
from tiny_checkpoint import REAL_TEXT, REAL_UNET, REAL_VAE, write_pair
from torch_distillation import Draws, Networks, Setting, draws_of, image_gradients, setting_of

from ipsm_jax.losses.distillation import DistillationOptions, distillation_loss
from ipsm_jax.priors import clip, vae
from ipsm_jax.priors.checkpoint import read_weights
from ipsm_jax.priors.locate import find_stable_diffusion
from ipsm_jax.priors.stable_diffusion import CheckedPair, check_stable_diffusion, load_stable_diffusion
from ipsm_jax.priors.unet import unet

TOLERANCE = 1e-4
Folders = tuple[Path, Path]
Rows = dict[str, dict[str, float]]
Gradients = tuple[dict[str, np.ndarray], float]

CASES = {
    "gradient of SDS": DistillationOptions(terms=("sds",)),
    "gradient of G1": DistillationOptions(terms=("g1",)),
    "gradient of G1 + G2, published": DistillationOptions(terms=("g1", "g2")),
    "gradient of G1 + G2, paper": DistillationOptions(terms=("g1", "g2"), g2_sign="paper"),
}
PROMPT, NEGATIVE = "a photo of a plant in a room, realistic, 8k", "blurry, unrealistic"
ITERATION = 2250  # in the middle of the ramp
HEIGHT, WIDTH = 378, 504  # of the photos of LLFF


def timed(function: Callable[..., Any], *args: Any) -> tuple[np.ndarray, float]:
    """The result and the seconds it took."""
    start = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    return np.asarray(result), time.perf_counter() - start


def note(rows: Rows, name: str, ours: np.ndarray, seconds: float, theirs: np.ndarray, torch_seconds: float) -> None:
    """Error and times."""
    error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    rows[name] = {"relative_error": error, "seconds": seconds, "torch_seconds": torch_seconds}
    print(f"| {name} | {error:.1e} | {seconds:.1f} | {torch_seconds:.1f} |", flush=True)


def compare(rows: Rows, name: str, theirs: tuple[np.ndarray, float], function: Callable[..., Any], *args: Any) -> None:
    """Run ours, compiled beforehand, and note error and times."""
    note(rows, name, *timed(jax.jit(function).lower(*args).compile(), *args), *theirs)


def nchw(array: np.ndarray) -> torch.Tensor:
    """To torch's order of axes."""
    return torch.from_numpy(array.transpose(0, 3, 1, 2).copy())


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    """To our order of axes."""
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def normal(seed: int, *shape: int) -> np.ndarray:
    """Reproducible float32 noise."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def check_text_encoder(folders: Folders, pair: CheckedPair, rows: Rows) -> None:
    """Last hidden states of random tokens."""
    config = pair.text_config
    tokens = np.random.default_rng(0).integers(0, config.vocabulary, (1, config.length)).astype(np.int32)
    model = transformers.CLIPTextModel.from_pretrained(folders[0] / "text_encoder").float()
    theirs = timed(lambda: model(torch.from_numpy(tokens.astype(np.int64))).last_hidden_state.detach().numpy())
    params = read_weights(pair.text_encoder, np.float32)
    compare(rows, "text states", theirs, lambda p, x: clip.text_states(config, p, x), params, tokens)


def check_vae(folders: Folders, pair: CheckedPair, rows: Rows) -> None:
    """Mean, picture (before clipping to [0, 1] matters) and the gradient through the encoder."""
    config = pair.vae_config
    side = pair.unet_config.sample_size
    images = np.random.default_rng(5).random((1, side * config.factor, side * config.factor, 3), np.float32)
    latents, cotangent = (normal(seed, 1, side, side, config.latent_channels) for seed in (6, 7))
    model = Networks(*folders, kept=0).load("plain", "vae")
    leaf = nchw(images).requires_grad_()

    def mean() -> torch.Tensor:
        return config.scaling * model.encode(2 * leaf - 1).latent_dist.mean

    def gradient() -> np.ndarray:
        return nhwc(torch.autograd.grad((mean() * nchw(cotangent)).sum(), leaf)[0])

    def picture() -> np.ndarray:
        return (nhwc(model.decode(nchw(0.1 * latents) / config.scaling).sample) / 2 + 0.5).clip(0, 1)

    with torch.no_grad():
        theirs = [timed(lambda: nhwc(mean())), timed(picture)]
    theirs.append(timed(gradient))
    params = read_weights(pair.vae, np.float32)
    compare(rows, "VAE mean", theirs[0], lambda p, x: vae.encode(config, p, x), params, images)
    compare(rows, "VAE decode", theirs[1], lambda p, z: vae.decode(config, p, z), params, 0.1 * latents)
    value = jax.grad(lambda x, p: jnp.sum(vae.encode(config, p, x) * cotangent))
    compare(rows, "VAE gradient", theirs[2], value, images, params)


def check_unet(folders: Folders, pair: CheckedPair, rows: Rows) -> None:
    """Noise in latents with two texts, as guidance asks for it."""
    config = pair.unet_config
    latents, t = (
        normal(6, 2, config.sample_size, config.sample_size, config.in_channels),
        np.array([500, 500], np.int32),
    )
    text = normal(8, 2, pair.text_config.length, pair.text_config.channels)

    def torch_noise() -> tuple[np.ndarray, float]:
        model = Networks(*folders, kept=0).load("plain", "unet")
        with torch.no_grad():
            return timed(lambda: nhwc(model(nchw(latents), torch.from_numpy(t), torch.from_numpy(text)).sample))

    theirs = torch_noise()
    gc.collect()  # only one of the two in memory
    params = read_weights(pair.unet, np.float32)
    compare(rows, "U-Net, batch of 2", theirs, lambda p, *x: unet(config, p, *x), params, latents, t, text)


def torch_gradients(folders: Folders, views: tuple[Any, ...], draws: Draws, setting: Setting) -> Gradients:
    """Torch's of each term, and the seconds that they took; in a process of its own, whose memory is given back."""
    start = time.perf_counter()
    networks = Networks(*folders, kept=1)
    return image_gradients(networks, *views, draws, setting), time.perf_counter() - start


def check_gradient(folders: Folders, pair: CheckedPair, rows: Rows) -> None:
    """d(loss)/d(image) for an image, a warped one and a mask with a hole.

    Gradients of terms add up, so that torch computes each term once. Our networks are compiled one by one here, not
    with everything else to one program: it takes less memory.
    """
    rng = np.random.default_rng(9)
    image, warped = (rng.random((HEIGHT, WIDTH, 3), np.float32) for _ in range(2))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    known = np.hypot(y - 100, x - 300) > 80
    key = jax.random.key(0)
    side = pair.unet_config.sample_size
    sizes = pair.alphas_cumprod, side * pair.vae_config.factor, (side, side, pair.vae_config.latent_channels)
    everything = DistillationOptions(terms=("sds", "g1", "g2"))
    draws = draws_of(key, everything, *sizes)
    for options in CASES.values():
        alone = draws_of(key, options, *sizes)
        same = [np.array_equal(alone.posterior[term], draws.posterior[term]) for term in options.terms]
        if not (all(same) and alone.timestep == draws.timestep and np.array_equal(alone.noise, draws.noise)):
            raise SystemExit("terms draw other numbers alone than together, so that torch's cannot be added")

    print("gradients of the terms in torch", file=sys.stderr, flush=True)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        setting = setting_of(everything, ITERATION, PROMPT, NEGATIVE)
        theirs, seconds = process.submit(torch_gradients, folders, (image, warped, known), draws, setting).result()

    prior = load_stable_diffusion(*folders, PROMPT, NEGATIVE, jnp.float32)
    prior = dataclasses.replace(
        prior,
        encode=jax.jit(prior.encode),
        predict_noise=jax.jit(prior.predict_noise),
        predict_noise_inpaint=jax.jit(prior.predict_noise_inpaint),
    )
    for name, options in CASES.items():
        print(f"{name}: ours", file=sys.stderr, flush=True)
        views = (warped, known) if options.needs_warp else (None, None)

        def loss(x: Any, options: DistillationOptions = options, views: tuple[Any, Any] = views) -> Any:
            return distillation_loss(key, options, prior, x, *views, ITERATION)[0]

        ours, our_seconds = timed(jax.grad(loss), image)
        signs = {"g2": -1} if options.g2_sign == "paper" else {}
        expected = np.sum([signs.get(term, 1) * theirs[term] for term in options.terms], axis=0)
        note(rows, name, ours, our_seconds, expected, seconds)


PARTS = {"text_encoder": check_text_encoder, "vae": check_vae, "unet": check_unet, "gradient": check_gradient}


def main() -> int:
    """Compare the parts asked for; 1 if one differs too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.folder.exists():
        print(f"writing random weights to {options.folder}", file=sys.stderr, flush=True)
        write_pair(options.folder, dtype=np.float16, configs=(REAL_UNET, REAL_VAE, REAL_TEXT))
    folders = find_stable_diffusion(options.folder)
    pair = check_stable_diffusion(*folders)
    rows: Rows = {}
    print(f"diffusers {diffusers.__version__}, torch {torch.__version__}, jax {jax.__version__}")
    print("| what | relative error | seconds | seconds in torch |\n|---|---|---|---|")
    for part in options.parts:
        PARTS[part](folders, pair, rows)
        gc.collect()
        if options.json:
            options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return int(any(row["relative_error"] > TOLERANCE for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
