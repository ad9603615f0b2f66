"""Where derived data lives, and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np


def cache_root() -> Path:
    """$IPSM_JAX_CACHE, else ~/.cache/ipsm_jax; not created here."""
    given = os.environ.get("IPSM_JAX_CACHE")
    return Path(given).expanduser() if given else Path("~/.cache/ipsm_jax").expanduser()


def digest(parts: Iterable[bytes | str | int | float]) -> str:
    """20 hexadecimal digits that name the content of `parts`, in order."""
    total = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode()
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:20]


def read_arrays(file: Path, names: Sequence[str]) -> tuple[np.ndarray, ...] | None:
    """The named arrays of an .npz file of the cache; None if it is not there, or damaged, or of another kind."""
    if not file.is_file():
        return None
    try:
        # np.load would leave a damaged file open if it had opened it.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = tuple(stored[name] for name in names)
    except Exception:  # zipfile and numpy raise a dozen types; whatever it is, the data can be made again
        return None
    return arrays if all(isinstance(array, np.ndarray) for array in arrays) else None  # else: bytes of no array


def writable(folder: Path) -> bool:
    """Whether files may be put there.

    A folder without any write permission is respected as read-only even where the user could override it (root).
    """
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return False
    return bool(folder.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `folder` when the block ends without an exception.

    If somebody else made `folder` meanwhile, theirs stays and ours is dropped.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
