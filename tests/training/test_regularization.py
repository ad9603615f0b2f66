"""Depth, geometry and distillation in the training step: its gradient is their sum's, and idle terms cost nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.config import OptimizationConfig
from ipsm_jax.losses.depth import DepthOptions, measured_depth_loss, pearson
from ipsm_jax.losses.distillation import DistillationOptions, distillation_loss
from ipsm_jax.losses.photometric import photometric_loss
from ipsm_jax.losses.schedule import GuidanceSchedule
from ipsm_jax.losses.warp import GeometryOptions, inverse_warp
from ipsm_jax.priors.depth import DepthPrior
from ipsm_jax.priors.exact import gaussian_prior
from ipsm_jax.rasterizer import render
from ipsm_jax.reporting.diagnostics import pseudo_view_viewer
from ipsm_jax.scene.pseudo_views import pseudo_view_sampler
from ipsm_jax.training.diagnostics import diagnose
from ipsm_jax.training.regularization import DepthMaps, Regularization, draw_pseudo_view
from ipsm_jax.training.step import run_steps, train_step, view_of_step

CONFIG = OptimizationConfig(iterations=300)
SCHEDULE = GuidanceSchedule(start=4, stop=200, ramp=10)
BOUNDS = np.tile(np.array([[2.0, 5.0]]), (3, 1))
SIDE = 8
step_once = jax.jit(train_step, static_argnums=(0, 4))
run = jax.jit(run_steps, static_argnums=(0, 5))


def brightness(params, image):
    return params * jnp.mean(image**2, axis=-1)


def regularization(toy, *, terms=(), depth=False, geometry=False, network=False, **options):
    rng = np.random.default_rng(3)
    maps = DepthMaps(
        jnp.asarray(rng.uniform(2, 4, (3, 16, 24)), jnp.float32), jnp.asarray(rng.uniform(size=(3, 16, 24)) < 0.7)
    )
    mean = rng.uniform(-0.5, 0.5, (SIDE, SIDE, 3))
    prior = gaussian_prior(mean, 0.05 * np.eye(3 * SIDE * SIDE), factor=2)
    return Regularization(
        sampler=pseudo_view_sampler(toy.views.cameras, BOUNDS, "around", list_length=50),
        diffusion=prior if terms else None,
        depth_network=DepthPrior(jnp.float32(10.0), brightness) if network else None,
        depth_maps=maps if depth else None,
        schedule=SCHEDULE,
        distillation=DistillationOptions(terms, schedule=SCHEDULE, **options) if terms else None,
        depth=DepthOptions(maps="depth") if depth else None,
        geometry=GeometryOptions() if geometry else None,
    )


def gradient_of_step(before, after):
    """What Adam was given in its first step: its first moment is (1 - 0.9) times that."""
    return jax.tree.map(lambda new, old: (new - 0.9 * old) / 0.1, after.moments.mu, before.moments.mu)


def rendering(state, camera, gaussians):
    return render(gaussians, camera, alive=state.alive, sh_degree=0)


def test_the_gradient_of_an_iteration_is_that_of_the_terms_written_out(toy):
    """METHOD sections 4, 6 and 7, with the exact posterior mean of a Gaussian prior as SDS's prediction."""
    terms = regularization(toy, terms=("sds",), depth=True, geometry=True, network=True, guidance_scale=1.0)
    state = toy.states[0]._replace(step=jnp.int32(9))
    after, info = step_once(CONFIG, toy.views, state, terms)
    assert set(info.terms) == {"photometric", "seen_depth", *terms.pseudo_terms}
    assert all(float(value) > 0 for value in info.terms.values())
    np.testing.assert_allclose(sum(info.terms.values()), info.loss, rtol=1e-6)

    iteration, ramp = 10, (10 - SCHEDULE.start) / SCHEDULE.ramp
    index = int(view_of_step(state.key, state.step, 3))
    view = draw_pseudo_view(terms, toy.views.cameras, state.key, jnp.int32(iteration))
    reference = toy.views.cameras[int(view.reference)]
    assert view.camera.intrinsics.tolist() == reference.intrinsics.tolist()
    held = rendering(state, view.camera, state.gaussians)
    warp = inverse_warp(
        reference,
        toy.views.targets.image[view.reference],
        rendering(state, reference, state.gaussians).depth,
        view.camera,
        held.depth,
    )
    # SDS's g is read off its diagnostics; that it is what the formula says, test_distillation shows.
    diagnosis = jax.jit(diagnose, static_argnums=(0, 4))(CONFIG, toy.views, terms, state, None)
    clean = diagnosis.distillation.pictures.plain
    assert clean.shape == (2 * SIDE, 2 * SIDE, 3)

    def seen(gaussians):
        rendered = rendering(state, toy.views.cameras[index], gaussians)
        target = jax.tree.map(lambda a: a[index], toy.views.targets)
        maps = terms.depth_maps
        return photometric_loss(rendered.color, target, 0.2) + 0.05 * measured_depth_loss(
            rendered.depth, maps.values[index], maps.known[index]
        )

    def unseen(gaussians):
        rendered = rendering(state, view.camera, gaussians)
        correlation, _ = pearson(rendered.depth, -brightness(10.0, rendered.color))
        known = warp.mask(0.1)[..., None]
        return 0.5 * ramp * (1 - correlation) + 2.0 * jnp.mean(known * jnp.abs(rendered.color - warp.image))

    def distilled(gaussians):
        image = rendering(state, view.camera, gaussians).color
        return distillation_loss(view.key, terms.distillation, terms.diffusion, image, None, None, iteration)[0]

    parts = [jax.jit(jax.grad(part))(state.gaussians) for part in (seen, unseen, distilled)]
    expected = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    got = gradient_of_step(state, after)
    for name in ("means", "log_scales", "quaternions", "opacity_logits", "sh_dc"):
        want = np.asarray(getattr(expected, name))
        np.testing.assert_allclose(getattr(got, name), want, atol=2e-5 * np.abs(want).max(), err_msg=name)
        for part in parts:  # each matters at this tolerance
            assert np.abs(np.asarray(getattr(part, name))).max() > 1e-3 * np.abs(want).max()


def test_iterations_without_a_pseudo_view_are_those_of_the_base_method_bit_for_bit(toy):
    terms = regularization(toy, terms=("g1", "g2"), geometry=True, network=False)
    plain, _ = run(CONFIG, toy.views, toy.states[0], SCHEDULE.start)
    with_terms, info = run(CONFIG, toy.views, toy.states[0], SCHEDULE.start, terms)
    for a, b in zip(jax.tree.leaves(plain.gaussians), jax.tree.leaves(with_terms.gaussians), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert float(info.terms["distillation"]) == float(info.terms["geometry"]) == 0
    after, info = run(CONFIG, toy.views, with_terms, 1, terms)
    assert float(info.terms["distillation"]) > 0 and float(info.terms["geometry"]) > 0
    base, _ = run(CONFIG, toy.views, with_terms, 1)
    assert not np.array_equal(after.gaussians.means, base.gaussians.means)


def test_nothing_of_the_terms_is_computed_outside_of_the_condition(toy):
    """The program of an idle iteration: only the branch of the condition mentions the prior's matrix."""
    terms = regularization(toy, terms=("sds",))
    jaxpr = jax.make_jaxpr(train_step, static_argnums=(0, 4))(CONFIG, toy.views, toy.states[0], terms, None).jaxpr
    size = 3 * SIDE * SIDE

    def uses(jaxpr, inside):
        """(equation name, whether inside a condition) of everything that touches an array of the prior's size."""
        for equation in jaxpr.eqns:
            if equation.primitive.name == "cond":
                yield from (found for branch in equation.params["branches"] for found in uses(branch.jaxpr, True))
                continue
            if any((size, size) == getattr(v.aval, "shape", None) for v in (*equation.invars, *equation.outvars)):
                yield equation.primitive.name, inside
            for value in equation.params.values():
                if (inner := getattr(value, "jaxpr", None)) is not None and hasattr(inner, "eqns"):
                    yield from uses(inner, inside)

    found = list(uses(jaxpr, False))
    assert found and all(inside for _, inside in found)


def test_the_room_for_pairs_reaches_every_rendering(toy):
    terms = regularization(toy, geometry=True)
    program = jax.make_jaxpr(train_step, static_argnums=(0, 4))(CONFIG, toy.views, toy.states[0], terms, 77)
    default = jax.make_jaxpr(train_step, static_argnums=(0, 4))(CONFIG, toy.views, toy.states[0], terms, None)
    assert str(program).count("i32[77,2]") >= 3  # training, pseudo and reference view
    assert "i32[77,2]" not in str(default)


@pytest.mark.parametrize("options", [{"terms": ("sds",)}, {"terms": ("g1", "g2"), "geometry": True}, {"depth": True}])
def test_seeds_in_one_program_equal_single_runs(toy, options):
    terms = regularization(toy, **options)
    states = [state._replace(step=jnp.int32(SCHEDULE.start)) for state in toy.states]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *states)
    together, info = jax.jit(jax.vmap(train_step, in_axes=(None, None, 0, None, None)), static_argnums=(0, 4))(
        CONFIG, toy.views, stacked, terms, None
    )
    for seed, state in enumerate(states):
        alone, alone_info = step_once(CONFIG, toy.views, state, terms)
        np.testing.assert_allclose(info.loss[seed], alone_info.loss, rtol=1e-5)
        np.testing.assert_allclose(
            gradient_of_step(state, jax.tree.map(lambda a, k=seed: a[k], together)).means,
            gradient_of_step(state, alone).means,
            atol=1e-6,
        )


def test_a_look_at_a_pseudo_view_shows_what_the_next_iteration_does(toy):
    terms = regularization(toy, terms=("g1", "g2"), geometry=True, network=False)
    state = toy.states[0]._replace(step=jnp.int32(20))
    diagnosis = jax.jit(diagnose, static_argnums=(0, 4))(CONFIG, toy.views, terms, state, None)
    _, info = step_once(CONFIG, toy.views, state, terms)
    for name in terms.pseudo_terms:
        np.testing.assert_allclose(diagnosis.terms[name], info.terms[name], rtol=1e-4)
        assert float(diagnosis.gradient_norms[name]) > 0
    # |d/d color| of w mean(mask |x - warped|) is w sqrt(number of masked values) / number of all values
    count = 3 * int(np.sum(diagnosis.geometry_mask))
    np.testing.assert_allclose(diagnosis.gradient_norms["geometry"], 2.0 * np.sqrt(count) / (3 * 16 * 24), rtol=1e-3)
    picture, figures = pseudo_view_viewer(CONFIG, ["a.png", "b.png", "c.png"], toy.views, terms)(state)
    assert picture.dtype == np.uint8 and picture.shape[1] >= 4 * 24 and picture.shape[0] >= 3 * 16
    assert {"geometry", "distillation_gradient", "g1_latent_gradient", "g2_latent_gradient", "timestep"} <= set(figures)
    assert all(np.isfinite(value) for value in figures.values())


def test_what_a_term_lacks_is_named(toy):
    terms = regularization(toy, terms=("sds",), depth=True)
    for lacking, message in (
        ({"diffusion": None}, "distillation needs a diffusion prior"),
        ({"sampler": None}, "pseudo views need a sampler"),
        ({"depth_maps": None}, "needs depth options and depth maps"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(
                functools.partial(train_step, CONFIG, toy.views, regularization=dataclasses.replace(terms, **lacking)),
                toy.states[0],
            )
