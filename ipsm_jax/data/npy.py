"""NumPy's .npy files, read without believing them: no pickles, and no allocation beyond the size of the file."""

from __future__ import annotations

import math
import os
import tokenize
from pathlib import Path

import numpy as np

from ipsm_jax.data.errors import DataError


def read_npy(path: Path) -> np.ndarray:
    """The array of numbers in a .npy file, in its own type.

    Raises:
      DataError: if the file is missing, damaged, cut short, or holds something else than numbers.
    """
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read_header is None:
                raise DataError(f"{path}: .npy version {version} is not supported; save it again with numpy.save")
            shape, fortran, dtype = read_header(file)
            start = file.tell()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except DataError:
        raise
    except (ValueError, OSError, EOFError, SyntaxError, TypeError, OverflowError, tokenize.TokenError) as error:
        raise DataError(f"{path}: damaged, cut short or not a .npy file ({error})") from error
    if dtype.kind not in "fiub" or dtype.hasobject or any(side < 0 for side in shape):
        raise DataError(f"{path}: expected an array of numbers, found shape {shape} of {dtype}")
    count, available = math.prod(shape), os.path.getsize(path) - start
    if count * dtype.itemsize > available:
        raise DataError(
            f"{path}: cut short or damaged: an array {shape} of {dtype} needs {count * dtype.itemsize} bytes, "
            f"but {available} follow the header"
        )
    values = np.fromfile(path, dtype, count=count, offset=start)
    return values.reshape(shape, order="F" if fortran else "C")
