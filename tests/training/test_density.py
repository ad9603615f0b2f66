"""Density control against a slow implementation with lists in float64, and its bookkeeping."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.config import DensityConfig
from ipsm_jax.scene.gaussians import Gaussians, zeros
from ipsm_jax.training.density import control_density, densify, is_due, reset_is_due, reset_opacity
from ipsm_jax.training.state import DensityStatistics, grow, init_state

control = jax.jit(control_density, static_argnums=0)
EXTENT = 1.5
FIELDS = Gaussians._fields


def random_state(seed, capacity=160, alive_count=40, step=700):
    """Slots of all kinds: small and large, hot and cold, faint and opaque, near and far; dead slots hold garbage."""
    rng = np.random.default_rng(seed)
    gaussians = Gaussians(
        means=rng.normal(0, 1, (capacity, 3)) * np.exp(rng.uniform(0, 3, (capacity, 1))),
        log_scales=np.log(EXTENT) + rng.uniform(-9, 2, (capacity, 1)) + rng.uniform(-0.5, 0, (capacity, 3)),
        quaternions=rng.normal(size=(capacity, 4)),
        opacity_logits=rng.uniform(-7, 3, capacity),
        sh_dc=rng.normal(size=(capacity, 3)),
        sh_rest=rng.normal(size=(capacity, 15, 3)),
    )
    gaussians = Gaussians(*(jnp.asarray(a, jnp.float32) for a in gaussians))
    alive = np.zeros(capacity, bool)
    alive[rng.permutation(capacity)[:alive_count]] = True
    state = init_state(jax.random.key(seed), gaussians, jnp.asarray(alive))
    moments = state.moments._replace(
        mu=jax.tree.map(jnp.ones_like, state.moments.mu), nu=jax.tree.map(jnp.ones_like, state.moments.nu)
    )
    visible = rng.integers(0, 5, capacity)
    statistics = DensityStatistics(
        jnp.asarray(rng.uniform(0, 1e-3, capacity) * visible, jnp.float32), jnp.asarray(visible, jnp.int32)
    )
    return state._replace(moments=moments, statistics=statistics, step=jnp.int32(step))


def rows(state):
    """Alive Gaussians as float64 dictionaries, in slot order."""
    fields = {name: np.asarray(getattr(state.gaussians, name), np.float64) for name in FIELDS}
    return [{name: fields[name][i] for name in FIELDS} for i in np.flatnonzero(state.alive)]


def three_neighbors(index, everyone):
    squared = [np.sum((other["means"] - everyone[index]["means"]) ** 2) for other in everyone]
    squared[index] = np.inf
    nearest = np.argsort(squared, kind="stable")[:3]
    return np.mean([squared[k] for k in nearest]), nearest


def oracle(config, state):
    """METHOD section 3, word by word; a split Gaussian's halves carry 'parent' and no mean."""
    gaussians = rows(state)
    count = np.asarray(state.statistics.visible_count)[np.asarray(state.alive)]
    total = np.asarray(state.statistics.gradient_sum, np.float64)[np.asarray(state.alive)]
    step = int(state.step)
    clones, kept, halves, splits = [], [], [], 0
    for g, s, n in zip(gaussians, total, count, strict=True):
        g["hot"] = n > 0 and s / n >= config.gradient_threshold
        if g["hot"] and np.exp(g["log_scales"].max()) <= config.clone_scale * EXTENT:
            clones.append({name: g[name] for name in FIELDS} | {"hot": False})
    everyone = gaussians + clones
    for index, g in enumerate(everyone):
        size = np.exp(g["log_scales"].max())
        lonely = size > EXTENT and three_neighbors(index, everyone)[0] > config.split_distance * EXTENT
        if (g["hot"] and size > config.clone_scale * EXTENT) or lonely:
            half = {name: g[name] for name in FIELDS} | {"parent": g, "log_scales": g["log_scales"] - np.log(1.6)}
            halves += [half, half]
            splits += 1
        else:
            kept.append(g)
    everyone = kept + halves
    unpooled = []
    if step < config.unpool_until:
        assert not halves, "the oracle does not know where halves are"
        for index, g in enumerate(everyone):
            if np.exp(g["log_scales"].max()) > EXTENT:
                distance, nearest = three_neighbors(index, everyone)
                if distance > config.unpool_distance * EXTENT:
                    unpooled += [
                        everyone[k]
                        | {
                            "means": (g["means"] + everyone[k]["means"]) / 2,
                            "quaternions": np.array([1.0, 0, 0, 0]),
                            "sh_dc": np.zeros(3),
                            "sh_rest": np.zeros((15, 3)),
                        }
                        for k in nearest
                    ]
    everyone = everyone + unpooled
    if step >= config.prune_from and step % config.prune_interval == 0:
        survivors = [g for g in everyone if 1 / (1 + np.exp(-g["opacity_logits"])) >= config.prune_opacity]
    else:
        survivors = everyone
    counts = {
        "cloned": len(clones),
        "split": splits,
        "unpooled": len(unpooled),
        "pruned": len(everyone) - len(survivors),
        "refused": 0,
        "alive": len(survivors),
    }
    return survivors, counts


def sort_key(row):
    return (*np.round(row["sh_dc"], 4), *np.round(row["log_scales"], 4), round(float(row["opacity_logits"]), 4))


def assert_same_gaussians(found, expected):
    """Equal as multisets; halves of split Gaussians lie within 6 standard deviations of their parent."""
    order = {"means": lambda r: (*sort_key(r), *np.round(r.get("means", np.zeros(3)), 4))}
    for a, b in zip(sorted(found, key=order["means"]), sorted(expected, key=order["means"]), strict=True):
        for name in FIELDS:
            if name != "means" or "parent" not in b:
                np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-5)
        if "parent" in b:
            parent = b["parent"]
            assert np.linalg.norm(a["means"] - parent["means"]) < 6 * np.exp(parent["log_scales"].max())
            assert not np.allclose(a["means"], parent["means"], rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(6))
def test_clone_split_and_prune_equal_slow_implementation(seed):
    config = DensityConfig()
    state = random_state(seed, step=2100)
    expected, counts = oracle(config, state)
    new, info = control(config, jnp.float32(EXTENT), state)
    assert {k: int(v) for k, v in info._asdict().items()} == counts
    assert min(counts["cloned"], counts["split"], counts["pruned"]) > 0
    assert_same_gaussians(rows(new), expected)


@pytest.mark.parametrize("seed", range(6))
def test_unpooling_equals_slow_implementation(seed):
    config = DensityConfig(gradient_threshold=9.0, split_distance=1e9)
    state = random_state(seed)
    expected, counts = oracle(config, state)
    new, info = control(config, jnp.float32(EXTENT), state)
    assert {k: int(v) for k, v in info._asdict().items()} == counts
    assert counts["unpooled"] > 0
    assert_same_gaussians(rows(new), expected)


def test_distance_alone_makes_a_large_gaussian_split():
    state = random_state(1, step=2100)
    cold = state._replace(statistics=jax.tree.map(jnp.zeros_like, state.statistics))
    config = DensityConfig()
    expected, counts = oracle(config, cold)
    new, info = control(config, jnp.float32(EXTENT), cold)
    assert counts["split"] > 0
    assert counts["cloned"] == 0
    assert int(info.split) == counts["split"]
    assert_same_gaussians(rows(new), expected)


@pytest.mark.parametrize(("step", "prunes"), [(500, False), (600, False), (1000, True)])
def test_pruning_starts_after_iteration_500_and_can_be_rarer_than_density_control(step, prunes):
    config = DensityConfig(prune_interval=500)
    _, info = control(config, jnp.float32(EXTENT), random_state(0, step=step))
    assert (int(info.pruned) > 0) == prunes


def test_halves_are_distributed_like_their_parent():
    count = 4000
    scales, quaternion = np.array([0.5, 0.1, 0.02]), np.array([0.9, 0.3, -0.5, 0.2]) * 3
    gaussians = zeros(2 * count)._replace(
        means=jnp.ones((2 * count, 3)),
        log_scales=jnp.tile(jnp.log(jnp.float32(scales))[None], (2 * count, 1)),
        quaternions=jnp.tile(jnp.float32(quaternion)[None], (2 * count, 1)),
    )
    state = init_state(jax.random.key(4), gaussians, jnp.arange(2 * count) < count)
    state = state._replace(
        statistics=DensityStatistics(jnp.ones(2 * count), jnp.ones(2 * count, jnp.int32)), step=jnp.int32(3000)
    )
    new, info = control(DensityConfig(), jnp.float32(1.0), state)
    assert int(info.split) == count
    assert bool(new.alive.all())
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    offsets = np.asarray(new.gaussians.means, np.float64) - 1
    whitened = offsets @ rotation / scales
    np.testing.assert_allclose(whitened.T @ whitened / len(whitened), np.eye(3), atol=0.06)  # 6 sigma is 0.067
    np.testing.assert_allclose(whitened.mean(0), 0, atol=0.06)
    siblings = np.mean(whitened[:count] * whitened[count:], axis=0)
    np.testing.assert_allclose(siblings, 0, atol=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_new_gaussians_have_zero_moments_and_survivors_keep_theirs(seed):
    state = random_state(seed, step=450)  # nothing is pruned yet
    new, info = control(DensityConfig(), jnp.float32(EXTENT), state)
    assert int(info.pruned) == 0
    fresh = int(info.cloned) + 2 * int(info.split) + int(info.unpooled)
    assert int(info.unpooled) > 0
    for leaf in jax.tree.leaves((new.moments.mu, new.moments.nu)):
        per_slot = np.asarray(leaf).reshape(len(leaf), -1)
        assert np.isin(per_slot, (0, 1)).all()
        assert (per_slot == per_slot[:, :1]).all()
        alive = np.asarray(new.alive)
        assert (per_slot[alive, 0] == 0).sum() == fresh
        assert not per_slot[~alive].any()
        # A survivor sits in the slot it had, with all its numbers.
        kept = alive & (per_slot[:, 0] == 1)
        for name in FIELDS:
            np.testing.assert_array_equal(
                np.asarray(getattr(new.gaussians, name))[kept], np.asarray(getattr(state.gaussians, name))[kept]
            )
    assert not np.any(new.statistics.gradient_sum)
    assert not np.any(new.statistics.visible_count)
    assert int(new.moments.count) == int(state.moments.count)


@pytest.mark.parametrize("seed", range(2))
def test_running_out_of_slots_doubles_them_and_gives_what_plenty_would_have_given(seed):
    config = DensityConfig()
    tight = random_state(seed, capacity=70, step=600)
    plenty, expected = control(config, jnp.float32(EXTENT), grow(tight, 160))
    assert int(expected.refused) == 0
    new, info = densify(config, jnp.float32(EXTENT), tight)
    assert info == expected
    capacity = new.gaussians.capacity
    assert capacity == 140
    for small, large in zip(jax.tree.leaves(new._replace(key=0)), jax.tree.leaves(plenty._replace(key=0)), strict=True):
        np.testing.assert_array_equal(small, large[:capacity] if np.ndim(large) else large)
        assert not np.any(np.asarray(plenty.alive)[capacity:])


def test_at_the_limit_the_highest_statistics_win_and_the_rest_is_counted():
    limit = 46
    config = DensityConfig(max_gaussians=limit, split_distance=1e9, prune_opacity=1e-9)
    state = random_state(3, capacity=limit, alive_count=40, step=2100)
    new, info = densify(config, jnp.float32(EXTENT), state)
    assert new.gaussians.capacity == limit
    statistic = np.where(state.alive, state.statistics.mean(), 0)
    hot = np.flatnonzero(statistic >= config.gradient_threshold)
    assert len(hot) > 6
    assert int(info.refused) == len(hot) - 6
    assert int(info.cloned) + int(info.split) == 6
    assert int(info.alive) == limit
    size = np.exp(np.asarray(state.gaussians.log_scales).max(1))
    winners = hot[np.argsort(-statistic[hot])][:6]
    assert int(info.split) == (size[winners] > 0.01 * EXTENT).sum()
    born = {tuple(row) for row in np.asarray(new.gaussians.sh_dc)[np.asarray(new.moments.mu.opacity_logits) == 0]}
    assert born == {tuple(row) for row in np.asarray(state.gaussians.sh_dc)[winners]}


def test_density_control_maps_over_seeds():
    states = [random_state(seed) for seed in range(2)]
    batch = jax.tree.map(lambda *a: jnp.stack(a), *states)
    over_seeds = jax.jit(jax.vmap(control_density, in_axes=(None, None, 0)), static_argnums=0)
    new, info = over_seeds(DensityConfig(), jnp.float32(EXTENT), batch)
    for i, state in enumerate(states):
        single, single_info = control(DensityConfig(), jnp.float32(EXTENT), state)
        assert jax.tree.map(lambda a, i=i: int(a[i]), info) == jax.tree.map(int, single_info)
        np.testing.assert_array_equal(new.alive[i], single.alive)
        np.testing.assert_allclose(new.gaussians.means[i], single.gaussians.means, rtol=1e-5, atol=1e-5)


def test_schedule_of_density_control_and_resets():
    config = DensityConfig()
    due = [i for i in range(1, 10_001) if is_due(config, i, 10_000)]
    assert due == list(range(500, 10_000, 100))
    assert [i for i in range(10_001) if reset_is_due(config, i)] == [2001]
    dtu = dataclasses.replace(config, opacity_reset_interval=1000)
    assert [i for i in range(10_001) if reset_is_due(dtu, i)] == list(range(2001, 10_001, 1000))
    assert not any(reset_is_due(dataclasses.replace(config, opacity_reset_at=0), i) for i in range(10_001))
    assert max(i for i in range(10_001) if is_due(dataclasses.replace(config, density_until=700), i, 10_000)) == 700


def test_opacity_reset_caps_opacity_and_clears_its_moments_only():
    state = random_state(0)
    new = reset_opacity(0.05, state)
    before, after = (jax.nn.sigmoid(s.gaussians.opacity_logits) for s in (state, new))
    np.testing.assert_allclose(after, np.minimum(before, 0.05), rtol=1e-5)
    for name in FIELDS:
        for part in ("mu", "nu"):
            moment = np.asarray(getattr(getattr(new.moments, part), name))
            assert (moment == (0 if name == "opacity_logits" else 1)).all()


@pytest.mark.parametrize(("field", "value"), [*((field, np.nan) for field in FIELDS), ("opacity_logits", np.inf)])
def test_gaussians_with_numbers_that_are_not_finite_are_removed(field, value):
    config = DensityConfig(prune_from=10_000, gradient_threshold=1e9, split_distance=1e9, unpool_distance=1e9)
    state = random_state(3)
    broken = np.flatnonzero(state.alive)[7]
    gaussians = state.gaussians._replace(**{field: getattr(state.gaussians, field).at[broken].set(value)})
    after, info = control(config, EXTENT, state._replace(gaussians=gaussians))
    assert np.flatnonzero(state.alive & ~after.alive) == [broken] and (info.pruned, info.alive) == (1, 39)
    assert not np.asarray(after.moments.mu.means)[broken].any()
