"""The toy of modes: its exact scores by quadrature and by differentiation, where SDS and IPSM go, JSON and figure."""

import importlib
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from ipsm_jax.losses.distillation import DistillationOptions, resize_image
from ipsm_jax.priors.diffusion import scaled_linear_schedule

MEANS = [[1.0, 0.5], [-1.5, 0.2], [0.3, -1.0]]
COVARIANCES = [[[0.3, 0.1], [0.1, 0.2]], [[0.6, -0.2], [-0.2, 0.4]], [[0.25, 0.0], [0.0, 0.5]]]
WEIGHTS, NEGATIVE = (0.5, 0.2, 0.0), (0.2, 0.3, 0.5)
ERROR = 0.4
POINTS = np.array([[0.3, -0.8], [2.0, 1.0], [-2.5, 0.1]])


@pytest.fixture
def experiments(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "experiments"))
    jax.config.update("jax_disable_most_optimizations", True)  # many small programs: compiling them takes longest
    yield importlib.import_module
    jax.config.update("jax_disable_most_optimizations", False)


def grid_density(weights):
    """Points of a fine grid, and the mixture's probabilities there, by scipy."""
    axis = np.linspace(-8, 8, 641)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    parts = zip(weights, MEANS, COVARIANCES, strict=True)
    return grid, sum(w * scipy.stats.multivariate_normal(m, c).pdf(grid) for w, m, c in parts)


def noise_by_quadrature(grid, probabilities, alpha, noisy):
    """E[e | z_t] as a sum over everything that z can be."""
    noise = (noisy - np.sqrt(alpha) * grid) / np.sqrt(1 - alpha)
    shares = probabilities * np.exp(-0.5 * (noise**2).sum(-1))
    return shares @ noise / shares.sum()


@pytest.mark.parametrize("t", [250, 749])
@pytest.mark.parametrize("known", [(False, False), (True, False), (True, True)])
def test_predictions_are_the_expected_noise_by_quadrature(experiments, t, known):
    mixture_prior = experiments("mixture_prior")
    alpha, seen = float(scaled_linear_schedule()[t]), np.array([0.9, -0.3])
    with jax.enable_x64(True):
        prior = mixture_prior.mixture_prior(MEANS, COVARIANCES, WEIGHTS, NEGATIVE, ERROR)
        assert prior.positive.dtype == jnp.float64
        for weights, log_weights in ((WEIGHTS, prior.positive), (NEGATIVE, prior.negative)):
            grid, density = grid_density(weights)
            likelihood = np.exp(-0.5 * (((grid - seen) / ERROR) ** 2)[:, np.array(known)].sum(-1))
            for noisy in POINTS:
                latents, level = jnp.asarray(noisy).reshape(1, 1, 2, 1), jnp.array([t])
                hole = 1.0 - jnp.asarray(known, float).reshape(1, 1, 2, 1)
                values = jnp.where(hole == 1, 0.0, seen.reshape(1, 1, 2, 1))
                filled = prior.predict_noise_inpaint(prior.params, latents, level, hole, values, log_weights[None])
                expected = noise_by_quadrature(grid, density * likelihood, alpha, noisy)
                np.testing.assert_allclose(filled.ravel(), expected, rtol=1e-6, atol=1e-9)
                if not any(known):
                    plain = prior.predict_noise(prior.params, latents, level, log_weights[None])
                    np.testing.assert_allclose(plain, filled, rtol=1e-12)


def test_predictions_are_the_gradient_of_the_log_density(experiments):
    mixture_prior = experiments("mixture_prior")
    with jax.enable_x64(True):
        mixture = mixture_prior.Mixture(jnp.log(jnp.asarray(NEGATIVE)), jnp.asarray(MEANS), jnp.asarray(COVARIANCES))
        alpha = jnp.float64(0.3)
        spread = mixture_prior.noised(mixture, alpha)
        densities = [scipy.stats.multivariate_normal(m, c) for m, c in zip(*spread[1:], strict=True)]
        for point in POINTS:
            expected = np.log(sum(w * d.pdf(point) for w, d in zip(NEGATIVE, densities, strict=True)))
            assert float(mixture_prior.log_density(spread, point)) == pytest.approx(expected, rel=1e-12)
            score = jax.grad(mixture_prior.log_density, argnums=1)(spread, jnp.asarray(point))
            noise = mixture_prior.expected_noise(mixture, alpha, jnp.asarray(point))
            np.testing.assert_allclose(noise, -np.sqrt(0.7) * score, rtol=1e-10)


def test_a_point_is_a_picture_of_two_pixels(experiments):
    mixture_prior = experiments("mixture_prior")
    prior = mixture_prior.mixture_prior(MEANS, COVARIANCES, WEIGHTS, NEGATIVE, ERROR)

    def latents(point):
        square = resize_image(mixture_prior.picture(point), prior.image_size)
        return prior.encode(prior.params, square[None], None).ravel()

    point = jnp.array([-3.0, 7.5])
    np.testing.assert_allclose(latents(point), point, atol=1e-5)
    np.testing.assert_allclose(jax.jacobian(latents)(point), np.eye(2), atol=1e-5)
    decoded = prior.decode(prior.params, latents(point)[None, None, :, None])[0]
    np.testing.assert_allclose(decoded, np.broadcast_to(mixture_prior.picture(point), (2, 2, 3)), atol=1e-6)


def test_from_a_failure_sds_stays_there_and_ipsm_reaches_the_target(experiments):
    toy = experiments("toy_modes")
    x, y = toy.MEANS[1]
    starts = jnp.array([(x + 0.5, y + 0.5), (x + 1.0, y - 1.0), (x + 2.0, y - 1.0)])
    seen = toy.MEANS[0][0] + jnp.array([0.0, 0.3, -0.3])

    def ends(method):
        options, prior = toy.scheduled(toy.METHODS[method], 1500), toy.toy_prior("excluded")
        paths = toy.trajectories(jax.random.key(0), options, prior, starts, seen, 1500)
        return toy.count_ends(np.asarray(paths)[:, -1])

    assert ends("SDS, guidance 7.5").failure == 1
    for method in ("IPSM G1", "IPSM G1 + G2, published sign"):
        assert ends(method).target == 1
    assert ends("IPSM G1 + G2, paper's sign").target == 0


def test_the_methods_are_the_library_s_published_terms(experiments):
    toy = experiments("toy_modes")
    assert toy.METHODS["IPSM G1 + G2, published sign"] == DistillationOptions()
    assert toy.METHODS["SDS, guidance 100"].guidance_scale == 100
    steps = toy.scheduled(DistillationOptions(), 1500).schedule
    assert [bool(steps.active(i)) for i in (0, 1, 1500)] == [False, True, True]
    assert [float(steps.ramped(i)) for i in (50, 100, 1500)] == [0.5, 1, 1]


def test_ends_are_counted(experiments):
    toy = experiments("toy_modes")
    target, wide, other = toy.MEANS[0], toy.MEANS[1], toy.OTHER_MEANS["excluded"]
    # 2.2 away: within 3 standard deviations of the wide failure, not of the target
    points = np.array([target, (target[0] + 2.2, target[1]), (wide[0] + 2.2, wide[1]), other])
    ends = toy.count_ends(points)
    assert (ends.target, ends.failure, ends.elsewhere) == (0.25, 0.25, 0.5)
    assert ends.distance == pytest.approx(np.linalg.norm(points - target, axis=1).mean())


def test_json_comes_first_and_the_figure_is_made_from_it(experiments, tmp_path, monkeypatch, capsys):
    toy = experiments("toy_modes")
    for name in ("METHODS", "OTHER_MEANS"):  # one world, two methods
        few = {key: value for key, value in getattr(toy, name).items() if key in ("excluded", "IPSM G1", toy.DRAWN[0])}
        monkeypatch.setattr(toy, name, few)
    options = ["--points", "5", "--steps", "30", "--seeds", "2", "--out", str(tmp_path), "--figure"]
    monkeypatch.setattr(sys, "argv", ["toy_modes.py", *options, str(tmp_path / "a.png")])
    toy.main()
    saved = json.loads((tmp_path / "toy_modes.json").read_text())
    assert [(r["world"], r["method"], len(r["seeds"])) for r in saved["results"]] == [
        ("excluded", "SDS, guidance 1", 2),
        ("excluded", "IPSM G1", 2),
    ]
    assert np.shape(saved["results"][0]["paths"]) == (5, 4, 2)  # start, after 15 and 30 steps, end
    shares = [seed["target"] + seed["failure"] + seed["elsewhere"] for r in saved["results"] for seed in r["seeds"]]
    np.testing.assert_allclose(shares, 1)
    first = Image.open(tmp_path / "a.png")
    saved["results"][0]["paths"] = []
    saved["results"][1]["seeds"] = [{"target": 0.2, "failure": 0.6, "elsewhere": 0.2, "distance": 2.0}] * 2
    (tmp_path / "toy_modes.json").write_text(json.dumps(saved))
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["toy_modes.py", *options, str(tmp_path / "b.png"), "--figure-only"])
    toy.main()
    assert "| excluded | IPSM G1 | 20 ± 0 % | 60 ± 0 % | 20 ± 0 % | 2.0 ± 0.0 |" in capsys.readouterr().out
    second = Image.open(tmp_path / "b.png")
    assert second.size == first.size and second.tobytes() != first.tobytes()
    (tmp_path / "toy_modes.json").unlink()
    with pytest.raises(SystemExit, match="run without --figure-only first"):
        toy.main()
