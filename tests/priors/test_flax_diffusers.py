"""diffusers' Flax modules behind the same interface, against ours."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_checkpoint import UNET, write_network, write_pair

from ipsm_jax.priors.config import PriorError
from ipsm_jax.priors.diffusion import guided_noise, guided_noise_inpaint
from ipsm_jax.priors.stable_diffusion import load_stable_diffusion
from ipsm_jax.priors.unet import UNetConfig, unet_shapes

REASON = "the second backend needs the extra `diffusers`"
with warnings.catch_warnings():  # these packages warn about each other when imported
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip("diffusers", reason=REASON)
    pytest.importorskip("transformers", reason=REASON)
    pytest.importorskip("flax", reason=REASON)
    from ipsm_jax.priors.flax_diffusers import flax_params, with_flax_modules

    assert diffusers.FlaxUNet2DConditionModel and diffusers.FlaxAutoencoderKL

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("own_caches")]


@pytest.fixture(autouse=True)
def allow_rank_promotion():
    """diffusers' code relies on it."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def priors(tmp_path_factory):
    """Ours and theirs; the Flax U-Net knows 32 groups only, so it is wider than the tiny one elsewhere."""
    folders = write_pair(tmp_path_factory.mktemp("checkpoint"))
    for folder, channels in zip(folders, (4, 9), strict=True):
        settings = {**UNET, "block_out_channels": [32, 64], "norm_num_groups": 32, "in_channels": channels}
        for file in (folder / "unet").iterdir():
            file.unlink()
        (folder / "unet").rmdir()
        write_network(folder / "unet", settings, unet_shapes(UNetConfig.from_json(settings)), channels)
    ours = load_stable_diffusion(*folders, "a photo of the thing", "blurry", jnp.float32)
    return ours, with_flax_modules(ours)


def relative_error(a, b):
    return float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())


def test_noise_differs_by_their_approximations_only(priors):
    """They use tanh's GELU and another epsilon: small, but more than rounding."""
    latents = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
    mask = (jax.random.uniform(jax.random.key(1), (2, 8, 8, 1)) > 0.5).astype(jnp.float32)
    t = jnp.array([20, 700])
    ours, theirs = (guided_noise(prior, latents, t, 1.0) for prior in priors)
    assert 1e-6 < relative_error(theirs, ours) < 5e-4
    ours, theirs = (guided_noise_inpaint(prior, latents, t, mask, latents, 1.0) for prior in priors)
    assert 1e-6 < relative_error(theirs, ours) < 5e-4


def test_autoencoder_is_the_same(priors):
    images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    for key in (None, jax.random.key(1)):
        ours, theirs = (prior.encode(prior.params, images, key) for prior in priors)
        assert relative_error(theirs, ours) < 1e-5
    ours, theirs = (prior.decode(prior.params, ours) for prior in priors)
    assert relative_error(theirs, ours) < 1e-5


def test_it_compiles_once_for_equal_priors(priors):
    theirs = priors[1]
    traces = []

    @jax.jit
    def encode(prior, images):
        traces.append(1)
        return prior.encode(prior.params, images, None)

    images = jnp.zeros((1, 16, 16, 3))
    encode(theirs, images)
    encode(dataclasses.replace(theirs, alphas_cumprod=theirs.alphas_cumprod * 0.5), images)
    assert len(traces) == 1


def test_unknown_structures_are_refused(priors):
    narrow = UNetConfig.from_json({**UNET, "layers_per_block": [1, 2]})
    ours = priors[0]
    predict = dataclasses.replace(ours.predict_noise, config=narrow)
    with pytest.raises(PriorError, match=r"does not know group norms with 4 groups .* nor \(1, 2\) layers"):
        with_flax_modules(dataclasses.replace(ours, predict_noise=predict))


def test_other_arrays_are_refused(priors):
    class Module:
        def init_weights(self, key):
            return {"conv_in": {"kernel": jnp.zeros((3, 3, 4, 8))}}

    with pytest.raises(PriorError, match=r"built of other arrays, such as conv_in\.bias"):
        flax_params(Module(), {"conv_in.weight": jnp.zeros((3, 3, 4, 8)), "conv_in.bias": jnp.zeros(8)})
