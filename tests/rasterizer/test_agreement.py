"""The native rasterizer against the reference in float64: images and the gradients of every input.

The cotangents of color, depth and alpha are random and applied together.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import EDGE_CASES, ILL_CONDITIONED, changed
from scenes import View, make_view, quick_jit, relative_error

from ipsm_jax.rasterizer import render
from ipsm_jax.rasterizer.reference import render_reference

COUNT = 30
TOLERANCE = 1e-4  # relative L2 error of each image and each gradient


def with_gradient(render_images, view, cotangents):
    (color, depth, alpha), pull_back, radii = jax.vjp(render_images, view, has_aux=True)
    return (color, depth, alpha), radii, pull_back(cotangents)[0]


@functools.partial(quick_jit, static_argnames="footprint")
def run_reference(view, alive, sh_degree, footprint, cotangents):
    def render_images(view):
        result = render_reference(
            view.gaussians, view.camera, alive, view.background, sh_degree, view.mean2d_offset, footprint
        )
        return tuple(result[:3]), result.radii

    return with_gradient(render_images, view, cotangents)


@functools.partial(jax.jit, static_argnames="footprint")
def run_native(view, alive, sh_degree, footprint, cotangents):
    def render_images(view):
        result = render(
            view.gaussians,
            view.camera,
            alive=alive,
            background=view.background,
            sh_degree=sh_degree,
            mean2d_offset=view.mean2d_offset,
            footprint=footprint,
            backend="native",
        )
        return tuple(result[:3]), result.radii

    return with_gradient(render_images, view, cotangents)


def check_agreement(view: View, alive=None, sh_degree=3, footprint="exact", seed=0, gradient_tolerance=TOLERANCE):
    """Both rasterizers on the same inputs; returns the native radii."""
    alive = np.ones(view.gaussians.capacity, bool) if alive is None else np.asarray(alive)
    rng = np.random.default_rng(seed)
    width, height = view.camera.width, view.camera.height
    cotangents = tuple(rng.normal(size=s).astype(np.float32) for s in [(height, width, 3)] + 2 * [(height, width)])
    images, radii, gradient = run_native(view, alive, np.int32(sh_degree), footprint, cotangents)
    with jax.enable_x64(True):
        # A float32 number is a float64 number: the reference sees exactly the same inputs.
        double = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), (view, cotangents))
        expected_images, expected_radii, expected_gradient = run_reference(
            double[0], alive, np.int32(sh_degree), footprint, double[1]
        )
    for name, actual, wanted in zip(("color", "depth", "alpha"), images, expected_images, strict=True):
        assert relative_error(actual, wanted) <= TOLERANCE, name
    errors = {}
    for (path, actual), (_, wanted) in zip(
        jax.tree.leaves_with_path(gradient), jax.tree.leaves_with_path(expected_gradient), strict=True
    ):
        errors[jax.tree_util.keystr(path)] = relative_error(actual, wanted)
    assert {name: error for name, error in errors.items() if error > gradient_tolerance} == {}
    np.testing.assert_array_equal(radii > 0, expected_radii > 0)
    # Rounding may carry ceil(3 sigma) over an integer.
    assert np.abs(np.asarray(radii) - expected_radii).max(initial=0) <= 1
    return np.asarray(radii)


@pytest.mark.parametrize("footprint", ["exact", "3sigma"])
@pytest.mark.parametrize("sh_degree", range(4))
def test_both_footprints_and_all_degrees(footprint, sh_degree):
    radii = check_agreement(make_view(10 + sh_degree, COUNT, 40, 24), None, sh_degree, footprint, seed=sh_degree)
    assert np.count_nonzero(radii) > COUNT // 2


@pytest.mark.parametrize(("width", "height"), [(1, 1), (17, 33), (16, 16), (70, 3)])
def test_image_sizes(width, height):
    radii = check_agreement(make_view(20, COUNT, width, height))
    assert radii.any()


@pytest.mark.parametrize("case", EDGE_CASES)
def test_edge_cases(case):
    view = EDGE_CASES[case](make_view(30, COUNT, 40, 24))
    check_agreement(view, gradient_tolerance=ILL_CONDITIONED.get(case, TOLERANCE))


def test_edge_cases_cull_what_they_say():
    visible = {
        case: np.count_nonzero(
            render(changed_view.gaussians, changed_view.camera, mean2d_offset=changed_view.mean2d_offset).radii
        )
        for case in ("some behind the camera", "all behind the camera", "off the image", "opacity around 1/255")
        for changed_view in [EDGE_CASES[case](make_view(30, COUNT, 40, 24))]
    }
    assert visible["all behind the camera"] == visible["off the image"] == 0
    assert 0 < visible["some behind the camera"] < COUNT
    assert 0 < visible["opacity around 1/255"] < COUNT


@pytest.mark.parametrize("alive", ["none", "one", "some with NaN in the others"])
def test_dead_slots(alive):
    view = make_view(40, COUNT, 40, 24)
    chosen = {"none": np.zeros(COUNT, bool), "one": np.arange(COUNT) == 5}.get(alive, np.arange(COUNT) % 3 != 0)
    if "NaN" in alive:
        dead = ~chosen
        poisoned = jax.tree.map(
            lambda a: jnp.where(dead.reshape((-1,) + (1,) * (a.ndim - 1)), jnp.nan, a), view.gaussians
        )
        view = view._replace(gaussians=poisoned)
    radii = check_agreement(view, chosen)
    assert not radii[~chosen].any()


def test_long_lists_of_opaque_gaussians():
    # Pixels end early, at different Gaussians; several hundred cover each tile.
    view = make_view(50, 400, 40, 24, size=0.12)
    view = changed(view, opacity_logits=view.gaussians.opacity_logits + 2)
    check_agreement(view)


def test_reference_backend_is_the_reference():
    gaussians, camera, background, offset = make_view(20, COUNT, 16, 16)
    alive = jnp.arange(COUNT) % 2 == 0

    @functools.partial(quick_jit, static_argnums=0)
    def both(sh_degree):
        chosen = render(
            gaussians,
            camera,
            alive=alive,
            background=background,
            sh_degree=sh_degree,
            mean2d_offset=offset,
            footprint="3sigma",
            backend="reference",
        )
        return chosen, render_reference(gaussians, camera, alive, background, sh_degree, offset, "3sigma")

    chosen, expected = both(1)
    jax.tree.map(np.testing.assert_array_equal, chosen, expected)
    assert expected.radii.any()
