"""The study of SDS against IPSM: its verdicts, its tables from what is written, and a tiny one from end to end."""

import json
import sys
from pathlib import Path

import jax
import pytest
from tiny_embedded import write_embedded_prior
from tiny_run import write_scene

from ipsm_jax.config.regularization import WEIGHTS

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import sds_vs_ipsm
from study.claims import CLAIMS, judge
from study.methods import METHODS, Study
from study.report import write_study

sys.path.pop(0)

LOOKS = [
    {"psnr": [18.0, 18.2], "ssim": [0.5, 0.5], "lpips_vgg": [None, None], "lpips_vgg_unscaled": [None, None]},
    {"psnr": [20.0, 21.0], "ssim": [0.6, 0.7], "lpips_vgg": [0.3, 0.2], "lpips_vgg_unscaled": [0.2, 0.1]},
]


def write_batch(folder, method, gain):
    looks = [look | {"iteration": 10 * (k + 1), "gaussians": [40, 50]} for k, look in enumerate(LOOKS)]
    looks[-1] = looks[-1] | {"psnr": [20.0 + gain, 21.0 + gain + 0.01]}
    result = {"seeds": 2, "prior": "embedded", "iterations": 20, "width": 8, "height": 6, "points": "7 points."}
    result |= {"guidance_weights": {"sds": 2.0, "g1": 0.2, "g2": 2.0}, "looks": looks, "seconds": 12.0}
    (folder / method).mkdir(parents=True)
    (folder / method / "result.json").write_text(json.dumps(result))


def test_verdicts_take_more_than_the_noise():
    assert judge([20.0, 20.2, 20.1], [19.0, 19.3, 19.0]).word == "yes"
    assert judge([19.0, 19.3, 19.0], [20.0, 20.2, 20.1]).word == "**no**"
    assert judge([20.0, 19.0, 20.5], [19.5, 19.5, 20.0]).word == "cannot be told"
    # 5 and 3.5 standard errors from zero; for three runs, Student's quantile is 4.3.
    assert judge([1.0, 2.0, 3.0], [0.0, 0.0, 1.0 - 1e-3]).word == "yes"
    assert judge([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]).word == "cannot be told"
    assert judge([20.0], [19.0]).word == "one seed cannot tell"
    assert judge([20.0, 20.5], [19.0, 19.0]).gains == [1.0, 1.5]
    with pytest.raises(ValueError, match="same seeds"):
        judge([1.0, 2.0], [1.0])


def test_claims_carry_the_papers_figures():
    gains = {(claim.better, claim.worse): claim.published for claim in CLAIMS}
    assert gains["g1", "base"] == pytest.approx(19.22 - 19.00)
    assert gains["base", "sds"] == pytest.approx(19.00 - 18.80)
    assert gains["ipsm", "ipsm-paper-sign"] is None
    assert {name for pair in gains for name in pair} == set(METHODS)


def test_tables_and_curves_come_from_what_is_written(tmp_path, monkeypatch):
    for method, gain in (("base", 0.0), ("sds", -1.0)):
        write_batch(tmp_path / "fern", method, gain)
    monkeypatch.setattr("study.report.modes_picture", lambda *_: [[[0.0, 0.0, 0.0]]])
    text = write_study(tmp_path, ["fern"], list(METHODS))
    assert (tmp_path / "study.md").read_text() == text
    assert "| Base | 20.51 ± 0.71 | 0.650 ± 0.071 | 0.250 ± 0.071 | 0.150 ± 0.071 |  | 45 | 12 |" in text
    assert "| SDS, guidance 7.5 | 19.51 ± 0.71 |" in text and "| -1.00 ± 0.00 | 45 | 12 |" in text
    assert "| SDS makes Base worse | +0.20 | +1.00 ± 0.00 | yes |" in text
    assert "G1 improves Base" not in text  # not trained
    assert "8x6 pixels, 20 iterations, 2 seeds in one program, prior embedded, weights sds 2, g1 0.2, g2 2" in text
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_time_is_scaled_to_few_iterations():
    config = Study(iterations=1000).config("demo", 2, METHODS["ipsm"].guidance)
    assert (config.pseudo.pseudo_from, config.pseudo.pseudo_until, config.pseudo.pseudo_ramp) == (200, 950, 50)
    assert config.optimization.sh_degree_interval == config.density.density_from == 50
    assert config.guidance.prior == "embedded" and config.guidance.guidance == "ipsm"
    assert config.guidance.weights == WEIGHTS["embedded"]


def test_results_of_another_prior_are_not_these(tmp_path):
    first = Study(prior_path=write_embedded_prior(tmp_path)).facts
    (config,) = tmp_path.rglob("unet/config.json")
    config.write_text(config.read_text() + "\n")
    second = Study(prior_path=config.parents[1]).facts
    assert first["prior"] == second["prior"] == "embedded" and first != second
    shipped = Study().facts
    assert len(shipped["prior_digest"]) == 16 and shipped == Study().facts and shipped != first
    named = Study(prior="stable-diffusion", prompt="a fern").facts
    assert named == {"prior": "stable-diffusion", "prior_path": "None", "prompt": "a fern"}


def test_weights_can_be_the_published_ones():
    guidance = Study(weights=WEIGHTS["stable-diffusion"]).config("demo", 2, METHODS["ipsm"].guidance).guidance
    assert guidance.prior == "embedded" and guidance.weights == (2.0, 0.2, 2.0)


@pytest.fixture
def compiled_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.usefixtures("own_caches", "compiled_quickly")
def test_a_tiny_study_trains_measures_and_is_not_done_again(tmp_path, monkeypatch, capsys):
    scene = write_scene(tmp_path / "noise")
    prior = write_embedded_prior(tmp_path)
    arguments = ["sds_vs_ipsm.py", "--scenes", f"{scene}:1", "--seeds", "2", "--iterations", "20", "--init", "random"]
    arguments += ["--methods", "base", "ipsm", "--prior-path", str(prior), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", arguments)
    sds_vs_ipsm.main()
    results = {m: json.loads((tmp_path / "out/noise" / m / "result.json").read_text()) for m in ("base", "ipsm")}
    for result in results.values():
        assert [look["iteration"] for look in result["looks"]] == list(range(2, 21, 2))
        assert all(len(result["looks"][-1][name]) == 2 for name in ("psnr", "ssim", "lpips_vgg", "lpips_vgg_unscaled"))
        assert result["looks"][-1]["psnr"][0] != result["looks"][-1]["psnr"][1]  # seeds start from other points
    same = [results[m]["looks"][1]["psnr"] for m in ("base", "ipsm")]
    assert same[0] == pytest.approx(same[1], abs=1e-3)  # no pseudo view yet
    assert results["base"]["looks"][-1]["psnr"] != results["ipsm"]["looks"][-1]["psnr"]
    assert (tmp_path / "out/modes_noise.png").exists()
    capsys.readouterr()
    sds_vs_ipsm.main()
    assert capsys.readouterr().out.count("is finished") == 2
    monkeypatch.setattr(sys, "argv", [*arguments, "--iterations", "10"])
    with pytest.raises(SystemExit, match="iterations 20 -> 10"):
        sds_vs_ipsm.main()
    with pytest.raises(SystemExit, match="a scene is name:downscale"):
        sds_vs_ipsm.parse_scene("fern")
