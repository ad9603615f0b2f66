"""The loop on the host: order of events, resuming, stopping, failing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.config import DensityConfig, OptimizationConfig, OutputConfig, TrainConfig
from ipsm_jax.training.checkpoint import list_checkpoints, load_run, save_checkpoint
from ipsm_jax.training.loop import Interrupted, TrainingError, _next_event, train

CONFIG = TrainConfig(
    optimization=OptimizationConfig(iterations=60, sh_degree_interval=10),
    density=DensityConfig(
        density_interval=10,
        density_from=20,
        gradient_threshold=1e-4,
        prune_from=25,
        opacity_reset_at=33,
        max_gaussians=128,
    ),
    output=OutputConfig(checkpoint_every=25, eval_every=30, log_every=15),
)


class Diary:
    def __init__(self, folder=None):
        self.folder, self.events, self.iterations = folder, [], 0

    def advanced(self, iteration, count, loss, psnr, gaussians, terms):
        assert iteration == self.iterations + count or not self.iterations
        self.iterations = iteration
        assert np.isfinite([loss, psnr]).all()
        np.testing.assert_allclose(sum(terms.values()), loss, rtol=1e-5)
        self.gaussians = gaussians

    def densified(self, iteration, info, capacity):
        self.events.append(("densified", iteration))

    def save(self, state):
        self.events.append(("saved", int(state.step)))
        if self.folder is not None:
            save_checkpoint(self.folder, CONFIG, state)

    def evaluate(self, state):
        self.events.append(("evaluated", int(state.step)))

    def diagnose(self, state):
        self.events.append(("diagnosed", int(state.step)))

    def show(self, state):
        self.shown = int(state.step)


def copy(state):
    """The loop gives up the buffers of the state that it gets."""
    return jax.tree.map(jnp.copy, state)


def bits(state):
    return [np.asarray(a).tobytes() for a in jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))]


def test_events_come_at_their_iterations(toy):
    diary = Diary()
    state = train(CONFIG, toy.views, copy(toy.states[0]), diary)
    assert diary.events == [
        ("densified", 20),
        ("saved", 25),
        ("evaluated", 30),
        ("densified", 30),
        ("densified", 40),
        ("densified", 50),
        ("saved", 50),
        ("evaluated", 60),
        ("saved", 60),
    ]
    assert int(state.step) == diary.shown == 60
    assert 64 < int(state.alive.sum()) == diary.gaussians <= 128
    assert state.gaussians.capacity == 128  # it grew on the way, and not beyond its limit


def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(toy, tmp_path):
    whole = train(CONFIG, toy.views, copy(toy.states[0]), Diary())
    diary = Diary(tmp_path)
    for stop_after in (17, 41):
        start = load_run(tmp_path)[1] if diary.events else copy(toy.states[0])
        with pytest.raises(Interrupted) as stop:
            train(CONFIG, toy.views, start, diary, lambda limit=stop_after: diary.iterations >= limit)
        assert diary.events[-1] == ("saved", stop.value.iteration)
    assert 17 <= stop.value.iteration < 60
    resumed = train(CONFIG, toy.views, load_run(tmp_path)[1], diary)
    assert bits(resumed) == bits(whole)


def test_a_loss_that_is_not_a_number_ends_training_with_nothing_saved(toy):
    diary = Diary()
    state = copy(toy.states[0])
    broken = toy.views._replace(
        targets=toy.views.targets._replace(l1_image=toy.views.targets.l1_image.at[:, 0, 0, 0].set(jnp.nan))
    )
    with pytest.raises(TrainingError, match=r"the loss \(photometric\) is not a number between iterations 1 and 1"):
        train(CONFIG, broken, state, diary)
    assert diary.events == []


def test_a_loss_that_is_not_a_number_leaves_the_checkpoint_before_it_to_go_on_from(toy, tmp_path):
    whole = train(CONFIG, toy.views, copy(toy.states[0]), Diary())
    diary = Diary(tmp_path)
    with pytest.raises(Interrupted):
        train(CONFIG, toy.views, copy(toy.states[0]), diary, lambda: diary.iterations >= 30)
    saved = load_run(tmp_path)[1]
    assert list(list_checkpoints(tmp_path)) == [25, int(saved.step)]
    before = bits(saved)
    broken = toy.views._replace(
        targets=toy.views.targets._replace(l1_image=toy.views.targets.l1_image.at[:, 0, 0, 0].set(jnp.nan))
    )
    with pytest.raises(TrainingError, match=r"the loss \(photometric\) is not a number .* saved before are intact"):
        train(CONFIG, broken, saved, diary)
    assert bits(load_run(tmp_path)[1]) == before
    resumed = train(CONFIG, toy.views, load_run(tmp_path)[1], diary)
    assert bits(resumed) == bits(whole)


def test_losing_all_gaussians_ends_training(toy):
    config = dataclasses.replace(
        CONFIG,
        density=DensityConfig(
            gradient_threshold=1e9,
            split_distance=1e9,
            unpool_distance=1e9,
            prune_opacity=0.9999,
            density_from=30,
            density_interval=30,
            prune_interval=1,
            prune_from=1,
        ),
    )
    diary = Diary()
    with pytest.raises(TrainingError, match="all Gaussians were pruned after iteration 30"):
        train(config, toy.views, copy(toy.states[0]), diary)
    assert diary.events[-1] == ("densified", 30)


@pytest.mark.parametrize("limit", [1, 7, 50])
def test_no_event_is_jumped_over(limit):
    stops, iteration = [], 0
    while iteration < 60:
        iteration = _next_event(CONFIG, iteration, limit)
        stops.append(iteration)
    assert set(stops) >= {15, 20, 25, 30, 33, 40, 45, 50, 60}
    assert max(np.diff([0, *stops])) <= limit
    assert stops[-1] == 60
