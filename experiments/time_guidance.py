"""Time and memory of score distillation on this device: its parts, and the gradient of a guided iteration.

    python experiments/time_guidance.py [--prior-path FOLDER] [--dtypes bfloat16 float32] [--parts encode ...]
        [--repeats 3] [--cpu] [--tiny] [--json out.json]

Without FOLDER the weights are random, of Stable Diffusion 1.5's size, and made in memory: values make no difference to
time. The gradients are those of `distillation_loss` with respect to a picture of 504 x 378 pixels, at a full ramp, as
the training step takes them; rendering is not in them. "per term" encodes the picture once for each term, "shared"
once for all. Times are wall times of one call; compilation, on its own, is in the JSON. "temporary" is what the
compiled program needs beside its operands; the peak is the device's since the start of the process, or the
process's own on a CPU. "processor" is the time of all of the host's cores together: on a CPU that is shared with others
it tells more than the wall. Prints one JSON line, then a table.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "priors"))
from tiny_checkpoint import REAL_UNET, REAL_VAE, UNET, VAE

from ipsm_jax.losses.distillation import DistillationOptions, distillation_loss
from ipsm_jax.priors.diffusion import DiffusionPrior, guided_noise, guided_noise_inpaint, scaled_linear_schedule
from ipsm_jax.priors.layers import Shape
from ipsm_jax.priors.locate import find_stable_diffusion
from ipsm_jax.priors.stable_diffusion import (
    Bound,
    decode,
    encode,
    load_stable_diffusion,
    predict_noise,
    predict_noise_inpaint,
)
from ipsm_jax.priors.unet import UNetConfig, unet_shapes
from ipsm_jax.priors.vae import VAEConfig, vae_shapes

HEIGHT, WIDTH = 378, 504  # of the photos of LLFF
ITERATION = 5000
TOKENS = 77

GRADIENTS = {
    "gradient of SDS": DistillationOptions(terms=("sds",)),
    "gradient of G1": DistillationOptions(terms=("g1",)),
    "gradient of G1 + G2, per term": DistillationOptions(terms=("g1", "g2")),
    "gradient of G1 + G2, shared": DistillationOptions(terms=("g1", "g2"), encode="shared"),
}
PARTS = ("encode", "encode, gradient", "plain U-Net", "inpainting U-Net", *GRADIENTS)


def random_params(key: Any, shapes: Mapping[str, Shape], dtype: Any) -> dict[str, Any]:
    """Arrays that keep activations near one: biases and norms of one constant, the rest of variance 1 / inputs."""

    @partial(jax.jit, static_argnums=1)
    def draw(key: Any, shape: Shape) -> Any:
        inputs = int(np.prod(shape[:-1])) if len(shape) == 4 else shape[-1]
        return (jax.random.normal(key, shape) / np.sqrt(inputs)).astype(dtype)

    def array(i: int, name: str, shape: Shape) -> Any:
        if len(shape) == 1:
            return jnp.full(shape, 1.0 if name.endswith("weight") else 0.0, dtype)
        return draw(jax.random.fold_in(key, i), shape)

    return {name: array(i, name, shape) for i, (name, shape) in enumerate(shapes.items())}


def random_prior(dtype: Any, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> DiffusionPrior:
    """A pair of models of the structure that two config.json files describe."""
    plain, vae_config = UNetConfig.from_json(unet), VAEConfig.from_json(vae)
    inpainting = UNetConfig.from_json({**unet, "in_channels": 2 * plain.in_channels + 1})
    shapes = {"unet": unet_shapes(plain), "unet_inpaint": unet_shapes(inpainting), "vae": vae_shapes(vae_config)}
    keys = jax.random.split(jax.random.key(0), 5)
    positive, negative = (jax.random.normal(key, (TOKENS, unet["cross_attention_dim"])) for key in keys[3:])
    side = plain.sample_size
    return DiffusionPrior(
        params={
            name: random_params(key, shape, dtype) for key, (name, shape) in zip(keys[:3], shapes.items(), strict=True)
        },
        positive=positive,
        negative=negative,
        alphas_cumprod=jnp.asarray(scaled_linear_schedule()),
        image_size=side * vae_config.factor,
        latent_shape=(side, side, vae_config.latent_channels),
        encode=Bound(encode, vae_config),
        decode=Bound(decode, vae_config),
        predict_noise=Bound(predict_noise, plain),
        predict_noise_inpaint=Bound(predict_noise_inpaint, inpainting),
    )


def program(part: str, prior: DiffusionPrior) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """What is measured under a name, and its operands."""
    keys = jax.random.split(jax.random.key(1), 5)
    picture = jax.random.uniform(keys[0], (1, prior.image_size, prior.image_size, 3))
    latents, masked = (jax.random.normal(key, (1, *prior.latent_shape)) for key in keys[1:3])
    t = jnp.array([500])
    if part == "encode":
        return lambda p, x: p.encode(p.params, x, keys[3]), (prior, picture)
    if part == "encode, gradient":
        return jax.grad(lambda x, p: jnp.vdot(p.encode(p.params, x, keys[3]), latents)), (picture, prior)
    if part == "plain U-Net":
        return lambda p, z: guided_noise(p, z, t, 7.5), (prior, latents)
    if part == "inpainting U-Net":
        hole = jnp.ones((*latents.shape[:3], 1))
        return lambda p, z, m: guided_noise_inpaint(p, z, t, hole, m, 7.5), (prior, latents, masked)
    image, warped = (jax.random.uniform(key, (HEIGHT, WIDTH, 3)) for key in keys[3:])
    known = jnp.arange(WIDTH)[None, :] < jnp.full((HEIGHT, 1), WIDTH // 2)

    def loss(x: Any, p: DiffusionPrior, warped: Any, known: Any) -> Any:
        return distillation_loss(keys[4], GRADIENTS[part], p, x, warped, known, ITERATION)

    return jax.value_and_grad(loss, has_aux=True), (image, prior, warped, known)


def measure(part: str, dtype: str, prior: DiffusionPrior, repeats: int) -> dict[str, Any]:
    """Seconds of each call after the first (of the first if there is no other), and memory."""
    print(f"{dtype}, {part}: compiling", end="", file=sys.stderr, flush=True)
    function, operands = program(part, prior)
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*operands).compile()
    compilation = time.perf_counter() - start
    print(f" took {compilation:.0f} s; running", end="", file=sys.stderr, flush=True)
    seconds, of_processor = [], []
    for _ in range(1 + repeats):
        start, start_of_processor = time.perf_counter(), time.process_time()
        jax.block_until_ready(compiled(*operands))
        seconds.append(time.perf_counter() - start)
        of_processor.append(time.process_time() - start_of_processor)
        print(f" {seconds[-1]:.2f} s", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    warm = slice(1 if repeats else 0, None)
    memory = compiled.memory_analysis()
    return {
        "part": part,
        "dtype": dtype,
        "seconds_min": round(min(seconds[warm]), 5),
        "seconds_median": round(float(np.median(seconds[warm])), 5),
        "processor_seconds": round(min(of_processor[warm]), 5),
        "compilation_seconds": round(compilation, 1),
        "temporary_gb": round(memory.temp_size_in_bytes / 1e9, 3) if memory is not None else None,
        "peak_gb": round(peak_bytes() / 1e9, 3),
    }


def peak_bytes() -> int:
    """Most memory so far: the device's where it counts it, else this process's (Linux: KiB, macOS: bytes)."""
    statistics = jax.devices()[0].memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def size_in_gb(tree: Any) -> float:
    """Memory that the arrays of a tree take."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) / 1e9


def table(result: Mapping[str, Any]) -> str:
    """A row for each part; columns of seconds and of temporary memory for each dtype."""
    dtypes = list(dict.fromkeys(row["dtype"] for row in result["rows"]))
    columns = ("seconds (median)", "processor", "temporary GB")
    heads = ["part", *(f"{dtype}: {column}" for dtype in dtypes for column in columns)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for part in dict.fromkeys(row["part"] for row in result["rows"]):
        cells = [part]
        for dtype in dtypes:
            row = next(row for row in result["rows"] if (row["part"], row["dtype"]) == (part, dtype))
            temporary = "" if row["temporary_gb"] is None else f"{row['temporary_gb']:.2f}"
            cells.append(f"{row['seconds_min']:.3g} ({row['seconds_median']:.3g})")
            cells += [f"{row['processor_seconds']:.3g}", temporary]
        lines.append(f"| {' | '.join(cells)} |")
    for dtype, weights in result["weights_gb"].items():
        peak = max(row["peak_gb"] for row in result["rows"] if row["dtype"] == dtype)
        lines.append(f"{dtype}: weights {weights:.2f} GB; peak so far {peak:.2f} GB")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior-path", type=Path, help="folder of weights, instead of random ones")
    parser.add_argument("--dtypes", nargs="+", choices=("bfloat16", "float32"), default=["float32"])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--repeats", type=int, default=3, help="calls after the first, which counts only if it is alone"
    )
    parser.add_argument("--cpu", action="store_true", help="even if there is a GPU")
    parser.add_argument("--tiny", action="store_true", help="random weights of a tiny structure, to try it out")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.cpu:
        jax.config.update("jax_platforms", "cpu")
    device = jax.devices()[0]
    result: dict[str, Any] = {
        "device": f"{device.platform}: {device.device_kind}",
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "jax": jax.__version__,
        "weights": str(args.prior_path) if args.prior_path else "random, tiny" if args.tiny else "random",
        "weights_gb": {},
        "rows": [],
    }
    for dtype in args.dtypes:
        print(f"{dtype}: weights", file=sys.stderr, flush=True)
        if args.prior_path:
            folders = find_stable_diffusion(args.prior_path)
            prior = load_stable_diffusion(*folders, "a photo", "blurry, unrealistic", jnp.dtype(dtype))
        else:
            prior = random_prior(jnp.dtype(dtype), *((UNET, VAE) if args.tiny else (REAL_UNET, REAL_VAE)))
        result["weights_gb"][dtype] = round(size_in_gb(prior), 3)
        for part in args.parts:
            result["rows"].append(measure(part, dtype, prior, args.repeats))
            if args.json:
                args.json.write_text(json.dumps(result, indent=2) + "\n")
        del prior
        jax.clear_caches()
        gc.collect()
    print(json.dumps(result), flush=True)
    print(table(result))


if __name__ == "__main__":
    main()
