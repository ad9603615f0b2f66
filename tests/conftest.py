"""Settings for all tests: no silent rank promotion, and a fixed hypothesis profile without wall-clock deadlines."""

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("default", deadline=None, derandomize=True)
hypothesis.settings.load_profile("default")


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
