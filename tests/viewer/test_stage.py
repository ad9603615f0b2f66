"""Pictures of one or two sets of Gaussians."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import tiny_gaussians, tiny_scene

from ipsm_jax.rasterizer import render
from ipsm_jax.reporting.files import to_uint8
from ipsm_jax.reporting.pictures import depth_picture, depth_range
from ipsm_jax.viewer.stage import Stage, Wishes, new_model
from ipsm_jax.viewer.viewpoint import viewpoint_of

pytestmark = pytest.mark.usefixtures("own_caches")

BACKGROUND = (0.2, 0.4, 0.6)


def model(name="tiny", shift=0.0):
    gaussians, alive = tiny_gaussians()
    moved = gaussians._replace(means=gaussians.means + jnp.float32(shift))
    return new_model(name, moved, alive, background=BACKGROUND, iteration=30)


@pytest.fixture(scope="module")
def camera(tmp_path_factory):
    return tiny_scene(tmp_path_factory.mktemp("scene")).cameras[1]


def rendered(model, camera):
    return render(model.gaussians, camera, alive=model.alive, background=jnp.asarray(BACKGROUND))


def close(picture, expected):
    """Equal up to rounding: the pose went through a quaternion."""
    np.testing.assert_allclose(picture.astype(int), to_uint8(np.asarray(expected)).astype(int), atol=1)


def test_one_model_is_its_render(camera):
    shown = model()
    stage, look = Stage([shown]), viewpoint_of(camera)
    result = rendered(shown, camera)
    picture = stage.picture(look, Wishes(divide=0.2), 40, 34)  # a line needs two
    assert picture.shape == (34, 40, 3) and picture.dtype == np.uint8
    close(picture, np.clip(result.color, 0, 1))
    close(stage.picture(look, Wishes("alpha"), 40, 34), np.repeat(np.asarray(result.alpha)[..., None], 3, -1))
    difference = (
        stage.picture(look, Wishes("depth"), 40, 34) - to_uint8(depth_picture(result.depth, result.alpha)) * 1.0
    )
    assert np.abs(difference).mean() < 1  # single pixels may fall on the other side of what is solid


@pytest.mark.parametrize(("divide", "columns"), [(0.0, 0), (0.25, 10), (1.0, 40), (-3.0, 0), (9.0, 40)])
def test_two_models_share_the_window(camera, divide, columns):
    first, second = model("a"), model("b", shift=0.2)
    picture = Stage([first, second]).picture(viewpoint_of(camera), Wishes(divide=divide), 40, 34)
    left, right = (np.clip(rendered(m, camera).color, 0, 1) for m in (first, second))
    expected = np.concatenate([to_uint8(left)[:, :columns], to_uint8(right)[:, columns:]], axis=1)
    if 0 < columns < 40:
        expected[:, columns - 1 : columns + 1] = 255
    close(picture, expected)


def test_depths_beside_each_other_have_one_scale(camera):
    first, second = model("a"), model("b", shift=0.5)
    picture = Stage([first, second]).picture(viewpoint_of(camera), Wishes("depth", 0.5), 40, 34)
    results = [rendered(m, camera) for m in (first, second)]
    limits = depth_range(np.stack([r.depth for r in results]), np.stack([r.alpha for r in results]))
    left = to_uint8(depth_picture(results[0].depth, results[0].alpha, limits))[:, :19]
    alone = to_uint8(depth_picture(results[0].depth, results[0].alpha))[:, :19]
    assert np.abs(picture[:, :19] - left * 1.0).mean() < 1 < np.abs(picture[:, :19] - alone * 1.0).mean()


def test_new_gaussians_take_the_place_of_the_old(camera):
    first, second = model("a"), model("b")
    stage = Stage([first, second])
    assert not stage.is_compiled(40, 34)
    stage.picture(viewpoint_of(camera), Wishes(), 40, 34)
    assert stage.is_compiled(40, 34) and not stage.is_compiled(34, 40)
    before = stage.models
    changed = model(shift=0.3)
    stage.replace(1, changed.gaussians, changed.alive, 40)
    assert before[1].iteration == 30 and stage.models[0] is first
    assert stage.models[1].caption == "b: 40 Gaussians, iteration 40"
    close(
        stage.picture(viewpoint_of(camera), Wishes(divide=0.0), 40, 34), np.clip(rendered(changed, camera).color, 0, 1)
    )


def test_more_slots_are_another_program(camera):
    stage = Stage([model()])
    stage.picture(viewpoint_of(camera), Wishes(), 40, 34)
    gaussians, alive = tiny_gaussians()
    half = type(gaussians)(*(field[:48] for field in gaussians))
    stage.replace(0, half, alive[:48])
    assert not stage.is_compiled(40, 34)
    assert stage.models[0].caption == "tiny: 40 Gaussians"


def test_numbers_that_are_none_are_drawn_black(camera):
    broken = model()
    broken = dataclasses.replace(
        broken, draw=lambda *a: rendered(broken, a[1])._replace(color=np.full((34, 40, 3), np.nan))
    )
    assert not Stage([broken]).picture(viewpoint_of(camera), Wishes(), 40, 34).any()


@pytest.mark.parametrize("count", [0, 3])
def test_one_or_two_can_be_shown(count):
    with pytest.raises(ValueError, match=f"one or two .* got {count}"):
        Stage([model()] * count)
