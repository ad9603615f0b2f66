"""The training step: view order, harmonics, statistics, one Adam step, batches of seeds."""

import dataclasses
import math
import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.config import OptimizationConfig
from ipsm_jax.losses.photometric import photometric_loss
from ipsm_jax.rasterizer import render
from ipsm_jax.training.state import no_statistics
from ipsm_jax.training.step import (
    add_to_statistics,
    run_steps,
    sh_degree_of_step,
    train_step,
    view_of_step,
)

CONFIG = OptimizationConfig(iterations=300, sh_degree_interval=3)
views_of_steps = jax.jit(jax.vmap(view_of_step, in_axes=(None, 0, None)), static_argnums=2)
run = jax.jit(run_steps, static_argnums=0)
step_once = jax.jit(train_step, static_argnums=0)


@hypothesis.given(seed=st.integers(0, 2**31 - 1), views=st.sampled_from([1, 2, 3, 7]))
@hypothesis.settings(max_examples=20)
def test_every_view_is_drawn_once_an_epoch(seed, views):
    steps = jnp.arange(4 * views)
    drawn = views_of_steps(jax.random.key(seed), steps, views)
    for epoch in np.asarray(drawn).reshape(4, views):
        assert sorted(epoch.tolist()) == list(range(views))


def test_view_order_changes_between_epochs_and_seeds():
    drawn = [np.asarray(views_of_steps(jax.random.key(seed), jnp.arange(70), 7)).reshape(10, 7) for seed in (0, 1)]
    assert len({tuple(epoch) for epoch in drawn[0]}) > 5
    assert not np.array_equal(drawn[0], drawn[1])


@pytest.mark.parametrize(
    ("iteration", "degree"), [(1, 0), (499, 0), (500, 1), (999, 1), (1000, 2), (1500, 3), (9999, 3)]
)
def test_harmonics_rise_by_one_every_500_iterations(iteration, degree):
    assert int(sh_degree_of_step(OptimizationConfig(), jnp.int32(iteration - 1))) == degree
    assert int(sh_degree_of_step(OptimizationConfig(sh_degree=1), jnp.int32(iteration - 1))) == min(degree, 1)


def test_statistics_are_in_normalized_device_coordinates_and_of_visible_gaussians_only():
    statistics = no_statistics(3)
    gradient = jnp.array([[0.3, -0.4], [1.0, 2.0], [0.0, 0.5]])
    for radii in ([5, 0, 1], [2, 0, 0]):
        statistics = add_to_statistics(statistics, gradient, jnp.array(radii), 20, 10)
    np.testing.assert_allclose(statistics.gradient_sum, [2 * np.hypot(3.0, 2.0), 0, 2.5], rtol=1e-6)
    assert statistics.visible_count.tolist() == [2, 0, 1]
    np.testing.assert_allclose(statistics.mean(), [np.hypot(3.0, 2.0), 0, 2.5], rtol=1e-6)


def test_one_step_moves_everything_by_its_learning_rate_and_leaves_dead_slots(toy):
    """Adam's first step is the sign of the gradient, so its size is the learning rate wherever there is a gradient."""
    state = toy.states[0]
    new, info = step_once(CONFIG, toy.views, state)
    index = int(view_of_step(state.key, state.step, 3))
    camera, target = toy.views.cameras[index], jax.tree.map(lambda a: a[index], toy.views.targets)

    def loss_of(gaussians, offset):
        image = render(gaussians, camera, alive=state.alive, sh_degree=0, mean2d_offset=offset).color
        return photometric_loss(image, target, CONFIG.ssim_weight)

    loss, (gradient, screen) = jax.value_and_grad(loss_of, argnums=(0, 1))(state.gaussians, jnp.zeros((64, 2)))
    np.testing.assert_allclose(info.loss, loss, rtol=1e-5)
    rates = {
        "means": 1.6e-4 * 1.1,
        "log_scales": 5e-3,
        "quaternions": 1e-3,
        "opacity_logits": 0.05,
        "sh_dc": 2.5e-3,
        "sh_rest": 1.25e-4,
    }
    for name, rate in rates.items():
        slope = np.asarray(getattr(gradient, name))
        moved = np.asarray(getattr(new.gaussians, name)) - np.asarray(getattr(state.gaussians, name))
        clear = np.abs(slope) > 1e-7
        assert clear.any() or name == "sh_rest"  # the degree is 0
        np.testing.assert_allclose(moved[clear], -rate * np.sign(slope[clear]), rtol=2e-2)
        assert not moved[~np.asarray(state.alive)].any()
    ndc = np.hypot(screen[:, 0] * 12, screen[:, 1] * 8)
    np.testing.assert_allclose(new.statistics.gradient_sum, ndc, rtol=1e-3, atol=1e-7)
    assert int(new.step) == 1


def test_steps_of_a_batch_of_seeds_and_scenes_equal_single_runs(toy):
    scenes = [toy.views, toy.views._replace(extent=jnp.float32(3.0))]
    batch, batch_views = (jax.tree.map(lambda *a: jnp.stack(a), *both) for both in (toy.states, scenes))
    together, info = jax.jit(jax.vmap(run_steps, in_axes=(None, 0, 0, None)), static_argnums=0)(
        CONFIG, batch_views, batch, 5
    )
    losses = []
    for i, state in enumerate(toy.states):
        single, single_info = run(CONFIG, scenes[i], state, 5)
        np.testing.assert_allclose(info.loss[i], single_info.loss, rtol=1e-4)
        for name in single.gaussians._fields:
            np.testing.assert_allclose(
                getattr(together.gaussians, name)[i], getattr(single.gaussians, name), rtol=1e-3, atol=1e-4
            )
        losses.append(float(single_info.loss))
    assert losses[0] != losses[1]  # the seeds see the views in different order


def test_same_seed_gives_same_bits_however_steps_are_grouped(toy):
    def bits(state):
        return [np.asarray(a).tobytes() for a in jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))]

    state = toy.states[0]
    at_once, _ = run(CONFIG, toy.views, state, 12)
    again, _ = run(CONFIG, toy.views, state, 12)
    for count in (1, 4, 7):
        state, _ = run(CONFIG, toy.views, state, count)
    assert bits(at_once) == bits(again) == bits(state)


def test_compiled_steps_copy_nothing_large(toy):
    """The state is changed in place, and the views' targets are read where they are."""
    program = jax.jit(run_steps, static_argnums=0, donate_argnums=2).lower(CONFIG, toy.views, toy.states[0], 5)
    text = program.compile().as_text()
    moved = re.findall(r"= \w+\[([\d,]+)\]\S* (?:copy|dynamic-slice|gather)\(", text)
    assert moved  # the cameras' matrices
    assert max(math.prod(int(size) for size in shape.split(",")) for shape in moved) < toy.states[0].gaussians.capacity


def test_native_and_reference_steps_agree(toy):
    native, info = step_once(CONFIG, toy.views, toy.states[0])
    config = dataclasses.replace(CONFIG, backend="reference")
    reference, reference_info = step_once(config, toy.views, toy.states[0])
    np.testing.assert_allclose(info.loss, reference_info.loss, rtol=1e-5)
    np.testing.assert_allclose(info.psnr, reference_info.psnr, rtol=1e-5)
    for a, b in zip(native.moments.mu, reference.moments.mu, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())


def test_training_raises_psnr(toy):
    state, first = run(CONFIG, toy.views, toy.states[0], 3)
    state, _ = run(CONFIG, toy.views, state, 250)
    _, last = run(CONFIG, toy.views, state, 3)
    assert float(last.psnr) > float(first.psnr) + 4
    assert float(last.loss) < float(first.loss)


def test_on_a_gpu_the_rasterizer_alone_is_native(toy):
    """What is lowered for CUDA, which needs no GPU: loss and optimizer have no kernels there."""
    lowered = run.trace(CONFIG, toy.views, toy.states[0], 3).lower(lowering_platforms=("cuda",))
    called = {name for name in re.findall(r"custom_call @(\w+)", lowered.as_text()) if name.startswith("ipsm")}
    assert called == {"ipsm_rasterize_forward", "ipsm_rasterize_backward"}


def test_the_most_pairs_of_several_iterations_are_told(toy):
    """Where too little room for them spoils an iteration, this number says how much to make."""
    state, counts = toy.states[0], []
    for _ in range(4):
        state, info = step_once(CONFIG, toy.views, state)
        counts.append(int(info.pairs))
    _, info = run(CONFIG, toy.views, toy.states[0], 4)
    assert int(info.pairs) == max(counts) > 0
