"""What tells the weights of one prior from those of another: a digest of the files that it is read from."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

from ipsm_jax.config import GuidanceConfig
from ipsm_jax.config.regularization import Prior
from ipsm_jax.priors.checkpoint import WHOLE
from ipsm_jax.priors.locate import find_depth_network
from ipsm_jax.training.prepare_diffusion import diffusion_folders

MIB = 2**20
LARGE = 64 * MIB
"""Bytes above which a file is not read whole."""
PIECES = 16
"""Of a large file, each of 1 MiB and evenly spread, that stand for it: training changes nearly all of its numbers."""
_READ = (".json", ".txt", ".safetensors")
"""Endings of what is read of a model; beside it there may be the same weights as pickles."""


def digest_of(files: Iterable[Path]) -> str:
    """16 hex digits of the content of files, in their order, wherever they lie; see `PIECES` for large ones."""
    total = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as stream:
            if size <= LARGE:
                total.update(stream.read())
                continue
            total.update(str(size).encode())
            for piece in range(PIECES):
                stream.seek(piece * (size - MIB) // (PIECES - 1))
                total.update(stream.read(MIB))
    return total.hexdigest()[:16]


def diffusion_files(prior: Prior, path: Path | None) -> list[Path]:
    """The files of a diffusion prior: of the embedded one's network, or of both of Stable Diffusion's.

    Raises:
      PriorError: they are not complete.
    """
    folders = diffusion_folders(GuidanceConfig(prior=prior, prior_path=path))
    if prior == "embedded":
        return [file for part in ("scheduler", "unet", "vae") for file in sorted((folders[0] / part).glob("*"))]
    plain, inpainting = folders
    parts = [*(plain / part for part in WHOLE), inpainting / "unet"]
    return [file for part in parts for file in _read_of(part)]


@functools.cache
def diffusion_digest(prior: Prior, path: Path | None) -> str:
    """Digest of a diffusion prior as this process found it first; raises as `diffusion_files`."""
    return digest_of(diffusion_files(prior, path))


@functools.cache
def depth_network_digest(path: Path | None) -> str:
    """Digest of the depth network as this process found it first.

    Raises:
      PriorError: there is none.
    """
    return digest_of(_read_of(find_depth_network(path)))


def _read_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in _READ)
