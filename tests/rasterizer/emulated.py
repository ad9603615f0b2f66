"""The CUDA kernels, run on the CPU by tests/cuda_on_host: `forward` and `backward` on numpy arrays.

Operands and results are those of the XLA handlers (csrc/binding/rasterizer_operands.h), in their order. Operands have
the same number of leading batch axes, each of size 1 or of the batch's size; results have the full batch.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
KERNELS = sorted((TESTS.parent / "csrc/rasterizer/cuda").glob("*.cu"))
ENTRY = TESTS / "cuda_on_host/entry.cpp"
PROGRAM = TESTS / "cuda_on_host/rasterizer_program.cpp"

TILE = 16
SPLAT_FLOATS = 16
BATCH_AXES = 4
SCENE, IMAGES, LISTS = 14, 4, 5  # numbers of operands: Gaussians and camera, images, sorted lists


class Options(ctypes.Structure):
    """What is not an array; see entry.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("width", "height", "footprint", "antialiased", "absolute_gradients")),
        *((name, ctypes.c_int64) for name in ("count", "rest", "channels", "capacity")),
        ("batch", ctypes.c_int64 * BATCH_AXES),
    )


class EmulationError(RuntimeError):
    """A kernel did what CUDA forbids, or the rasterizer refused its input."""


def builder() -> ModuleType:
    """tests/cuda_on_host/build.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("cuda_on_host_build", TESTS / "cuda_on_host/build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class EmulatedRasterizer:
    """The compiled library; see the module's docstring."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(builder().shared_library([*KERNELS, ENTRY])))

    def set_order(self, seed: int) -> None:
        """In which order the threads of a block run, and the blocks: 0 ascending, else shuffled."""
        self._library.cuda_on_host_set_order(seed)

    def forward(
        self, operands: Sequence[np.ndarray], *, allocate_pairs: bool = True, **options: int
    ) -> list[np.ndarray]:
        """Color, depth, alpha, features, radii, pair_count, splats, slot_start, tile_start, tile_processed, pairs.

        Without allocate_pairs there is no room for the last of them: for calls that are refused.
        """
        o, batch = _options(operands, options)
        image, tiles = (o.height, o.width), -(-o.height // TILE) * -(-o.width // TILE)
        shapes = [
            *((*image, 3), image, image, (*image, o.channels), (o.count,), ()),
            *(
                (o.count, SPLAT_FLOATS),
                (o.count + 1,),
                (tiles + 1,),
                (tiles,),
                (o.capacity if allocate_pairs else 0, 2),
            ),
        ]
        dtypes = [np.float32] * 4 + [np.int32] * 2 + [np.float32] + [np.int32] * 4
        return self._call("emulated_forward", o, operands, batch, shapes, dtypes)

    def backward(self, operands: Sequence[np.ndarray], **options: int) -> list[np.ndarray]:
        """Gradients of all floating-point operands of the scene, in their order.

        The operands are the scene, the forward pass's images and lists, and the images' gradients.
        """
        assert len(operands) == SCENE + IMAGES + LISTS + IMAGES
        o, batch = _options(operands, options)
        n = o.count
        shapes = [
            *((n, 3), (n, 3), (n, 4), (n,), (n, 3), (n, o.rest, 3), (n, 2), (4, 4), (4,), (3,)),
            *((n, o.channels), (n, 2)),
        ]
        return self._call("emulated_backward", o, operands, batch, shapes, [np.float32] * len(shapes))

    def _call(self, function, options, operands, batch, shapes, dtypes) -> list[np.ndarray]:
        operands = [np.ascontiguousarray(a) for a in operands]
        results = [np.empty((*batch, *shape), dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
        for result in results:  # what is not written shows
            result.view(np.uint8).fill(0x7F) if result.ndim else result.fill(-7)
        strides = [s for a in operands for s in _batch_strides(a, len(batch))]
        message = ctypes.create_string_buffer(4096)
        failed = getattr(self._library, function)(
            ctypes.byref(options),
            (ctypes.c_void_p * len(operands))(*(a.ctypes.data for a in operands)),
            (ctypes.c_int64 * len(strides))(*strides),
            (ctypes.c_void_p * len(results))(*(a.ctypes.data for a in results)),
            message,
            ctypes.c_size_t(len(message)),
        )
        if failed:
            raise EmulationError(message.value.decode())
        return results


def _options(operands: Sequence[np.ndarray], options: dict[str, int]) -> tuple[Options, tuple[int, ...]]:
    axes = operands[0].ndim - 2  # means are (n, 3)
    batch = tuple(max(a.shape[axis] for a in operands) for axis in range(axes))
    sizes = (ctypes.c_int64 * BATCH_AXES)(*((1,) * (BATCH_AXES - axes)), *batch)
    count, rest, channels = operands[0].shape[-2], operands[5].shape[-2], operands[11].shape[-1]
    return Options(**options, count=count, rest=rest, channels=channels, batch=sizes), batch


def _batch_strides(array: np.ndarray, axes: int) -> list[int]:
    """Strides in elements along the batch axes, 0 where an axis has size 1; as many as the C++ side has axes."""
    strides = [
        0 if array.shape[axis] == 1 else int(np.prod(array.shape[axis + 1 :], dtype=np.int64)) for axis in range(axes)
    ]
    return [0] * (BATCH_AXES - axes) + strides
