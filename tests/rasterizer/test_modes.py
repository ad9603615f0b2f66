"""Every mode of the native rasterizer against the reference in float64, alone and together.

Images and the gradients of all inputs: Gaussians, camera, background, offsets, features. Random cotangents of all four
images are applied together.
"""

import jax
import numpy as np
import pytest
from cases import EDGE_CASES, ILL_CONDITIONED, THIN_CASES
from modes import COUNT, MOST, check_mode, make_inputs, random_cotangents, run_native
from scenes import relative_error

from ipsm_jax.rasterizer import render

CHANNELS = [0, 1, 3, 8, MOST]


@pytest.mark.parametrize("channels", CHANNELS)
def test_any_number_of_channels(channels):
    inputs = make_inputs(channels=channels)
    radii, gradient, _ = check_mode(inputs)
    assert np.count_nonzero(radii) > COUNT // 2
    assert gradient.features.shape == (COUNT, channels)
    # Gaussians that are seen have a gradient, in every channel.
    assert np.all(np.any(gradient.features != 0, axis=0))


@pytest.mark.parametrize("case", EDGE_CASES | THIN_CASES)
def test_antialiased(case):
    inputs = make_inputs(channels=2, case=(EDGE_CASES | THIN_CASES)[case])
    check_mode(inputs, antialiased=True, gradient_tolerance=ILL_CONDITIONED.get(case, 1e-4))


def test_thin_cases_are_seen_and_the_mode_matters():
    for case, change in THIN_CASES.items():
        view, _ = make_inputs(case=change)
        plain, thinned = (render(view.gaussians, view.camera, antialiased=mode) for mode in (False, True))
        seen = np.count_nonzero(thinned.radii)
        assert 5 <= seen <= np.count_nonzero(plain.radii), (case, seen)
        assert float(thinned.alpha.sum()) < 0.99 * float(plain.alpha.sum()), case


@pytest.mark.parametrize("footprint", ["exact", "3sigma"])
@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("channels", [0, 3, MOST])
def test_modes_together(footprint, antialiased, channels):
    alive = np.arange(COUNT) % 5 != 2
    inputs = make_inputs(91, channels)
    options = {"footprint": footprint, "antialiased": antialiased}
    radii, gradient, absolute = check_mode(inputs, alive=alive, with_absolute=True, **options)
    signed = np.abs(gradient.view.mean2d_offset)
    np.testing.assert_array_equal(absolute > 0, signed > 0)
    assert np.all(absolute * (1 + 1e-5) >= signed) and np.count_nonzero(absolute) > COUNT // 2
    assert not absolute[radii == 0].any()
    # Asking for absolute gradients changes no other gradient but for rounding.
    without = run_native(inputs, alive, footprint, antialiased, random_cotangents(channels))
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(without[2]), strict=True):
        assert relative_error(a, b) < 1e-5
    assert not without[3].any()
