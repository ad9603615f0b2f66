"""How the modes can be called: room for pairs, batches, compiled or not, every instruction set."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from modes import COUNT, HEIGHT, WIDTH, images_of, make_inputs, random_cotangents
from scenes import relative_error

from ipsm_jax.rasterizer import render
from ipsm_jax.scene import Camera

CHANNELS = 5
INPUTS = make_inputs(94, CHANNELS)
COTANGENTS = random_cotangents(CHANNELS)
MODES = {
    "plain": {},
    "antialiased": {"antialiased": True},
    "3sigma": {"footprint": "3sigma"},
    "both": {"antialiased": True, "footprint": "3sigma"},
}


def render_mode(inputs, absolute=None, **options):
    view, features = inputs
    return render(
        view.gaussians,
        view.camera,
        background=view.background,
        mean2d_offset=view.mean2d_offset,
        features=features,
        mean2d_absolute=absolute,
        **options,
    )


def everything(inputs=INPUTS, **options):
    """Images, radii, pair count and the gradients of all inputs, absolute ones included, in one mode."""

    def images(inputs, absolute):
        rendering = render_mode(inputs, absolute, **options)
        return images_of(rendering)[0], (rendering.radii, rendering.pair_count)

    values, pull_back, rest = jax.vjp(images, inputs, jnp.zeros((COUNT, 2)), has_aux=True)
    return values, rest, pull_back(COTANGENTS)


def assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_close(actual, expected, tolerance):
    for (path, a), b in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        assert relative_error(a, b) < tolerance, jax.tree_util.keystr(path)


@pytest.mark.parametrize("mode", MODES)
def test_too_little_room_changes_no_bit(mode):
    roomy = jax.jit(lambda i: everything(i, **MODES[mode]))(INPUTS)
    needed = int(roomy[1][1])
    assert needed > COUNT
    for capacity in (1, needed - 1, needed, needed + 1):
        cramped = jax.jit(lambda i, c=capacity: everything(i, **MODES[mode], pair_capacity=c))(INPUTS)
        assert_equal(cramped, roomy)


def test_pair_count_is_the_number_of_tiles_touched():
    # The original's footprint is a rectangle of tiles, known from the radius and the projected mean.
    view = INPUTS.view
    rendering = render_mode(INPUTS, footprint="3sigma")
    matrix, (fx, fy, cx, cy) = (
        np.asarray(a, np.float64) for a in (view.camera.camera_from_world, view.camera.intrinsics)
    )
    x, y, z = (np.asarray(view.gaussians.means, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]).T
    centers = np.stack([fx * x / z + cx, fy * y / z + cy], 1) + np.asarray(view.mean2d_offset) - 0.5
    expected = 0
    for center, radius in zip(centers, np.asarray(rendering.radii), strict=True):
        sides = []
        for c, size in zip(center, (WIDTH, HEIGHT), strict=True):
            tiles = -(-size // 16)
            first, end = (int(np.clip(np.floor((c + s) / 16), 0, tiles)) for s in (-radius, radius + 15))
            sides.append(end - first)
        expected += sides[0] * sides[1] if radius > 0 else 0
    assert int(rendering.pair_count) == expected > COUNT
    # The exact footprint leaves out tiles, and antialiasing makes it smaller still.
    exact, antialiased = (int(render_mode(INPUTS, antialiased=mode).pair_count) for mode in (False, True))
    assert COUNT / 2 < antialiased <= exact < expected
    assert int(render_mode(INPUTS._replace(view=view._replace(mean2d_offset=view.mean2d_offset + 1e4))).pair_count) == 0


def test_pair_count_of_one_gaussian():
    tiny = jax.tree.map(lambda a: a[:1], INPUTS.view.gaussians)
    tiny = tiny._replace(
        means=jnp.array([[0.0, 0.0, 4.0]]), log_scales=jnp.full((1, 3), -9.0), opacity_logits=jnp.ones(1)
    )
    camera = Camera(jnp.eye(4), jnp.array([50.0, 50.0, 24.0, 24.0]), 48, 48)
    assert int(render(tiny, camera).pair_count) == 1
    assert int(render(tiny._replace(log_scales=jnp.full((1, 3), 3.0)), camera).pair_count) == 9


def test_wrong_settings_are_refused():
    gaussians, camera = INPUTS.view.gaussians, INPUTS.view.camera
    for wrong in (0, -5, 2.5):
        with pytest.raises(ValueError, match=f"pair_capacity must be an integer of at least 1.*got {wrong}"):
            render(gaussians, camera, pair_capacity=wrong)
    with pytest.raises(TypeError, match=r"antialiased must be True or False.*got str"):
        render(gaussians, camera, antialiased="yes")
    with pytest.raises(TypeError, match="antialiased must be True or False"):
        jax.jit(lambda flag: render(gaussians, camera, antialiased=flag).color)(True)
    for degree in (-1, 4):
        with pytest.raises(ValueError, match=f"degree must be 0, 1, 2 or 3, got {degree}"):
            render(gaussians, camera, sh_degree=degree)
    with pytest.raises(ValueError, match=r"mean2d_offset has shape \(30, 3\)"):
        render(gaussians, camera, mean2d_offset=np.zeros((COUNT, 3), np.float32))


@pytest.mark.parametrize("mode", MODES)
def test_compiled_or_not_the_same_bits(mode):
    compiled = jax.jit(lambda i: everything(i, **MODES[mode]))(INPUTS)
    assert_equal(everything(INPUTS, **MODES[mode]), compiled)
    assert all(np.any(a) for a in jax.tree.leaves(compiled))


def cameras(count):
    camera = INPUTS.view.camera
    poses = jnp.stack([camera.camera_from_world.at[0, 3].add(0.2 * k) for k in range(count)])
    intrinsics = jnp.stack([camera.intrinsics * (1 + 0.1 * k) for k in range(count)])
    return Camera(poses, intrinsics, WIDTH, HEIGHT)


def test_batch_of_cameras_is_a_loop():
    @jax.jit
    def one(camera):
        return everything(INPUTS._replace(view=INPUTS.view._replace(camera=camera)), antialiased=True)

    batched = jax.vmap(one)(cameras(3))
    for k, camera in enumerate(cameras(3)):
        values, rest, gradients = jax.tree.map(lambda a, k=k: a[k], batched)
        expected = one(camera)
        assert_equal((values, rest), expected[:2])
        assert_close(gradients, expected[2], 1e-6)


def test_batch_of_features_is_a_loop():
    features = jnp.stack([INPUTS.features, jnp.cos(INPUTS.features), 0 * INPUTS.features])
    one = jax.jit(lambda f: everything(INPUTS._replace(features=f), footprint="3sigma"))
    batched = jax.vmap(one)(features)
    for k in range(3):
        values, rest, gradients = jax.tree.map(lambda a, k=k: a[k], batched)
        expected = one(features[k])
        assert_equal((values, rest), expected[:2])
        assert_close(gradients, expected[2], 1e-6)


def test_nested_batch_of_cameras_and_features():
    features = jnp.stack([INPUTS.features, jnp.cos(INPUTS.features)])

    def one(features, camera):
        return render_mode(
            INPUTS._replace(features=features, view=INPUTS.view._replace(camera=camera)), antialiased=True
        )

    batched = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(features, cameras(3))
    assert batched.features.shape == (2, 3, HEIGHT, WIDTH, CHANNELS) and batched.pair_count.shape == (2, 3)
    for i in range(2):
        for k, camera in enumerate(cameras(3)):
            assert_equal(jax.tree.map(lambda a, i=i, k=k: a[i, k], batched), one(features[i], camera))


def test_gradient_of_a_batch_is_the_sum_of_gradients():
    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradient(features, absolute, poses):
        def loss(pose):
            camera = Camera(pose.camera_from_world, pose.intrinsics, WIDTH, HEIGHT)
            view = INPUTS.view._replace(camera=camera)
            rendering = render_mode(INPUTS._replace(view=view, features=features), absolute)
            return jnp.sum(jnp.sin(rendering.features)) + jnp.sum(rendering.depth**2)

        return jnp.sum(jax.vmap(loss)(poses))

    arguments = INPUTS.features, jnp.zeros((COUNT, 2))
    batch = cameras(3)
    singles = [gradient(*arguments, batch[jnp.array([k])]) for k in range(3)]
    assert_close(gradient(*arguments, batch), jax.tree.map(lambda *a: sum(a), *singles), 1e-5)


PROGRAM = """
import sys, numpy as np, jax
sys.path.insert(0, sys.argv[1])
from test_mode_calls import MODES, everything
from ipsm_jax.rasterizer.native import load_library
arrays = [a for mode in MODES.values() for a in jax.tree.leaves(everything(**mode))]
np.savez(sys.argv[2], *arrays, level=load_library().simd_level())
"""


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_instruction_sets_agree(level, tmp_path):
    """Each level in a process of its own; a machine that lacks one runs the next lower, which must agree as well."""
    out = tmp_path / "out.npz"
    environment = {**os.environ, "IPSM_JAX_SIMD": level}
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(out)]
    subprocess.run(command, check=True, env=environment, timeout=300)
    expected = [a for mode in MODES.values() for a in jax.tree.leaves(everything(**mode))]
    with np.load(out) as found:
        assert level != "baseline" or str(found["level"]) == "baseline"
        assert len(expected) == len(found.files) - 1
        for k, wanted in enumerate(expected):
            assert relative_error(found[f"arr_{k}"], wanted) < 1e-5, k
