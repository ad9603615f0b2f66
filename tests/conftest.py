"""Settings for all tests: no silent rank promotion, and a fixed hypothesis profile without wall-clock deadlines."""

import hypothesis
import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("default", deadline=None, derandomize=True)
hypothesis.settings.load_profile("default")
