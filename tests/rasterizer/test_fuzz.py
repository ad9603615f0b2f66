"""Random bytes as floats in every operand: the native kernels neither crash nor hang nor write where they must not.

Each scene is rendered as the middle one of a batch of three. The images, gradients and lists of a batch lie side by
side in memory, so a write beyond an end shows in a neighbor, which has to come out bit for bit as if it was alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import identity_camera, make_view, quick_jit

from ipsm_jax.rasterizer import Rendering, render
from ipsm_jax.scene.camera import Camera
from ipsm_jax.scene.gaussians import Gaussians

COUNT, CHANNELS, WIDTH, HEIGHT = 12, 2, 37, 21
CAPACITY = 40  # pairs: fewer than some of the scenes need

# (width of an operand, whether it holds something for each Gaussian)
SHAPES = {
    "means": (COUNT, 3),
    "log_scales": (COUNT, 3),
    "quaternions": (COUNT, 4),
    "opacity_logits": (COUNT,),
    "sh_dc": (COUNT, 3),
    "sh_rest": (COUNT, 15, 3),
    "mean2d_offset": (COUNT, 2),
    "features": (COUNT, CHANNELS),
    "camera_from_world": (4, 4),
    "intrinsics": (4,),
    "background": (3,),
}
OF_GAUSSIANS = [name for name, shape in SHAPES.items() if shape[0] == COUNT]
# Gradients of the images arrive from outside as well.
COTANGENTS = {
    "color": (HEIGHT, WIDTH, 3),
    "depth": (HEIGHT, WIDTH),
    "alpha": (HEIGHT, WIDTH),
    "features": (HEIGHT, WIDTH, CHANNELS),
}


def sane_operands(seed: int = 0) -> dict[str, np.ndarray]:
    view = make_view(80 + seed, COUNT, WIDTH, HEIGHT)
    features = np.random.default_rng(seed).normal(size=(COUNT, CHANNELS)).astype(np.float32)
    operands = view.gaussians._asdict() | {
        "mean2d_offset": view.mean2d_offset,
        "features": features,
        "camera_from_world": view.camera.camera_from_world,
        "intrinsics": view.camera.intrinsics,
        "background": view.background,
    }
    return {name: np.array(operands[name], np.float32) for name in SHAPES}


def sane_cotangents() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in COTANGENTS.items()}


@jax.jit
def render_with_gradient(operands, alive, sh_degree, cotangents):
    """Rendering and the gradients of all operands, absolute ones included."""

    def images(operands, absolute):
        r = render(
            Gaussians(*(operands[name] for name in Gaussians._fields)),
            Camera(operands["camera_from_world"], operands["intrinsics"], WIDTH, HEIGHT),
            alive=alive,
            background=operands["background"],
            sh_degree=sh_degree,
            mean2d_offset=operands["mean2d_offset"],
            features=operands["features"],
            mean2d_absolute=absolute,
            pair_capacity=CAPACITY,
        )
        return {name: getattr(r, name) for name in COTANGENTS}, r

    _, pull_back, rendering = jax.vjp(images, operands, jnp.zeros((COUNT, 2)), has_aux=True)
    return rendering, pull_back(cotangents)


batch = jax.jit(jax.vmap(render_with_gradient, in_axes=(0, None, None, 0)))
EVERYONE = np.ones(COUNT, bool)
THREE = np.int32(3)


def item(tree, index):
    return jax.tree.map(lambda a: np.asarray(a[index]), tree)


def assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def check_between_neighbors(operands, cotangents=None):
    """Render `operands` between two sane scenes; nothing but their own results may change."""
    cotangents = sane_cotangents() if cotangents is None else cotangents
    first, last = sane_operands(0), sane_operands(1)
    stacked = jax.tree.map(lambda *a: np.stack(a), first, operands, last)
    sane = sane_cotangents()
    results = batch(stacked, EVERYONE, THREE, jax.tree.map(lambda *a: np.stack(a), sane, cotangents, sane))
    assert_equal(item(results, 0), render_with_gradient(first, EVERYONE, THREE, sane))
    assert_equal(item(results, 2), render_with_gradient(last, EVERYONE, THREE, sane))
    rendering, gradients = item(results, 1)
    assert rendering.color.shape == (HEIGHT, WIDTH, 3)
    assert rendering.radii.shape == (COUNT,) and (rendering.radii >= 0).all()
    assert {name: gradient.shape for name, gradient in gradients[0].items()} == SHAPES
    assert (rendering.alpha >= 0).all() and (rendering.alpha <= 1.0001).all()  # NaN fails too
    return rendering, gradients


special = st.sampled_from([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e30, 1e-30, 1e-42, -0.0, 0.0, 0.2, -1e9])
any_float = st.binary(min_size=4, max_size=4).map(lambda b: np.frombuffer(b, np.float32)[0])


@st.composite
def places(draw, shapes):
    """Where to put which numbers: [(operand, position among its numbers, value)]."""
    name = st.sampled_from(sorted(shapes))
    chosen = draw(st.lists(st.tuples(name, st.integers(0, 10**6), special | any_float), min_size=1, max_size=12))
    return [(name, position % int(np.prod(shapes[name])), value) for name, position, value in chosen]


def put(arrays, chosen):
    arrays = {name: a.copy() for name, a in arrays.items()}
    for name, position, value in chosen:
        arrays[name].flat[position] = value
    return arrays


@given(places(SHAPES))
@settings(max_examples=60)
def test_odd_numbers_anywhere(chosen):
    check_between_neighbors(put(sane_operands(2), chosen))


@given(st.sampled_from(sorted(SHAPES)), st.data())
@settings(max_examples=40)
def test_random_bytes_fill_an_operand(name, data):
    operands = sane_operands(2)
    size = operands[name].size
    content = data.draw(st.binary(min_size=4 * size, max_size=4 * size))
    operands[name] = np.frombuffer(content, np.float32).reshape(SHAPES[name])
    check_between_neighbors(operands)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_random_bytes_everywhere(seed):
    rng = np.random.default_rng(seed)
    operands = {
        name: np.frombuffer(rng.bytes(4 * a.size), np.float32).reshape(a.shape) for name, a in sane_operands().items()
    }
    check_between_neighbors(operands)


@given(places(COTANGENTS))
@settings(max_examples=20)
def test_odd_numbers_in_the_gradients_of_images(chosen):
    rendering, _ = check_between_neighbors(sane_operands(2), put(sane_cotangents(), chosen))
    assert np.isfinite(rendering.color).all()


def without(operands, dead):
    """Rendering and gradients with the slots `dead` not alive."""
    alive = EVERYONE.copy()
    alive[list(dead)] = False
    return render_with_gradient(operands, alive, THREE, sane_cotangents())


@given(
    st.lists(
        st.tuples(
            st.sampled_from(OF_GAUSSIANS),
            st.integers(0, COUNT - 1),
            st.integers(0, 10**6),
            st.sampled_from([np.nan, np.inf, -np.inf]),
        ),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=60)
def test_gaussians_with_numbers_that_are_not_finite_leave_no_trace(chosen):
    """But for the two infinities that mean something: a log scale of -inf (flat) and a logit of +inf (opaque)."""
    operands, dead = sane_operands(2), set()
    for name, slot, position, value in chosen:
        if (name == "log_scales" and value == -np.inf) or (name == "opacity_logits" and value == np.inf):
            continue
        row = operands[name][slot : slot + 1]  # a view, also of one number
        row.flat[position % row.size] = value
        dead.add(slot)
    rendering, gradients = render_with_gradient(operands, EVERYONE, THREE, sane_cotangents())
    assert not np.asarray(rendering.radii)[sorted(dead)].any()
    assert_equal((rendering, gradients), without(operands, dead))
    assert np.isfinite(rendering.color).all() and np.isfinite(rendering.features).all()
    assert all(np.isfinite(gradient).all() for gradient in jax.tree.leaves(gradients))


def test_the_reference_leaves_no_trace_of_them_either():
    """One Gaussian broken in each field; the oracle has to draw the same picture."""
    operands = sane_operands(2)
    for slot, name in enumerate(OF_GAUSSIANS):
        operands[name][slot].reshape(-1)[-1:] = np.inf if slot % 2 else np.nan
        if operands[name].ndim == 1:
            operands[name][slot] = np.nan

    @quick_jit
    def reference(operands):
        return render(
            Gaussians(*(operands[name] for name in Gaussians._fields)),
            Camera(operands["camera_from_world"], operands["intrinsics"], WIDTH, HEIGHT),
            background=operands["background"],
            mean2d_offset=operands["mean2d_offset"],
            features=operands["features"],
            backend="reference",
        )

    r = reference(operands)
    expected, _ = without(operands, range(len(OF_GAUSSIANS)))
    np.testing.assert_array_equal(r.radii > 0, expected.radii > 0)
    for name in COTANGENTS:
        np.testing.assert_allclose(getattr(r, name), getattr(expected, name), atol=1e-5)
    assert np.count_nonzero(r.radii) == COUNT - len(OF_GAUSSIANS)


@pytest.mark.parametrize(
    ("name", "infinite", "finite"), [("log_scales", -np.inf, -100), ("opacity_logits", np.inf, 100)]
)
def test_infinities_with_a_meaning(name, infinite, finite):
    """exp(-inf) = 0 and sigmoid(inf) = 1, as with numbers far out; their own gradients are 0."""
    results = []
    for value in (infinite, finite):
        operands = sane_operands(2)
        operands[name][::2] = value
        results.append(render_with_gradient(operands, EVERYONE, THREE, sane_cotangents()))
    assert_equal(results[0], results[1])
    assert np.count_nonzero(results[0][0].radii[::2]) > 2
    np.testing.assert_array_equal(results[0][1][0][name][::2], 0)


def test_unused_harmonics_may_hold_anything():
    operands, poisoned = sane_operands(2), sane_operands(2)
    poisoned["sh_rest"][:, 3:] = np.nan
    one = np.int32(1)
    assert_equal(
        render_with_gradient(poisoned, EVERYONE, one, sane_cotangents()),
        render_with_gradient(operands, EVERYONE, one, sane_cotangents()),
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["camera_from_world", "intrinsics"])
def test_a_camera_that_is_not_finite_sees_the_background(name, value):
    for position in range(12 if name == "camera_from_world" else 4):
        operands = put(sane_operands(2), [(name, position, value)])
        rendering, gradients = check_between_neighbors(operands)
        assert not rendering.radii.any()
        np.testing.assert_array_equal(
            rendering.color, np.broadcast_to(operands["background"][None, None], (HEIGHT, WIDTH, 3))
        )
        for image in (rendering.depth, rendering.alpha, rendering.features):
            np.testing.assert_array_equal(image, 0)
        for name_of_gradient in OF_GAUSSIANS:
            np.testing.assert_array_equal(gradients[0][name_of_gradient], 0)


@pytest.mark.parametrize("focal", [0.0, -1.0, 1e-30, 1e30])
def test_focal_lengths_that_no_camera_has(focal):
    operands = sane_operands(2)
    operands["intrinsics"][:2] = focal
    rendering, _ = check_between_neighbors(operands)
    assert np.isfinite(rendering.color).all()


def test_a_background_that_is_no_number_spoils_the_color_alone():
    operands = put(sane_operands(2), [("background", 1, np.nan)])
    rendering, _ = check_between_neighbors(operands)
    expected, _ = check_between_neighbors(sane_operands(2))
    assert np.isnan(rendering.color[..., 1]).all()
    assert_equal(rendering._replace(color=rendering.color[..., ::2]), expected._replace(color=expected.color[..., ::2]))


@pytest.mark.parametrize(("given_degree", "meant"), [(-1, 0), (-(2**31), 0), (4, 3), (2**31 - 1, 3)])
def test_a_traced_degree_out_of_range_is_the_nearest_one(given_degree, meant):
    operands = sane_operands(2)
    results = [render_with_gradient(operands, EVERYONE, np.int32(d), sane_cotangents()) for d in (given_degree, meant)]
    assert_equal(results[0], results[1])


def empty_gaussians(*batch) -> Gaussians:
    shapes = [(3,), (3,), (4,), (), (3,), (15, 3)]
    return Gaussians(*(jnp.zeros((*batch, 0, *shape)) for shape in shapes))


@pytest.mark.parametrize("channels", [0, 3])
def test_no_gaussians_at_all(channels):
    camera, background = identity_camera(20, 9, 20.0), jnp.array([0.1, 0.2, 0.3])

    def draw(gaussians, background) -> Rendering:
        return render(gaussians, camera, background=background, features=jnp.zeros((0, channels)))

    rendering = draw(empty_gaussians(), background)
    np.testing.assert_array_equal(rendering.color, np.broadcast_to(background[None, None], (9, 20, 3)))
    assert rendering.radii.shape == (0,) and rendering.features.shape == (9, 20, channels)
    assert rendering.pair_count == 0 and not rendering.alpha.any() and not rendering.features.any()
    gradient = jax.grad(lambda g, b: jnp.sum(draw(g, b).color), argnums=(0, 1))(empty_gaussians(), background)
    assert gradient[0].sh_rest.shape == (0, 15, 3)
    np.testing.assert_array_equal(gradient[1], 9 * 20)
    batched = jax.vmap(draw, in_axes=(0, None))(empty_gaussians(2), background)
    np.testing.assert_array_equal(batched.color, np.stack(2 * [rendering.color]))


def test_a_batch_of_none():
    view = make_view(3, COUNT, WIDTH, HEIGHT)
    none = jax.tree.map(lambda a: jnp.zeros((0, *a.shape)), view.gaussians)
    gradient = jax.vmap(jax.grad(lambda g: jnp.sum(render(g, view.camera).color)))(none)
    assert gradient.means.shape == (0, COUNT, 3)
