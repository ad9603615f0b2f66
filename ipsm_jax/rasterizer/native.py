"""The native rasterizer as a differentiable JAX operation.

Two XLA custom calls, forward and backward, tied together by `jax.custom_vjp`. The forward call leaves its sorted lists
as residuals; under `vmap` each operand keeps its own size (nothing is broadcast in memory) and the handlers walk the
batch.

Shapes: n Gaussians, k = 15 harmonics beyond the constant one, h x w pixels, leading batch axes under vmap.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.ffi
import jax.numpy as jnp
import numpy as np

from ipsm_jax._source_hash import source_hash

FORWARD, BACKWARD = "ipsm_rasterize_forward", "ipsm_rasterize_backward"
FOOTPRINTS = {"exact": 0, "3sigma": 1}

# Room in the (Gaussian, tile) lists kept between forward and backward. Seen on fern from three views: 5 pairs per slot
# with 57 000 Gaussians, 11 with 100 000 (large ones, made by unpooling). A CPU touches no memory for room that is not
# used; a GPU sorts the whole lists, and says when a frame did not fit.
_PAIRS_PER_GAUSSIAN_CPU, _PAIRS_PER_GAUSSIAN_GPU = 16, 8
_MIN_PAIRS = 1 << 18


def default_pair_capacity(slots: int) -> int:
    """Room for pairs that `render` makes for so many slots when it is not told, on the device JAX uses by default."""
    on_cpu = jax.default_backend() == "cpu"
    return max((_PAIRS_PER_GAUSSIAN_CPU if on_cpu else _PAIRS_PER_GAUSSIAN_GPU) * slots, _MIN_PAIRS)


class NativeUnavailableError(RuntimeError):
    """The native rasterizer cannot be used in this environment; the message says why and what to do."""


def runtime_ffi_version() -> tuple[int, int]:
    """XLA FFI API (major, minor) of the installed jaxlib, read from the headers it ships."""
    header = Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h"
    try:
        text = header.read_text()
    except OSError as e:
        raise NativeUnavailableError(
            f"cannot read {header}, which tells the XLA FFI version of jaxlib {jax.lib.__version__}: {e.strerror}. "
            "Reinstall jaxlib."
        ) from e
    found = [re.search(rf"#define XLA_FFI_API_{part} (\d+)", text) for part in ("MAJOR", "MINOR")]
    if found[0] is None or found[1] is None:
        raise NativeUnavailableError(f"{header} does not define XLA_FFI_API_MAJOR and _MINOR. Reinstall jaxlib.")
    return int(found[0][1]), int(found[1][1])


def check_ffi_version(built: tuple[int, int], runtime: tuple[int, int]) -> None:
    """Refuse a library that is newer than the runtime: registering it would keep the whole CPU backend from starting.

    Raises:
      NativeUnavailableError: when `built` has another major number or a larger minor number than `runtime`.
    """
    if built[0] != runtime[0] or built[1] > runtime[1]:
        raise NativeUnavailableError(
            f"ipsm_jax's native library was built for XLA FFI {built[0]}.{built[1]}, but the installed jaxlib offers "
            f"{runtime[0]}.{runtime[1]}. Install a newer one (pip install -U jax jaxlib), or build ipsm_jax against "
            'this one: "pip install setuptools pybind11", then "pip install --no-build-isolation --no-deps ." in the '
            "source folder."
        )


def _import_native() -> Any:
    """The compiled module: beside this file, or in the installed package.

    Python started inside a checkout imports the checkout's `ipsm_jax`, which has the compiled module only after an
    editable install; the installed package has it in any case.
    """
    try:
        return importlib.import_module("ipsm_jax._native")
    except ImportError as e:
        failure = e
    endings = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    for distribution in importlib.metadata.distributions(name="ipsm_jax"):
        for file in distribution.files or []:
            path = Path(str(distribution.locate_file(file)))
            if path.name.startswith("_native.") and path.name.endswith(endings) and path.exists():
                spec = importlib.util.spec_from_file_location("ipsm_jax._native", path)
                if spec is not None and spec.loader is not None:
                    module = importlib.util.module_from_spec(spec)
                    spec.loader.exec_module(module)
                    return module
    raise NativeUnavailableError(
        f"ipsm_jax's native library cannot be loaded ({failure}). It is built when the package is installed: run "
        '"pip install ." in the source folder (needs g++ or clang). Rendering alone also works with '
        'backend="reference", slowly.'
    ) from failure


def check_sources(built_from: str, csrc: Path) -> None:
    """Refuse a library that was built from other sources than those of this checkout, if this is one.

    Raises:
      NativeUnavailableError: the fingerprints differ.
    """
    if csrc.is_dir() and source_hash(csrc) != built_from:
        raise NativeUnavailableError(
            f"ipsm_jax's native library was built from other sources than those in {csrc}. Build it again: "
            f'"pip install --no-deps ." (or "pip install --no-deps -e .") in {csrc.parent}.'
        )


@functools.cache
def load_library() -> Any:
    """Import the compiled module and register its handlers with XLA, once.

    Raises:
      NativeUnavailableError: not built, built for a newer XLA FFI version, or built from other sources.
    """
    _native = _import_native()
    check_sources(_native.source_hash, Path(__file__).parents[2] / "csrc")
    check_ffi_version(tuple(_native.ffi_api_version), runtime_ffi_version())
    for platform, handlers in (("cpu", _native.cpu_handlers()), ("CUDA", _native.cuda_handlers())):
        for name, handler in handlers.items():
            jax.ffi.register_ffi_target(name, handler, platform=platform)
    return _native


def check_platform(platform: str, cuda_architectures: str) -> None:
    """Refuse a platform that the library has no kernels for.

    Args:
      platform: as JAX names it: "cpu", "gpu", "tpu".
      cuda_architectures: what the library's CUDA kernels were built for; empty when it has none.

    Raises:
      NativeUnavailableError: there are no kernels; says how to get them.
    """
    if platform == "cpu" or (platform in ("gpu", "cuda") and cuda_architectures):
        return
    if platform in ("gpu", "cuda"):
        raise NativeUnavailableError(
            "JAX runs on a GPU here, but ipsm_jax's native library was built without CUDA kernels. Install the CUDA "
            'toolkit (nvcc) and build again: "IPSM_JAX_CUDA=1 pip install --force-reinstall --no-deps ." in the source '
            "folder. Or set JAX_PLATFORMS=cpu."
        )
    raise NativeUnavailableError(
        f"the native rasterizer runs on CPUs and NVIDIA GPUs, and JAX runs on {platform} here; set JAX_PLATFORMS=cpu"
    )


_FEATURES = 11  # position of the features among the operands
_IMAGES = 6  # results that the caller sees: color, depth, alpha, features, radii, pair count


class _Spec(NamedTuple):
    """What is fixed at compile time."""

    width: int
    height: int
    footprint: int
    pair_capacity: int
    antialiased: bool
    absolute_gradients: bool

    def attributes(self) -> dict[str, np.int64]:
        """XLA FFI attributes; numpy types, because a Python number may arrive as another type."""
        return {name: np.int64(value) for name, value in self._asdict().items()}


def _tile_count(spec: _Spec, tile_size: int) -> int:
    return -(-spec.width // tile_size) * -(-spec.height // tile_size)


def _forward_call(spec: _Spec, operands: tuple[Any, ...]) -> Sequence[jax.Array]:
    """(color, depth, alpha, features, radii, pair_count, splats, slot_start, tile_start, tile_processed, pairs)."""
    native = load_library()
    n, tiles = operands[0].shape[0], _tile_count(spec, native.tile_size)
    channels = operands[_FEATURES].shape[1]
    image, f32, i32 = (spec.height, spec.width), jnp.float32, jnp.int32
    results = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in [
            ((*image, 3), f32),
            (image, f32),
            (image, f32),
            ((*image, channels), f32),
            ((n,), i32),
            ((), i32),
            ((n, native.splat_floats), f32),
            ((n + 1,), i32),
            ((tiles + 1,), i32),
            ((tiles,), i32),
            ((spec.pair_capacity, 2), i32),
        ]
    ]
    return jax.ffi.ffi_call(FORWARD, results, vmap_method="expand_dims")(*operands, **spec.attributes())


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rasterize(spec: _Spec, *operands: Any) -> tuple[jax.Array, ...]:
    return tuple(_forward_call(spec, operands)[:_IMAGES])


def _rasterize_forward(spec: _Spec, *operands: Any) -> tuple[tuple[jax.Array, ...], tuple[Any, ...]]:
    results = _forward_call(spec, operands)
    images, radii_and_count, lists = results[:4], results[4:_IMAGES], results[_IMAGES:]
    return (*images, *radii_and_count), (operands, (*images, *lists))


def _rasterize_backward(spec: _Spec, saved: tuple[Any, ...], gradients: tuple[Any, ...]) -> tuple[Any, ...]:
    operands, residuals = saved
    differentiable = [i for i, x in enumerate(operands) if jnp.issubdtype(x.dtype, jnp.floating)]
    results = [jax.ShapeDtypeStruct(operands[i].shape, jnp.float32) for i in differentiable]
    # The order of the handler's results is that of the floating-point operands.
    out = jax.ffi.ffi_call(BACKWARD, results, vmap_method="expand_dims")(
        *operands, *residuals, *gradients[:4], **spec.attributes()
    )
    by_operand = dict(zip(differentiable, out, strict=True))
    return tuple(by_operand.get(i) for i in range(len(operands)))


_rasterize.defvjp(_rasterize_forward, _rasterize_backward)


def render_native(
    gaussians: Any,
    camera: Any,
    alive: jax.Array,
    background: jax.Array,
    sh_degree: jax.Array,
    mean2d_offset: jax.Array,
    features: jax.Array,
    mean2d_absolute: jax.Array | None,
    footprint: str,
    antialiased: bool,
    pair_capacity: int | None,
) -> tuple[jax.Array, ...]:
    """Render with the native kernels; see `ipsm_jax.rasterizer.render` for the meaning of everything.

    Returns:
      color (h, w, 3), depth (h, w), alpha (h, w), features (h, w, c), radii (n,), pair count ().

    Raises:
      NativeUnavailableError: the library is missing or does not fit the runtime.
      TypeError: an operand is not float32.
    """
    library = load_library()
    named = {
        **gaussians._asdict(),
        "alive": alive,
        "mean2d_offset": mean2d_offset,
        "camera_from_world": camera.camera_from_world,
        "intrinsics": camera.intrinsics,
        "background": background,
        "features": features,
        "mean2d_absolute": jnp.zeros_like(mean2d_offset) if mean2d_absolute is None else mean2d_absolute,
    }
    for name, operand in named.items():
        wanted = jnp.bool_ if name == "alive" else jnp.float32
        if operand.dtype != wanted:
            raise TypeError(
                f"the native rasterizer wants {name} as {np.dtype(wanted).name}, got {operand.dtype}; cast it, or use "
                'backend="reference" for other precisions'
            )
    n = gaussians.means.shape[0]
    absolute = mean2d_absolute is not None
    spec = _Spec(camera.width, camera.height, FOOTPRINTS[footprint], 0, antialiased, absolute)
    most = n * _tile_count(spec, library.tile_size)
    wanted = default_pair_capacity(n) if pair_capacity is None else int(pair_capacity)
    return _rasterize(spec._replace(pair_capacity=max(1, min(wanted, most))), *named.values(), sh_degree)
