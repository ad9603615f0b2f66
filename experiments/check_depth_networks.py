"""How far our depth networks are from transformers' at full size, and what they cost: errors, seconds and memory.

    python experiments/check_depth_networks.py FOLDER [--networks dpt_hybrid depth_anything] [--json out.json]

Needs the extra `parity`. FOLDER/dpt_hybrid and FOLDER/depth_anything hold the two checkpoints; where one is missing,
random weights of its size are written there (490 MB and 100 MB). The picture is noise of --height x --width pixels.

Errors are largest difference over largest value; the second column is how far torch's float32 is from its float64.
Gradients of rectified networks of this size do not agree between any two programs in float32, since a rectifier whose
input is 0 but for rounding has no gradient, nor has the maximum of two equal numbers. So gradients are compared once
more in smooth networks: on both sides with softplus for rectifiers, and with the first pixel of a window instead of its
maximum. Memory is what the compiled program holds at once: weights, pictures and what lies between. The exit code is 1
when a map or a smooth network's gradient differs by more than 1e-4.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "priors"))
from tiny_depth import REAL_ANYTHING, REAL_HYBRID, write_depth_network

from ipsm_jax.priors.depth import DepthPrior, depth_map
from ipsm_jax.priors.monodepth import bit, load_depth_network

TOLERANCE = 1e-4
NETWORKS = {"dpt_hybrid": REAL_HYBRID, "depth_anything": REAL_ANYTHING}
Rows = dict[str, dict[str, float]]
Result = tuple[np.ndarray, np.ndarray]


def torch_network(
    folder: Path, prior: DepthPrior, size: tuple[int, int], smooth: bool
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network of transformers from (1, 3, h, w) in [0, 1] to (h, w), prepared as ours."""
    model = transformers.AutoModelForDepthEstimation.from_pretrained(folder).requires_grad_(False).eval()
    if smooth:
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, torch.nn.ReLU):
                    setattr(module, name, torch.nn.Softplus())
                elif isinstance(child, torch.nn.MaxPool2d):
                    setattr(module, name, torch.nn.AvgPool2d(1, 2))
    preprocessing = prior.predict.preprocessing  # type: ignore[attr-defined]
    inner = preprocessing.input_size(*size)
    if folder.name == "dpt_hybrid":  # transformers' takes squares only, though it resizes the positions
        model.dpt.embeddings.image_size = inner
        neck = model.neck.forward
        model.neck.forward = lambda states, *_: neck(states, inner[0] // 16, inner[1] // 16)

    def run(pixels: torch.Tensor) -> torch.Tensor:
        model.to(pixels.dtype)
        x = torch.nn.functional.interpolate(pixels, inner, mode="bicubic", align_corners=False)
        mean, deviation = (
            torch.tensor(v, dtype=pixels.dtype).view(1, 3, 1, 1) for v in (preprocessing.mean, preprocessing.deviation)
        )
        depth = model((x - mean) / deviation).predicted_depth[:, None]
        return torch.nn.functional.interpolate(depth, size, mode="bicubic", align_corners=False)[0, 0]

    return run


def torch_results(
    run: Callable[[torch.Tensor], torch.Tensor], image: np.ndarray, cotangent: np.ndarray, dtype: torch.dtype
) -> tuple[Result, tuple[float, float]]:
    """Map and gradient, and the seconds for the map and for both."""
    leaf = torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).to(dtype).requires_grad_()
    with torch.no_grad():
        start = time.perf_counter()
        run(leaf)
        alone = time.perf_counter() - start
    start = time.perf_counter()
    depth = run(leaf)
    (depth * torch.from_numpy(cotangent).to(dtype)).sum().backward()
    both = time.perf_counter() - start
    assert leaf.grad is not None
    return (depth.detach().numpy(), leaf.grad.numpy()[0].transpose(1, 2, 0)), (alone, both)


def timed(function: Callable[..., Any], *args: Any) -> tuple[Any, float, float]:
    """The result, the seconds it took once compiled (the better of two) and the bytes that the program holds."""
    compiled = jax.jit(function).lower(*args).compile()
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        result = jax.block_until_ready(compiled(*args))
        seconds.append(time.perf_counter() - start)
    memory = compiled.memory_analysis()
    assert memory is not None  # which CPUs and GPUs tell
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    return jax.tree.map(np.asarray, result), min(seconds), held


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference over largest value."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def map_and_gradient(prior: DepthPrior, image: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The map, and what a change of the map's pixels asks of the image's."""
    depth, pull = jax.vjp(lambda x: depth_map(prior, x), image)
    return depth, pull(cotangent)[0]


def check(folder: Path, size: tuple[int, int], rows: Rows) -> None:
    """Map and gradient of one network; notes errors, seconds and memory."""
    if not folder.exists():
        write_depth_network(folder, NETWORKS[folder.name])
    rng = np.random.default_rng(0)
    image, cotangent = rng.random((*size, 3), np.float32), rng.standard_normal(size, np.float32)
    prior = load_depth_network(folder)
    arguments = prior, jnp.asarray(image), jnp.asarray(cotangent)
    for smooth in (False, True):
        run = torch_network(folder, prior, size, smooth)
        theirs, torch_seconds = torch_results(run, image, cotangent, torch.float32)
        exact, _ = torch_results(run, image, cotangent, torch.float64)
        del run
        gc.collect()
        with contextlib.ExitStack() as patches:
            if smooth:
                patches.enter_context(mock.patch.object(jax.nn, "relu", jax.nn.softplus))
                patches.enter_context(mock.patch.object(bit, "max_pool", lambda x: x[:, ::2, ::2]))
            runs = [] if smooth else [timed(depth_map, *arguments[:2])]
            # a function of its own each time: what is traced does not show which rectifier it was traced with
            runs.append(timed(lambda *args: map_and_gradient(*args)[1], *arguments))
        names = ["gradient, smooth"] if smooth else ["map", "gradient"]
        for name, (ours, seconds, held) in zip(names, runs, strict=True):
            part = int(name != "map")
            row = rows[f"{folder.name}, {name}"] = {
                "relative_error": relative_error(ours, theirs[part]),
                "torch_relative_error_float64": relative_error(theirs[part], exact[part]),
                "seconds": seconds,
                "torch_seconds": torch_seconds[part],
                "gigabytes": held / 1e9,
            }
            errors = " | ".join(f"{row[key]:.1e}" for key in list(row)[:2])
            costs = " | ".join(f"{row[key]:.2f}" for key in list(row)[2:])
            print(f"| {folder.name}, {name} | {errors} | {costs} |", flush=True)


def main() -> int:
    """Compare the networks asked for; 1 if one differs too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--height", type=int, default=378)
    parser.add_argument("--width", type=int, default=504)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: Rows = {}
    print("| what | error | torch's own | seconds | seconds in torch | GB |\n|---|---|---|---|---|---|")
    for network in options.networks:
        check(options.folder / network, (options.height, options.width), rows)
        gc.collect()
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    compared = [row for name, row in rows.items() if not name.endswith(" gradient")]
    return int(any(row["relative_error"] > TOLERANCE for row in compared))


if __name__ == "__main__":
    sys.exit(main())
