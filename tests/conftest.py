"""Settings for all tests: no silent rank promotion, hypothesis without wall-clock deadlines, bounded memory."""

import ctypes
import gc
from pathlib import Path

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("default", deadline=None, derandomize=True)
hypothesis.settings.load_profile("default")

MEMORY_BYTES = 2 << 30  # above this, compiled programs are dropped between modules


def resident_bytes() -> int:
    """Memory of this process, 0 where the system has no /proc."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0


def pytest_runtest_teardown(item, nextitem):
    """A process that has compiled the programs of all modules would hold 4 GB."""
    if nextitem is not None and nextitem.path == item.path:
        return
    if resident_bytes() > MEMORY_BYTES:
        jax.clear_caches()
        gc.collect()
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc keeps what is freed
            trim(0)


@pytest.fixture(scope="module")
def own_caches(tmp_path_factory):
    """Keep derived data and compiled programs of a module's tests out of the user's folders, and share them."""
    root = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPSM_JAX_CACHE", str(root))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(root / "compiled"))  # for subprocesses
        before = jax.config.jax_compilation_cache_dir
        jax.config.update("jax_compilation_cache_dir", str(root / "compiled"))
        yield root
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture(scope="module")
def compiled_quickly():
    """For programs that run a few times on a few pixels: compiling them takes longer than running them."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
