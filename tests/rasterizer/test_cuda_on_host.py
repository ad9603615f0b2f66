"""The CUDA kernels, emulated on the CPU, against the CPU's kernels (which other tests hold against the reference).

Both get the same operands and the same random gradients of all images. Lists are compared entry by entry, images and
gradients by relative L2 error.
"""

from __future__ import annotations

import dataclasses
import functools
import subprocess
from typing import NamedTuple

import emulated
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenes import identity_camera, make_view, relative_error
from test_agreement import EDGE_CASES, changed

from ipsm_jax.rasterizer import native

if (reason := emulated.builder().missing_tool()) is not None:
    pytest.skip(reason, allow_module_level=True)

DIFFERENTIABLE = [i for i in range(emulated.SCENE) if i not in (6, 13)]  # not alive, not sh_degree
GRADIENTS = (
    *("means", "log_scales", "quaternions", "opacity_logits", "sh_dc", "sh_rest", "offset", "camera_from_world"),
    *("intrinsics", "background", "features", "absolute"),
)
TOLERANCE = 2e-5


class Case(NamedTuple):
    """Operands of one call, gradients of its images, and what is no array."""

    scene: list[np.ndarray]
    d_images: list[np.ndarray]
    options: dict[str, int]


def make_case(view, *, channels=0, footprint="exact", antialiased=False, absolute=False, degree=3, capacity=8192):
    """The view with random features, and random gradients of all images."""
    rng = np.random.default_rng(7)
    n, width, height = len(view.gaussians.means), view.camera.width, view.camera.height
    scene = [
        *view.gaussians,
        np.arange(n) % 11 != 3,  # alive
        view.mean2d_offset,
        view.camera.camera_from_world,
        view.camera.intrinsics,
        view.background,
        rng.normal(size=(n, channels)).astype(np.float32),
        np.zeros((n, 2), np.float32),
        np.int32(degree),
    ]
    image = (height, width)
    shapes = [(*image, 3), image, image, (*image, channels)]
    options = {
        "width": width,
        "height": height,
        "footprint": native.FOOTPRINTS[footprint],
        "antialiased": int(antialiased),
        "absolute_gradients": int(absolute),
        "capacity": capacity,
    }
    d_images = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    return Case([np.asarray(a) for a in scene], d_images, options)


@functools.cache
def rasterizer() -> emulated.EmulatedRasterizer:
    return emulated.EmulatedRasterizer()


def run(case: Case) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Results of the emulated kernels, forward and backward."""
    forward = rasterizer().forward(case.scene, **case.options)
    return forward, run_backward(case, forward)


def run_backward(case: Case, forward: list[np.ndarray]) -> list[np.ndarray]:
    return rasterizer().backward([*case.scene, *forward[:4], *forward[6:], *case.d_images], **case.options)


def run_on_cpu(case: Case) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The same from the CPU's kernels, through JAX."""
    options = dict(case.options)
    spec = native._Spec(pair_capacity=options.pop("capacity"), **options)
    scene = list(map(jnp.asarray, case.scene))

    def images(*floats):
        operands = list(scene)
        for i, value in zip(DIFFERENTIABLE, floats, strict=True):
            operands[i] = value
        return native._rasterize(spec, *operands)[:4]

    _, pull_back = jax.vjp(images, *(scene[i] for i in DIFFERENTIABLE))
    gradients = pull_back(tuple(map(jnp.asarray, case.d_images)))
    return [np.asarray(r) for r in native._forward_call(spec, tuple(scene))], [np.asarray(g) for g in gradients]


def check_agreement(case: Case, tolerance: float = TOLERANCE) -> list[np.ndarray]:
    """Both kernels on the same case; returns the emulated results of the forward pass."""
    (forward, gradients), (expected, expected_gradients) = run(case), run_on_cpu(case)
    for name, actual, wanted in zip(("color", "depth", "alpha", "features"), forward, expected, strict=False):
        assert relative_error(actual, wanted) < TOLERANCE, name
    radii, pair_count, _, slot_start, tile_start, processed, pairs = forward[4:]
    np.testing.assert_array_equal(radii, expected[4])
    np.testing.assert_array_equal(slot_start, expected[7])
    np.testing.assert_array_equal(tile_start, expected[8])
    assert pair_count == expected[5] == slot_start[-1] == tile_start[-1]
    np.testing.assert_array_equal(pairs[:pair_count], expected[10][:pair_count])
    # The CPU looks at some more pairs before it knows that all pixels have stopped.
    assert (processed <= expected[9]).all()
    errors = {
        name: relative_error(actual, wanted)
        for name, actual, wanted in zip(GRADIENTS, gradients, expected_gradients, strict=True)
    }
    assert {name: error for name, error in errors.items() if error > tolerance} == {}
    return forward


def assert_same_bits(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


MODES = {
    "plain": {},
    "degree 0": {"degree": 0},
    "degree 1": {"degree": 1},
    "degree 2": {"degree": 2},
    "degree beyond 3": {"degree": 7},
    "three sigma": {"footprint": "3sigma"},
    "antialiased": {"antialiased": True},
    "absolute": {"absolute": True},
    "one feature": {"channels": 1},
    "a chunk of features": {"channels": 8},
    "features": {"channels": 19},
    "absolute with features": {"absolute": True, "channels": 9},
    "all": {"absolute": True, "channels": 3, "antialiased": True, "footprint": "3sigma", "degree": 1},
}


@pytest.mark.parametrize("mode", MODES)
def test_all_modes(mode):
    case = make_case(make_view(1, 60, 41, 27), **MODES[mode])
    forward = check_agreement(case)
    assert np.count_nonzero(forward[4]) > 30
    if MODES[mode].get("absolute"):
        assert np.count_nonzero(run(case)[1][-1]) > 60


@pytest.mark.parametrize(("width", "height"), [(1, 1), (17, 33), (16, 16), (70, 3), (5, 600), (600, 5)])
def test_image_sizes(width, height):
    check_agreement(make_case(make_view(20, 40, width, height), channels=2), 1e-3 if width == 1 else TOLERANCE)


@pytest.mark.parametrize("case", EDGE_CASES)
def test_edge_cases(case):
    """Where small differences of large numbers are taken, the two may differ as much as each does from the truth."""
    loose = {"huge": 1e-3, "beside the image": 1e-3, "needles": 1e-3, "opacity at the clamp": 2e-4}
    check_agreement(make_case(EDGE_CASES[case](make_view(30, 40, 40, 24))), loose.get(case, TOLERANCE))


def long_lists(opacity: float):
    view = make_view(50, 1500, 40, 24, size=0.3)
    return changed(view, opacity_logits=view.gaussians.opacity_logits + opacity)


def test_lists_of_several_groups_of_buckets():
    forward = check_agreement(make_case(long_lists(-4), channels=1), 1e-4)
    assert np.diff(forward[8]).max() > 600
    assert forward[9].max() > 600


def test_tiles_that_stop_early():
    # the background's gradient is a sum of 1 - alpha, which has few digits left
    forward = check_agreement(make_case(long_lists(4)), 5e-3)
    assert (forward[9] < np.diff(forward[8]) - 100).all()


def test_large_gaussians_are_shared_by_the_lanes_of_a_warp():
    """More tiles than a thread writes by itself, more slots than it sums up, more rows of tiles than lanes."""
    view = make_view(60, 20, 70, 600, size=0.8)
    view = changed(view, opacity_logits=view.gaussians.opacity_logits - 2)
    forward = check_agreement(make_case(view, channels=2), 1e-4)
    assert np.diff(forward[7]).max() > 150


def test_harmonics_beyond_the_degree_and_missing_ones():
    case = make_case(make_view(1, 40, 20, 20))
    for harmonics in (0, 3, 7, 24):  # 24 are those of degree 4, which is never used
        rest = np.resize(case.scene[5], (40, harmonics, 3)) * np.float32(0.3)
        check_agreement(case._replace(scene=[*case.scene[:5], rest, *case.scene[6:]]))


@pytest.mark.parametrize("what", ["no Gaussians", "none alive", "behind the camera"])
def test_nothing_to_see(what):
    view = make_view(3, 0 if what == "no Gaussians" else 40, 40, 24)
    if what == "behind the camera":
        view = changed(view, means=view.gaussians.means - jnp.array([[0, 0, 20.0]]))
    case = make_case(view, channels=3, capacity=5)
    if what == "none alive":
        case.scene[6][:] = False
    forward, gradients = run(case)
    np.testing.assert_array_equal(forward[0], np.broadcast_to(case.scene[10], forward[0].shape))
    assert not any(images.any() for images in (*forward[1:4], forward[4], forward[5], *forward[7:10]))
    for name, gradient in zip(GRADIENTS, gradients, strict=True):
        if name == "background":
            np.testing.assert_allclose(gradient, case.d_images[0].sum((0, 1)), rtol=1e-5, atol=1e-5)
        else:
            assert not gradient.any(), name


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_same_bits_in_whatever_order_threads_run(order):
    case = make_case(make_view(4, 200, 60, 50), channels=3, absolute=True)
    forward, gradients = run(case)
    rasterizer().set_order(order)
    again, gradients_again = run(case)
    rasterizer().set_order(0)
    assert_same_bits([*forward[:6], forward[10][: forward[5]]], [*again[:6], again[10][: again[5]]])
    assert_same_bits(gradients, gradients_again)


def test_a_frame_that_needs_more_pairs_than_there_is_room_for():
    case = make_case(make_view(5, 60, 40, 24), channels=2)
    needed = int(run(case)[0][5])

    def with_room(capacity):
        return run(case._replace(options={**case.options, "capacity": capacity}))

    exactly, gradients = with_room(needed)
    assert_same_bits(exactly[:4], run(case)[0][:4])
    assert all(np.isfinite(g).all() for g in gradients)
    for room in (needed - 1, 1, 0):
        forward, gradients = with_room(room)
        assert forward[5] == needed
        assert all(np.isnan(image).all() for image in forward[:4])
        np.testing.assert_array_equal(forward[4], exactly[4])
        for name, gradient in zip(GRADIENTS, gradients, strict=True):
            wanted = np.isnan(gradient[:3]) if name == "camera_from_world" else np.isnan(gradient)
            assert wanted.all(), name


def batch_of(cases: list[Case], axes: tuple[int, ...]) -> Case:
    """One call for all: what differs is stacked and gets the batch axes, what does not gets axes of size 1."""

    def join(arrays):
        if all(np.array_equal(a, arrays[0]) for a in arrays):
            return arrays[0].reshape((1,) * len(axes) + arrays[0].shape)
        return np.stack(arrays).reshape(axes + arrays[0].shape)

    scene, d_images = (
        [join(arrays) for arrays in zip(*lists, strict=True)]
        for lists in ([c.scene for c in cases], [c.d_images for c in cases])
    )
    return Case(scene, d_images, cases[0].options)


def several_cases(**mode) -> list[Case]:
    """Cameras, degrees and gradients of the images differ, Gaussians do not."""
    views = [make_view(6, 50, 40, 24)] * 6
    cases = []
    for k, view in enumerate(views):
        moved = view.camera.camera_from_world.at[0, 3].add(0.1 * k)
        case = make_case(view._replace(camera=dataclasses.replace(view.camera, camera_from_world=moved)), **mode)
        case.scene[13] = np.int32(k % 4)
        cases.append(case._replace(d_images=[d * np.float32(k + 1) for d in case.d_images]))
    return cases


@pytest.mark.parametrize("axes", [(6,), (2, 3), (1, 6, 1, 1)])
def test_a_batch_is_its_items(axes):
    cases = several_cases(channels=3)
    batch = batch_of(cases, axes)
    assert batch.scene[0].shape[:-2] == (1,) * len(axes)
    forward, gradients = run(batch)
    for k, case in enumerate(cases):
        at = np.unravel_index(k, axes)
        alone, gradients_alone = run(case)
        pairs = alone[5]
        visible = alone[4] > 0  # nothing writes the splats of the others
        assert_same_bits([r[at] for r in forward[:6] + forward[7:10]], alone[:6] + alone[7:10])
        np.testing.assert_array_equal(forward[6][at][visible], alone[6][visible])
        np.testing.assert_array_equal(forward[10][at][:pairs], alone[10][:pairs])
        assert_same_bits([g[at] for g in gradients], gradients_alone)


def test_axes_that_differ_between_operands():
    """Gaussians along one axis, cameras along another."""
    rows, columns = (several_cases() for _ in range(2))
    case = rows[0]
    scene = [a.reshape(1, 1, *a.shape) for a in case.scene]
    scene[3] = np.stack([case.scene[3], case.scene[3] + 1])[:, None]
    scene[8] = np.stack([c.scene[8] for c in columns[:3]])[None]
    d_images = [np.broadcast_to(d, (2, 3, *d.shape)) for d in case.d_images]
    forward, gradients = run(Case(scene, d_images, case.options))
    for row in range(2):
        for column in range(3):
            alone = list(case.scene)
            alone[3], alone[8] = scene[3][row, 0], scene[8][0, column]
            expected, expected_gradients = run(case._replace(scene=alone))
            assert_same_bits([r[row, column] for r in forward[:4]], expected[:4])
            assert_same_bits([g[row, column] for g in gradients], expected_gradients)


def test_one_frame_with_several_gradients_of_its_images():
    """As in a Jacobian: what the forward pass left has no batch axis, the gradients have one."""
    cases = several_cases(channels=1)
    cases = [c._replace(scene=cases[0].scene) for c in cases]
    forward = run(cases[0])[0]
    batch = batch_of(cases, (6,))
    gradients = run_backward(batch, [r[None] for r in forward])
    for k, case in enumerate(cases):
        assert_same_bits([g[k] for g in gradients], run_backward(case, forward))


def test_one_frame_of_a_batch_that_overflows_leaves_the_others_alone():
    cases = several_cases()
    counts = [int(run(c)[0][5]) for c in cases]
    room = sorted(counts)[3]
    cases = [c._replace(options={**c.options, "capacity": room}) for c in cases]
    assert 0 < sum(count > room for count in counts) < 6
    forward, gradients = run(batch_of(cases, (6,)))
    np.testing.assert_array_equal(forward[5], counts)
    for k, case in enumerate(cases):
        expected, expected_gradients = run(case)
        assert np.isnan(forward[0][k]).all() == (counts[k] > room)
        assert_same_bits([r[k] for r in forward[:4]], expected[:4])
        assert_same_bits([g[k] for g in gradients], expected_gradients)


def test_an_empty_batch():
    case = make_case(make_view(7, 5, 20, 20))
    empty = Case([a[None][:0] for a in case.scene], [d[None][:0] for d in case.d_images], case.options)
    forward, gradients = run(empty)
    assert forward[0].shape == (0, 20, 20, 3)
    assert gradients[0].shape == (0, 5, 3)


def test_more_pairs_than_32_bits_can_number_are_refused():
    case = batch_of(several_cases(), (6,))
    options = {**case.options, "capacity": 2**30}
    with pytest.raises(emulated.EmulationError, match=r"pair_capacity 1073741824 times 6 images is more than 2\^31"):
        rasterizer().forward(case.scene, **options, allocate_pairs=False)


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    seed=st.integers(0, 2**16),
    stretch=st.floats(-3, 3),
    size=st.floats(-4, 1),
    footprint=st.sampled_from(["exact", "3sigma"]),
)
def test_random_shapes_lose_no_pixel(seed, stretch, size, footprint):
    """Culling by warp, tile and row must not show, whatever the ellipses' shapes."""
    view = make_view(seed, 30, 50, 37, size=float(np.exp(size)))
    view = changed(view, log_scales=view.gaussians.log_scales + jnp.array([[stretch, 0, -stretch]]))
    case = make_case(view, footprint=footprint)
    forward, expected = rasterizer().forward(case.scene, **case.options), run_on_cpu(case)[0]
    for actual, wanted in zip(forward[:3], expected[:3], strict=True):
        assert np.abs(actual - wanted).max() < 1e-3 * max(1, np.abs(wanted).max())
        assert relative_error(actual, wanted) < 1e-4


def test_random_bytes_as_floats():
    """Nothing hangs, nothing is written out of bounds (the sanitizers look), and what is not a number is culled."""
    rng = np.random.default_rng(0)
    case = make_case(make_view(8, 64, 37, 21)._replace(camera=identity_camera(37, 21, 40.0)))
    for _ in range(10):
        scene = list(case.scene)
        for i in (0, 1, 2, 3, 4, 5, 7):
            scene[i] = np.frombuffer(rng.bytes(scene[i].nbytes), np.float32).reshape(scene[i].shape)
        forward, _ = run(case._replace(scene=scene))
        assert np.isfinite(forward[2]).all()


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_under_sanitizers(sanitizer):
    """Memory, undefined behavior, and races between the threads of a block or between blocks."""
    builder = emulated.builder()
    if (reason := builder.missing_tool(sanitizer)) is not None:
        pytest.skip(reason)
    program = builder.program([*emulated.KERNELS, emulated.PROGRAM], sanitizer=sanitizer)
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("pairs") == 5
