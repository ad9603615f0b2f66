"""A whole gradient of score distillation, from the picture through both models to the picture, against torch.

Both sides read one tiny checkpoint of random weights; timestep, noise and posterior samples are handed over.
"""

import dataclasses
import warnings
from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_checkpoint import write_pair

from ipsm_jax.losses.distillation import DistillationOptions, distillation_loss
from ipsm_jax.priors.stable_diffusion import load_stable_diffusion

REASON = "parity with torch needs the extra `parity`: torch, diffusers and transformers"
pytest.importorskip("torch", reason=REASON)
with warnings.catch_warnings():  # these packages warn about each other when imported
    warnings.simplefilter("ignore")
    pytest.importorskip("diffusers", reason=REASON)
    pytest.importorskip("transformers", reason=REASON)
    from torch_distillation import Networks, draws_of, image_gradients, setting_of

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("own_caches", "compiled_quickly")]
TOLERANCE = 2e-5  # float32 leaves about 3e-6
PROMPT, NEGATIVE = "a photo of the thing, realistic, 8k", "blurry, unrealistic"
ITERATION = 2250  # in the middle of the ramp
KEY = jax.random.key(11)
SIZE = (9, 40)  # smaller than the models' on one side, so large on the other that pixels fall between those looked at
CASES = {
    "SDS": DistillationOptions(terms=("sds",), guidance_scale=100.0),
    "G1": DistillationOptions(terms=("g1",)),
    "G1 + G2 published": DistillationOptions(terms=("g1", "g2")),
    "G2 paper + G1, one encoding, two scales": DistillationOptions(
        terms=("g2", "g1"), g2_sign="paper", encode="shared", guidance_scale=4.0
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def prior(folders):
    return load_stable_diffusion(*folders, PROMPT, NEGATIVE, jnp.float32)


@pytest.fixture(scope="module")
def networks(folders):
    return Networks(*folders, kept=3)


def views(height, width, seed=0):
    """A picture, another one in place of the warped photo, and a mask with a hole of odd shape."""
    rng = np.random.default_rng(seed)
    image, warped = (rng.random((height, width, 3), np.float32) for _ in range(2))
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    return image, warped, np.hypot(rows - 0.3, columns - 0.6) > 0.25


@partial(jax.jit, static_argnames="options")
def ours(image, warped, known, prior, options):
    """d(loss)/d(image), and the timestep."""

    def loss(x):
        value, info = distillation_loss(KEY, options, prior, x, warped, known, ITERATION)
        return value, info.timestep

    return jax.grad(loss, has_aux=True)(image)


def sizes(prior):
    return prior.alphas_cumprod, prior.image_size, prior.latent_shape


def both(prior, networks, options, views, key=KEY):
    """Our gradient, and torch's with what is drawn with a key."""
    image, *photo = views if options.needs_warp else (views[0], None, None)
    setting = setting_of(options, ITERATION, PROMPT, NEGATIVE)
    draws = draws_of(key, options, *sizes(prior))
    theirs = sum(image_gradients(networks, image, *photo, draws, setting).values())
    found, timestep = ours(image, *photo, prior, options)
    assert (draws.timestep == timestep) == (key is KEY)
    assert found.shape == theirs.shape == image.shape
    return np.asarray(found), theirs


def relative_error(found, theirs):
    return float(np.abs(found - theirs).max() / np.abs(theirs).max())


@pytest.fixture(scope="module")
def gradients(prior, networks):
    """Ours and torch's of all cases."""
    return {name: both(prior, networks, options, views(*SIZE)) for name, options in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_gradient(name, gradients):
    found, theirs = gradients[name]
    assert relative_error(found, theirs) < TOLERANCE
    np.testing.assert_array_equal(found != 0, theirs != 0)
    assert 0.5 < np.mean(found != 0) < 1


@pytest.mark.parametrize("name", ["SDS", "G1 + G2 published"])
def test_what_is_handed_over_matters(name, prior, networks, gradients):
    """With another key's timestep, noise and samples, the gradients have nothing to do with each other."""
    _, others = both(prior, networks, CASES[name], views(*SIZE), jax.random.key(12))
    assert relative_error(gradients[name][0], others) > 0.1


def test_cases_differ(gradients):
    for (_, one), (_, other) in combinations(gradients.values(), 2):
        assert relative_error(one, other) > 1e-2


def test_each_term_has_a_sample_of_its_own_unless_shared(prior):
    draws = draws_of(KEY, CASES["G1 + G2 published"], *sizes(prior))
    numbers = [*draws.posterior.values(), draws.noise, draws.warped_posterior]
    assert all(np.abs(one - other).max() > 0.5 for one, other in combinations(numbers, 2))
    shared = draws_of(KEY, dataclasses.replace(CASES["G1 + G2 published"], encode="shared"), *sizes(prior))
    np.testing.assert_array_equal(*shared.posterior.values())
