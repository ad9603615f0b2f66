"""Pseudo views: rigid, near the training cameras, with the stated noise; the three kinds and their refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ipsm_jax.scene.camera import Camera, look_at
from ipsm_jax.scene.pseudo_views import choose_pseudo_views, pseudo_view_sampler, sample_pseudo_view
from ipsm_jax.scene.trajectories import average_pose, focus_depth, focus_point

BOUNDS = np.array([[18.9, 77.4], [17.9, 78.7], [17.5, 76.7]])  # as in a real forward-facing capture
KINDS = ("llff", "dtu", "around")


def batch(matrices) -> Camera:
    return Camera(
        np.stack(matrices).astype(np.float32),
        np.tile(np.array([50, 50, 20, 15], np.float32), (len(matrices), 1)),
        width=40,
        height=30,
    )


def converging(seed: int = 0, count: int = 3) -> Camera:
    """Cameras a few units apart that look at about the same place, some 40 units ahead, in a turned world."""
    rng = np.random.default_rng(seed)
    turn = Rotation.random(rng=rng).as_matrix()
    shift = rng.normal(size=3) * 10
    centers = rng.normal(size=(count, 3)) * (3, 2, 0.5)
    targets = rng.normal((0, 0, 40), 1, size=(count, 3))
    up = turn @ np.array([0.0, -1, 0])
    return batch([look_at(turn @ c + shift, turn @ t + shift, up) for c, t in zip(centers, targets, strict=True)])


sample_many = jax.jit(
    jax.vmap(sample_pseudo_view, in_axes=(None, None, 0)), compiler_options={"xla_backend_optimization_level": 0}
)


def draws(sampler, count=400, seed=0):
    drawn = sample_many(jax.random.key(seed), sampler, jnp.arange(count))
    return np.asarray(drawn.camera_from_world, np.float64), np.asarray(drawn.reference)


def centers_of(matrices):
    matrices = np.asarray(matrices, np.float64)
    return -np.einsum("vji,vj->vi", matrices[:, :3, :3], matrices[:, :3, 3])


def without_noise(sampler):
    return sampler._replace(noise=jnp.zeros(()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("list_length", [0, 10_000])
def test_views_are_rigid_and_come_from_every_training_view(kind, list_length):
    sampler = pseudo_view_sampler(converging(), BOUNDS, kind, list_length=list_length)
    matrices, references = draws(sampler)
    rotation = matrices[:, :3, :3]
    np.testing.assert_allclose(
        rotation @ rotation.swapaxes(1, 2), np.broadcast_to(np.eye(3), rotation.shape), atol=1e-5
    )
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-5)
    np.testing.assert_array_equal(matrices[:, 3], np.tile([0, 0, 0, 1], (400, 1)))
    counts = np.bincount(references, minlength=3)
    assert counts.shape == (3,) and np.all(np.abs(counts - 400 / 3) < 5 * np.sqrt(400 * 2 / 9))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_without_noise_the_training_position_comes_back(kind, seed):
    cameras = converging(seed)
    sampler = without_noise(pseudo_view_sampler(cameras, BOUNDS, kind))
    matrices, references = draws(sampler, seed=seed)
    centers = centers_of(cameras.camera_from_world)
    np.testing.assert_allclose(centers_of(matrices), centers[references], atol=2e-5)
    if kind == "around":
        np.testing.assert_allclose(matrices, cameras.camera_from_world[references], atol=2e-5)
    else:
        seen = matrices @ np.append(sampler.targets[0], 1)
        np.testing.assert_allclose(seen[:, :2], 0, atol=1e-4)
        assert np.all(seen[:, 2] > 0)


def test_llff_looks_ahead_of_the_average_pose_at_the_focus_depth_with_mean_up():
    cameras = converging()
    sampler = pseudo_view_sampler(cameras, BOUNDS, "llff")
    pose = average_pose(cameras)
    depth = 1 / (0.25 / (0.9 * 17.5) + 0.75 / (5 * 78.7))
    assert focus_depth(BOUNDS) == pytest.approx(depth)
    np.testing.assert_allclose(sampler.targets, np.tile(pose[:3, 3] + depth * pose[:3, 2], (3, 1)), rtol=1e-5)
    assert float(sampler.unit) == pytest.approx(0.75 * 17.5)
    matrices, _ = draws(sampler)
    up = -cameras.camera_from_world[:, 1, :3].mean(0)
    np.testing.assert_allclose(np.einsum("nj,j->n", matrices[:, 0, :3], up), 0, atol=1e-5)  # x stays level
    assert np.all(np.einsum("nj,j->n", matrices[:, 1, :3], up) < 0)  # y points down
    in_view = np.einsum("nij,j->ni", matrices, np.append(sampler.targets[0], 1))
    assert np.all(np.hypot(in_view[:, 0], in_view[:, 1]) < 6 * 0.05 * 0.75 * 17.5)
    assert np.all(in_view[:, 2] > 0.8 * depth)


def test_dtu_looks_at_the_common_point_in_units_of_the_cameras_spread():
    cameras = converging()
    sampler = pseudo_view_sampler(cameras, None, "dtu")
    np.testing.assert_allclose(sampler.targets, np.tile(focus_point(cameras), (3, 1)), rtol=1e-5)
    aligned = np.asarray(sampler.aligned, np.float64)
    assert np.abs(aligned).max() == pytest.approx(1)
    np.testing.assert_allclose(aligned.mean(0), 0, atol=1e-6)
    moments = aligned.T @ aligned
    np.testing.assert_allclose(moments, np.diag(np.diag(moments)), atol=1e-5)  # principal axes
    assert np.all(np.diff(np.diag(moments)) <= 1e-6)
    centers = centers_of(cameras.camera_from_world)
    back = aligned @ np.asarray(sampler.world_from_aligned).T * float(sampler.unit) + centers.mean(0)
    np.testing.assert_allclose(back, centers, atol=1e-4)


@pytest.mark.parametrize("list_length", [0, 10_000])
def test_noise_has_the_stated_distribution(list_length):
    """E[s^2] for s = 0.05 max(0.2, u) is 0.05^2 (0.2^3 + (1 - 0.2^3) / 3)."""
    sampler = pseudo_view_sampler(converging(), BOUNDS, "around", list_length=list_length)
    count = 20_000 if list_length == 0 else 10_000  # the whole list
    matrices, references = draws(sampler, count)
    offsets = (centers_of(matrices) - np.asarray(sampler.centers, np.float64)[references]) / float(sampler.unit)
    second = 0.05**2 * (0.2**3 + (1 - 0.2**3) / 3)
    fourth = 3 * 0.05**4 * (0.2**5 + (1 - 0.2**5) / 5)
    np.testing.assert_allclose(offsets.mean(0), 0, atol=5 * np.sqrt(second / count))
    np.testing.assert_allclose((offsets**2).mean(0), second, atol=5 * np.sqrt(fourth / count))
    np.testing.assert_allclose((offsets**4).mean(0), fourth, rtol=0.15)
    np.testing.assert_allclose(np.corrcoef(offsets.T) - np.eye(3), 0, atol=5 / np.sqrt(count))


def test_the_list_is_used_up_before_it_repeats():
    sampler = pseudo_view_sampler(converging(), BOUNDS, "llff", list_length=50)
    matrices, _ = draws(sampler, 100)
    first, second = (np.unique(part.reshape(50, 16), axis=0) for part in (matrices[:50], matrices[50:]))
    assert len(first) == 50
    np.testing.assert_array_equal(first, second)  # the same entries
    assert np.any(matrices[:50] != matrices[50:])  # begun elsewhere
    shares = np.asarray(sampler.shares)
    np.testing.assert_allclose(np.sort(shares), np.arange(50) / 50, rtol=1e-6)
    assert abs(np.corrcoef(shares, np.arange(50))[0, 1]) < 0.5  # not in their order


def test_positions_are_clipped_to_the_box():
    sampler = pseudo_view_sampler(converging(), None, "dtu")
    inside = sampler._replace(noise=jnp.float32(3.0))
    matrices, _ = draws(inside)
    origin = centers_of(converging().camera_from_world).mean(0)
    aligned = (centers_of(matrices) - origin) @ np.asarray(sampler.world_from_aligned) / float(sampler.unit)
    assert np.abs(aligned).max() == pytest.approx(1, abs=1e-4)
    assert np.mean(np.abs(np.abs(aligned) - 1) < 1e-4) > 0.3


def test_a_training_camera_outside_the_box_widens_it():
    sampler = pseudo_view_sampler(converging(), BOUNDS / 20, "llff")
    assert float(sampler.box) == pytest.approx(float(jnp.abs(sampler.aligned).max())) and float(sampler.box) > 1
    assert float(pseudo_view_sampler(converging(), BOUNDS, "llff").box) == 1


def test_around_an_object_without_bounds_and_out_of_a_room_with_bounds():
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    ring = [np.array([4 * np.cos(a), -1.0, 4 * np.sin(a)]) for a in angles]
    inwards = batch([look_at(c, (0, 0, 0)) for c in ring])
    sampler = pseudo_view_sampler(inwards, None, "around")
    np.testing.assert_allclose(sampler.targets, 0, atol=1e-5)
    assert float(sampler.unit) == pytest.approx(0.5 * np.sqrt(17))
    matrices, references = draws(sampler)
    assert np.linalg.norm(centers_of(matrices) - np.stack(ring)[references], axis=1).max() < 6 * 0.05 * 2.1
    outwards = batch([look_at(c, 2 * c) for c in ring])
    with pytest.raises(ValueError, match="give depth bounds"):
        pseudo_view_sampler(outwards, None, "around")
    bounds = np.tile([[2.0, 10.0]], (8, 1))
    sampler = pseudo_view_sampler(outwards, bounds, "around")
    matrices, references = draws(sampler)
    toward = np.asarray(outwards.camera_from_world)[references, 2, :3]
    assert np.einsum("ni,ni->n", matrices[:, 2, :3], toward).min() > np.cos(np.radians(10))


def test_the_kind_follows_from_the_cameras():
    assert choose_pseudo_views(converging(), BOUNDS) == "llff"
    assert choose_pseudo_views(converging(), None) == "around"
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    ring = batch([look_at((4 * np.cos(a), -1.0, 4 * np.sin(a)), (0, 0, 0)) for a in angles])
    assert choose_pseudo_views(ring, np.tile([[2.0, 10.0]], (8, 1))) == "around"


def test_two_cameras_and_one_camera():
    two = pseudo_view_sampler(converging(count=2), None, "dtu")
    assert np.isfinite(draws(two)[0]).all()
    one = pseudo_view_sampler(converging(count=1), BOUNDS[:1], "llff")
    matrices, references = draws(one)
    assert np.isfinite(matrices).all() and not references.any()


def test_samplers_of_several_scenes_run_side_by_side():
    samplers = [pseudo_view_sampler(converging(seed), BOUNDS, "llff", list_length=20) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *samplers)
    keys = jax.random.split(jax.random.key(1), 3)
    together = jax.jit(jax.vmap(sample_pseudo_view, in_axes=(0, 0, None)))(keys, stacked, 7)
    for i, sampler in enumerate(samplers):
        alone = sample_pseudo_view(keys[i], sampler, 7)
        np.testing.assert_allclose(together.camera_from_world[i], alone.camera_from_world, atol=1e-4)
        assert together.reference[i] == alone.reference


def test_refusals_say_what_to_use_instead():
    with pytest.raises(ValueError, match="use 'around'"):
        pseudo_view_sampler(converging(), None, "llff")
    parallel = batch([look_at((x, 0, 0), (x, 0, 5)) for x in (0.0, 1.0)])
    with pytest.raises(ValueError, match="use 'llff' or 'around'"):
        pseudo_view_sampler(parallel, None, "dtu")
    one = converging(count=1)
    with pytest.raises(ValueError, match="use"):
        pseudo_view_sampler(one, None, "dtu")
    with pytest.raises(ValueError, match="there are llff, dtu, around"):
        pseudo_view_sampler(one, None, "dtuu")
    with pytest.raises(ValueError, match="-1 entries"):
        pseudo_view_sampler(one, BOUNDS, "llff", list_length=-1)
