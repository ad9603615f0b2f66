"""The circumstances of a run: versions, device, source revision; and where compiled programs are kept."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

import ipsm_jax
from ipsm_jax.data.cache import cache_root

PACKAGES = ("jax", "jaxlib", "numpy", "optax", "scipy", "pycolmap")


def describe_environment(seed: int) -> dict[str, Any]:
    """What environment.json records."""
    devices = jax.local_devices()  # of this process: others may have some too
    return {
        "ipsm_jax": ipsm_jax.__version__,
        "git": git_revision(Path(ipsm_jax.__file__).parent),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "backend": devices[0].platform,
        "devices": [device.device_kind for device in devices],
        "seed": seed,
        "command": sys.argv,
    }


def git_revision(folder: Path) -> str | None:
    """Commit of the checkout that holds `folder`, with '+' if files were changed; None outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        tracked = git("ls-files", "--error-unmatch", "__init__.py")
        revision, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no", ".")
    except (OSError, subprocess.SubprocessError):  # no git, no checkout, or installed inside somebody else's checkout
        return None
    return (revision + ("+" if changes else "")) if tracked else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def enable_compilation_cache() -> None:
    """Keep compiled programs under the cache folder, so that a second start is quick; a user's own choice wins."""
    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_root() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
