"""Native Adam against optax's; and both native operations on other machines: instruction sets, threads, platforms."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.config import OptimizationConfig
from ipsm_jax.losses.photometric import photometric_loss, photometric_target
from ipsm_jax.scene.gaussians import Gaussians, zeros
from ipsm_jax.training.optimizer import adam, apply_gradient, learning_rates

RATES = learning_rates(OptimizationConfig(), jnp.float32(2.0), jnp.int32(100))


def random_fields(rng, capacity: int, alive=None) -> Gaussians:
    """Numbers of widely different size, zero in dead slots. Signs alternate, always in the same way: gradients and
    momentum do not cancel, so that one rounding more or less stays one."""

    def draw(a):
        values = np.abs(rng.normal(size=a.shape)) * 10.0 ** rng.uniform(-8, 2, a.shape)
        values *= np.where(np.arange(a.size) % 3 == 1, -1, 1).reshape(a.shape)
        keep = 1 if alive is None else np.asarray(alive).reshape(capacity, *[1] * (a.ndim - 1))
        return jnp.asarray(values * keep, jnp.float32)

    return jax.tree.map(draw, zeros(capacity))


def start(capacity: int, seed: int = 0):
    """Gaussians in the middle of a training: values, alive, moments. A thousand slots in a row are dead, and others."""
    rng = np.random.default_rng(seed)
    alive = rng.uniform(size=capacity) < 0.8
    alive[700:1700] = False
    mu, nu = random_fields(rng, capacity, alive), random_fields(rng, capacity, alive)
    moments = adam().init(zeros(capacity))._replace(count=jnp.int32(41), mu=mu, nu=jax.tree.map(jnp.abs, nu))
    return random_fields(rng, capacity), jnp.asarray(alive), moments, rng


def bits(tree):
    return [np.asarray(a).tobytes() for a in jax.tree.leaves(tree)]


def assert_close(found, wanted, before: Gaussians):
    """Moments to rounding, values to the rounding of the value or of the move."""
    for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(wanted[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=5e-7)
    for a, b, old in zip(found[0], wanted[0], before, strict=True):
        # 1 - 0.999^t loses digits: the same power computed for one number and for many differs by 1e-6 of it.
        assert np.all(np.abs(a - b) <= 2e-7 * np.abs(b) + 4e-6 * np.abs(b - old))


@pytest.mark.parametrize("capacity", [1, 2500])
def test_steps_equal_optax(capacity):
    gaussians, alive, moments, rng = start(capacity)
    native = optax_ = (gaussians, moments)
    step = jax.jit(apply_gradient, static_argnames="backend")
    for _ in range(3):
        gradient = random_fields(rng, capacity, alive)
        before = optax_[0]
        native = step(native[0], gradient, native[1], RATES, alive=alive)
        optax_ = step(*optax_[:1], gradient, optax_[1], RATES, backend="reference")
        assert_close(native, optax_, before)
        native = optax_  # or their distance would grow
    assert jax.tree.structure(native) == jax.tree.structure(optax_)


def test_nothing_moves_where_nothing_is_alive_or_there_is_no_slot():
    gaussians, _, _, _ = start(600)
    moments = adam().init(gaussians)
    moved, new = apply_gradient(gaussians, zeros_like(gaussians), moments, RATES, alive=jnp.zeros(600, bool))
    assert bits(moved) == bits(gaussians)
    assert bits(new) == bits(moments._replace(count=jnp.int32(1)))
    empty = zeros(0)
    moved, new = apply_gradient(empty, empty, adam().init(empty), RATES, alive=jnp.zeros(0, bool))
    assert moved.sh_rest.shape == (0, 15, 3)
    assert int(new.count) == 1


def zeros_like(gaussians: Gaussians) -> Gaussians:
    return jax.tree.map(jnp.zeros_like, gaussians)


def test_a_gradient_that_is_not_a_number_spoils_its_own_entry_only():
    gaussians, alive, moments, rng = start(2500)
    gradient = random_fields(rng, 2500, alive)
    clean = apply_gradient(gaussians, gradient, moments, RATES, alive=alive)
    slot = int(np.flatnonzero(alive)[7])
    broken = gradient._replace(sh_rest=gradient.sh_rest.at[slot, 3, 1].set(jnp.nan))
    found = apply_gradient(gaussians, broken, moments, RATES, alive=alive)
    for part in (lambda r: r[0].sh_rest, lambda r: r[1].mu.sh_rest, lambda r: r[1].nu.sh_rest):
        assert np.isnan(part(found)[slot, 3, 1])
        np.testing.assert_array_equal(part(found).at[slot, 3, 1].set(0), part(clean).at[slot, 3, 1].set(0))
    assert bits(found[0]._replace(sh_rest=0)) == bits(clean[0]._replace(sh_rest=0))


def test_maps_over_seeds_and_leaves_its_operands_alone():
    """The call works in place, on copies where somebody else still needs the operands."""
    states = [start(700, seed) for seed in range(3)]
    gradients = [random_fields(state[3], 700, state[1]) for state in states]
    gaussians, alive, moments = (jax.tree.map(lambda *a: jnp.stack(a), *(s[i] for s in states)) for i in range(3))
    before = bits((gaussians, moments))
    batch = jax.vmap(lambda g, d, m, a: apply_gradient(g, d, m, RATES, alive=a))(
        gaussians, jax.tree.map(lambda *a: jnp.stack(a), *gradients), moments, alive
    )
    assert bits((gaussians, moments)) == before
    # One start, several gradients: the operands that are not mapped over become copies.
    shared = jax.vmap(lambda d: apply_gradient(states[0][0], d, states[0][2], RATES))(
        jax.tree.map(lambda *a: jnp.stack(a), *gradients)
    )
    for k, (state, gradient) in enumerate(zip(states, gradients, strict=True)):
        single = apply_gradient(state[0], gradient, state[2], RATES, alive=state[1])
        assert_close(jax.tree.map(lambda a, k=k: a[k], batch), single, state[0])
        other = apply_gradient(states[0][0], gradient, states[0][2], RATES)
        assert_close(jax.tree.map(lambda a, k=k: a[k], shared), other, states[0][0])


def test_other_precisions_and_platforms_get_optax():
    gaussians, alive, moments, rng = start(5)
    gradient = random_fields(rng, 5)
    traced = jax.jit(apply_gradient).trace(gaussians, gradient, moments, RATES, alive=alive)
    assert "ipsm_adam" in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "ipsm_adam" not in traced.lower(lowering_platforms=("cuda",)).as_text()
    with jax.enable_x64(True):
        double = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), (gaussians, gradient))
        moved, _ = apply_gradient(*double, adam().init(double[0]), RATES)
        assert {a.dtype for a in moved} == {jnp.dtype("float64")}


def everything():
    """A loss, its gradient and a step of Adam, large enough for several threads."""
    rng = np.random.default_rng(5)
    image, photo = (jnp.asarray(rng.uniform(size=(150, 61, 3)), jnp.float32) for _ in range(2))
    loss = jax.value_and_grad(photometric_loss)(image, photometric_target(photo), 0.3)
    gaussians, alive, moments, rng = start(5000)
    return loss, apply_gradient(gaussians, random_fields(rng, 5000, alive), moments, RATES, alive=alive)


PROGRAM = """
import os, sys, numpy as np, jax
if sys.argv[3] == "one":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.path.insert(0, sys.argv[1])
from test_native_adam import everything
np.savez(sys.argv[2], *jax.tree.leaves(everything()))
"""


def elsewhere(path: Path, threads: str = "all", **environment: str) -> list[np.ndarray]:
    """`everything()` in another process."""
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(path), threads]
    subprocess.run(command, check=True, env={**os.environ, **environment}, timeout=300)
    with np.load(path) as found:
        return [found[f"arr_{i}"] for i in range(len(found.files))]


@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_instruction_sets_agree(level, tmp_path):
    found, wanted = elsewhere(tmp_path / "out.npz", IPSM_JAX_SIMD=level), jax.tree.leaves(everything())
    for a, b in zip(found, wanted, strict=True):
        scale = np.linalg.norm(b)
        assert np.linalg.norm(np.asarray(a, np.float64) - b) <= 1e-6 * scale


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot bind a process to a core")
def test_the_number_of_threads_changes_nothing(tmp_path):
    assert bits(elsewhere(tmp_path / "out.npz", threads="one")) == bits(everything())
