"""The example kernels as Python functions on numpy arrays."""

import ctypes
import functools

import numpy as np
import pytest
from cuda_on_host import build


@functools.cache
def library() -> ctypes.CDLL:
    """The examples, compiled for the CPU; skips the test where that is impossible."""
    reason = build.missing_tool()
    if reason:
        pytest.skip(reason)
    return ctypes.CDLL(str(build.shared_library([build.HERE / "examples_library.cu"])))


def error_of(name: str, *arguments) -> str | None:
    """Call a function of examples_library.cu; what its kernel was refused for, if it was."""
    function = getattr(library(), name)
    function.restype = ctypes.c_char_p
    message = function(*map(_as_c, arguments))
    return message.decode() if message is not None else None


def call(name: str, *arguments) -> None:
    """The same where nothing must go wrong."""
    message = error_of(name, *arguments)
    assert message is None, message


def _as_c(value):
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return ctypes.c_void_p(value.ctypes.data)
    if isinstance(value, str):
        return ctypes.c_char(value.encode())
    return ctypes.c_uint(value) if value >= 2**31 else ctypes.c_int(value)
