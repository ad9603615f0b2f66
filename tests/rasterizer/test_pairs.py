"""Calling again with more room for pairs, where too little spoils the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.rasterizer import compiled_renderer, fit_pairs, render
from tests.rasterizer.scenes import make_view


@pytest.mark.parametrize("needed", [1, 7, 1000, 123_456, 2**30 + 1])
def test_room_grows_until_all_pairs_fit_and_by_no_more_than_it_should(needed):
    asked = []

    def call(capacity):
        asked.append(capacity)
        return np.array([3, needed, 2]) if capacity < needed else np.array([needed, 1, 1])

    result, room = fit_pairs(call, lambda r: r, capacity=5, overflow=True)
    assert result[0] == needed or needed <= 5
    assert len(asked) == (1 if needed <= 5 else 2)
    assert room == asked[-1] >= needed
    if needed > 5:
        assert needed + needed // 4 <= room <= 1.5 * needed + 2


def test_sizes_are_few():
    """Each is compiled anew: frames that differ by some per cent must share one."""
    rooms = {
        fit_pairs(lambda c: c, lambda _, n=n: np.int32(n), 1, overflow=True)[1] for n in range(100_000, 200_000, 999)
    }
    assert len(rooms) <= 9


def test_where_overflow_does_no_harm_there_is_one_call():
    asked = []
    result, room = fit_pairs(lambda c: asked.append(c) or "image", lambda r: pytest.fail("looked"), 5, overflow=False)
    assert (result, room, asked) == ("image", 5, [5])


def test_compiled_renderer_draws_what_render_does():
    view = make_view(3, 60, 40, 30)
    alive = jnp.arange(view.gaussians.capacity) % 3 > 0
    draw = compiled_renderer(background=np.asarray(view.background), sh_degree=1)
    expected = render(view.gaussians, view.camera, alive=alive, background=view.background, sh_degree=1)
    jax.tree.map(np.testing.assert_array_equal, draw(view.gaussians, view.camera, alive), expected)
