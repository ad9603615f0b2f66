"""The study of SDS against IPSM: its verdicts, its tables from what is written, and a tiny one from end to end."""

import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_embedded import write_embedded_prior
from tiny_run import tiny_gaussians, write_scene

from ipsm_jax.config import ConfigError
from ipsm_jax.config.regularization import WEIGHTS
from ipsm_jax.metrics.perceptual import load_lpips
from ipsm_jax.training.batch import stack_states
from ipsm_jax.training.lock import locked
from ipsm_jax.training.state import init_state

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import sds_vs_ipsm
from study.claims import CLAIMS, judge
from study.methods import METHODS, Study
from study.progress import load_progress, load_states, save_progress
from study.report import write_study
from study.trainings import measure

sys.path.pop(0)

LOOKS = [
    {"psnr": [18.0, 18.2], "ssim": [0.5, 0.5], "lpips_vgg": [None, None], "lpips_vgg_unscaled": [None, None]},
    {"psnr": [20.0, 21.0], "ssim": [0.6, 0.7], "lpips_vgg": [0.3, 0.2], "lpips_vgg_unscaled": [0.2, 0.1]},
]


def write_batch(folder, method, gain, **facts):
    looks = [look | {"iteration": 10 * (k + 1), "gaussians": [40, 50]} for k, look in enumerate(LOOKS)]
    looks[-1] = looks[-1] | {"psnr": [20.0 + gain, 21.0 + gain + 0.01]}
    result = {"seeds": 2, "prior": "embedded", "iterations": 20, "width": 8, "height": 6, "points": "7 points."}
    result |= {"guidance_weights": {"sds": 2.0, "g1": 0.2, "g2": 2.0}, "looks": looks, "seconds": 12.0, **facts}
    (folder / method).mkdir(parents=True, exist_ok=True)
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
    assert "| SDS, guidance 7.5 | 19.51 ± 0.71 |" in text and "| -1.00 ± 0.00 * | 45 | 12 |" in text
    assert "| SDS makes Base worse | +0.20 | +1.00 ± 0.00 | yes |" in text
    assert "G1 improves Base" not in text  # not trained
    assert "8x6 pixels, 20 iterations, 2 seeds in one program, prior embedded, weights sds 2, g1 0.2, g2 2" in text
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_it_is_said_where_the_papers_sign_leaves_nothing_but_sds(tmp_path, monkeypatch):
    monkeypatch.setattr("study.report.modes_picture", lambda *_: [[[0.0, 0.0, 0.0]]])
    for weights, said in (({"sds": 2, "g1": 0.2, "g2": 2}, False), ({"sds": 0.02, "g1": 0.06, "g2": 0.06}, True)):
        write_batch(tmp_path / "fern", "base", 0.0)
        write_batch(tmp_path / "fern", "ipsm-paper-sign", 0.0, guidance_weights=weights)
        text = write_study(tmp_path, ["fern"], list(METHODS))
        assert ("what is left is SDS with weight 0.06" in text) == said
        assert "+0.00 ± 0.00 |" in text  # no star


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


def run_study(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["sds_vs_ipsm.py", *map(str, arguments)])
    return sds_vs_ipsm.main()


def few_photos(folder, count):
    write_scene(folder)
    np.save(folder / "poses_bounds.npy", np.load(folder / "poses_bounds.npy")[:count])
    for photo in sorted((folder / "images").iterdir())[count:]:
        photo.unlink()
    return folder


def refusals(tmp_path):
    """Arguments, and words of the sentence that answers them."""
    noise = f"{write_scene(tmp_path / 'noise')}:1"
    (tmp_path / "file").write_text("no folder")
    stable = ("--prior", "stable-diffusion", "--prompt", "noise")
    return [
        (("--scenes", "nowhere:4", "--data-root", tmp_path), r"nowhere"),
        (
            ("--scenes", "fern:8", "--data-root", tmp_path / "missing"),
            r"missing.*no such folder|missing.*does not exist",
        ),
        (("--scenes", noise, *stable), r"Stable Diffusion.*--prior embedded"),
        (("--scenes", noise, *stable, "--prior-path", tmp_path / "wrong"), r"wrong.*--prior embedded"),
        (
            ("--scenes", noise, "--prior", "stable-diffusion", "--prior-path", tmp_path),
            r"needs to know what the photos",
        ),
        (("--scenes", noise, "--prior-path", tmp_path / "wrong"), r"embedded prior in .*wrong is incomplete"),
        (("--scenes", noise, "--prompt", "noise"), r"understands no words"),
        (("--scenes", f"{few_photos(tmp_path / 'three', 3)}:1"), r"no views are left to measure: all 3 photos train"),
        (("--scenes", f"{noise[:-2]}:3"), r"LPIPS .* at least 16 pixels a side, got 13x11"),
        (("--scenes", noise, "--init", tmp_path / "no.ply"), r"no\.ply"),
        (("--scenes", noise, "--seeds", "0"), r"--seeds must be at least 1, got 0"),
        (("--scenes", noise, "--seeds", "-2"), r"--seeds must be at least 1, got -2"),
        (("--scenes", noise, "--iterations", "0"), r"--iterations must be at least 10.*got 0"),
        (("--scenes", noise, "--iterations", "-5"), r"--iterations must be at least 10.*got -5"),
        (("--scenes", noise, "--out", tmp_path / "file"), r"--out .*file cannot be written to"),
        (("--scenes", noise, "--out", tmp_path / "file" / "below"), r"--out .*below cannot be written to"),
        (("--scenes", noise, f"{tmp_path}/other/noise:1"), r"two scenes have the same name"),
        (("--scenes", "fern"), r"a scene is name:downscale"),
        (("--scenes", noise, "nowhere:4"), r"nowhere"),  # the second one, before the first is trained
    ]


@pytest.mark.usefixtures("own_caches")
def test_what_cannot_be_done_is_refused_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for variable in ("IPSM_JAX_PRIORS", "IPSM_JAX_DATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(sds_vs_ipsm, "train_and_measure", None)
    for arguments, words in refusals(tmp_path):
        assert run_study(monkeypatch, "--init", "random", *arguments) == 2, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: ") and re.search(words, error, re.DOTALL), error


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")
def test_two_studies_do_not_work_in_one_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sds_vs_ipsm, "train_and_measure", None)
    with locked(tmp_path):
        assert run_study(monkeypatch, "--out", tmp_path) == 2
    assert "another training is working in" in (said := capsys.readouterr().err) and "another --out" in said


def test_the_study_needs_lpips_and_says_so_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("study.trainings.load_lpips", lambda network: load_lpips(network, tmp_path))
    monkeypatch.setattr(sds_vs_ipsm, "train_and_measure", None)
    for tuned in ((), ("--tune",)):
        assert run_study(monkeypatch, "--scenes", f"{tmp_path}:1", "--out", tmp_path / "out", *tuned) == 2
        assert "LPIPS weights not found" in capsys.readouterr().err


def test_progress_is_read_as_it_was_saved(tmp_path):
    gaussians, alive = tiny_gaussians()
    states = stack_states([init_state(jax.random.key(seed), gaussians, alive) for seed in (3, 5)])
    assert load_progress(tmp_path) is None
    said = {"looks": [{"psnr": [0.1, 1 / 3]}], "weights": None}
    save_progress(tmp_path, states._replace(step=jnp.int32(7)), said)
    assert load_progress(tmp_path) == said
    found = load_states(tmp_path, states)
    assert int(found.step) == 7
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(states._replace(step=jnp.int32(7))), strict=True):
        assert a.dtype == b.dtype
        same = jax.random.key_data if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key) else np.asarray
        np.testing.assert_array_equal(same(a), same(b))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    for read in (load_progress, lambda folder: load_states(folder, states)):
        with pytest.raises(ConfigError, match=r"progress\.safetensors is damaged .* remove it"):
            read(tmp_path)


@pytest.mark.usefixtures("own_caches", "compiled_quickly")
def test_a_tiny_study_trains_measures_and_is_not_done_again(tmp_path, monkeypatch, capsys):
    scene = write_scene(tmp_path / "noise")
    prior = write_embedded_prior(tmp_path)
    arguments = ["--scenes", f"{scene}:1", "--seeds", "2", "--iterations", "20", "--init", "random"]
    arguments += ["--methods", "base", "ipsm", "--prior-path", prior, "--out", tmp_path / "out"]
    assert run_study(monkeypatch, *arguments) == 0
    results = {m: json.loads((tmp_path / "out/noise" / m / "result.json").read_text()) for m in ("base", "ipsm")}
    for result in results.values():
        assert [look["iteration"] for look in result["looks"]] == list(range(2, 21, 2))
        assert all(len(result["looks"][-1][name]) == 2 for name in ("psnr", "ssim", "lpips_vgg", "lpips_vgg_unscaled"))
        assert result["looks"][-1]["psnr"][0] != result["looks"][-1]["psnr"][1]  # seeds start from other points
    same = [results[m]["looks"][1]["psnr"] for m in ("base", "ipsm")]
    assert same[0] == pytest.approx(same[1], abs=1e-3)  # no pseudo view yet
    assert results["base"]["looks"][-1]["psnr"] != results["ipsm"]["looks"][-1]["psnr"]
    assert (tmp_path / "out/modes_noise.png").exists()
    lines = capsys.readouterr().out.splitlines()
    assert sum(re.match(r"  \d+/20  PSNR \S+ \S+ dB", line) is not None for line in lines) == 20
    assert run_study(monkeypatch, *arguments) == 0
    assert capsys.readouterr().out.count("is finished") == 2
    assert run_study(monkeypatch, *arguments, "--iterations", "10") == 2
    assert "iterations 20 -> 10" in capsys.readouterr().err

    # Stopped while it is measured after iteration 12, and taken up: the same to the last bit.
    def stopped(scene, config, state, figures):
        if int(state.step) == 12:
            raise KeyboardInterrupt
        return measure(scene, config, state, figures)

    arguments += ["--methods", "ipsm", "--out", tmp_path / "again"]
    with monkeypatch.context() as patch:
        patch.setattr("study.trainings.measure", stopped)
        assert run_study(monkeypatch, *arguments) == 130
    assert "the same command goes on" in capsys.readouterr().err
    folder = tmp_path / "again/noise/ipsm"
    assert [path.name for path in folder.iterdir()] == ["progress.safetensors"]
    assert run_study(monkeypatch, *arguments, "--iterations", "30") == 2
    assert "iterations 20 -> 30" in capsys.readouterr().err
    (folder / ".progress.0123456789ab.tmp.safetensors").touch()  # as a kill while it is written leaves it
    assert run_study(monkeypatch, *arguments) == 0
    assert "going on after iteration 10" in capsys.readouterr().out
    assert json.loads((folder / "result.json").read_text())["looks"] == results["ipsm"]["looks"]
    assert not list(folder.glob("*.safetensors"))
