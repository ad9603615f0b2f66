"""One training per run folder: a lock that the system takes back when its process ends, however that ends."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from ipsm_jax.config import ConfigError


@contextlib.contextmanager
def locked(folder: Path, option: str = "--name") -> Iterator[None]:
    """Be the only training in a run folder, which is made if it is missing.

    The folder itself is locked, so nothing is left in it. Where the file system keeps no locks, as some network file
    systems do not, a warning says so and training goes on; on Windows nothing is locked.

    Args:
      folder: of the run.
      option: chooses the folder; the message names it.

    Raises:
      ConfigError: another training is working there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":  # folders cannot be opened there, and there is no fcntl
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another training is working in {folder}. Wait until it has ended, or choose another {option}"
            ) from error
        except OSError as error:
            warnings.warn(f"{folder} cannot be locked ({error.strerror}): start no second training there", stacklevel=3)
        yield
    finally:
        os.close(descriptor)
