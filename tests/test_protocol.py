"""The published protocols: which scenes are there, what is trained, and tables with known numbers."""

import importlib
import json
import math
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tiny_run

from ipsm_jax.config import parse_command_line


@pytest.fixture
def experiments(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "experiments"))
    monkeypatch.delenv("IPSM_JAX_DATA", raising=False)
    monkeypatch.setenv("IPSM_JAX_PRIORS", str(tmp_path / "no_priors"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no_cache"))
    monkeypatch.chdir(tmp_path)
    return importlib.import_module


def scenes(root, *names):
    for name in names:
        tiny_run.write_scene(root / name)
    return root


def scan(root, monkeypatch):
    """A folder with as many photos as a scan of DTU has."""
    monkeypatch.setattr(tiny_run, "VIEWS", 49)
    return tiny_run.write_scene(root)


def finish(folder, psnr, ssim=0.5, unscaled=0.25, lpips=0.3, minutes=2.0):
    """A run folder as training leaves it, as far as the tables read it."""
    folder.mkdir(parents=True)
    mean = {"psnr": psnr, "ssim": ssim, "lpips_vgg": lpips, "lpips_vgg_unscaled": unscaled, "avge": 0.9}
    (folder / "metrics.json").write_text(json.dumps({"mean": mean}))
    last = {"iteration": 10, "loss": 0.1, "gaussians": 40, "seconds": 60 * minutes}
    (folder / "log.jsonl").write_text(json.dumps(last) + "\n")


def run(module, name, monkeypatch, capsys, *arguments):
    """What the command prints, in lines."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    capsys.readouterr()
    module.run_protocol(getattr(module, name.upper()), module.__doc__)
    return capsys.readouterr().out.splitlines()


def row(lines, *cells):
    return next(line for line in lines if line.startswith(f"| {' | '.join(cells)} |"))


def test_finished_runs_become_the_published_table(experiments, tmp_path, monkeypatch, capsys):
    data, out = scenes(tmp_path / "data", "fern", "horns"), tmp_path / "out"
    for seed, (fern, horns) in enumerate([(20.0, 16.0), (22.0, 18.0)]):
        finish(out / f"fern-base-seed{seed}", fern, ssim=0.7, unscaled=0.2)
        finish(out / f"horns-base-seed{seed}", horns, ssim=0.5, unscaled=0.3)
    llff = experiments("llff")
    lines = run(llff, "llff", monkeypatch, capsys, "--data-root", data, "--out", out, "--seeds", "2")

    absent = [line for line in lines if "is missing: no scene called" in line]
    assert [line.split()[0] for line in absent] == ["flower", "fortress", "leaves", "orchids", "room", "trex"]
    assert f"--data-root = {data}" in absent[0]
    assert any(line.startswith("ipsm-gaussian is left out: not all of plain") for line in lines)
    assert any("over fern, horns only and do not compare" in line and "over all 8" in line for line in lines)
    avges = [np.cbrt(10 ** (-psnr / 10) * math.sqrt(1 - 0.6) * 0.25) for psnr in (18.0, 20.0)]
    avge = f"{np.mean(avges):.3f} ± {np.std(avges, ddof=1):.3f}"
    expected = f"| 0.600 ± 0.000 | 0.250 ± 0.000 | 0.300 ± 0.000 | 19.00 ± 1.41 | {avge} | 2 of 8 | 2 |"
    own = row(lines, "**ours: base**")
    assert own == f"| **ours: base** {expected}"
    assert lines[lines.index(own) - 1] == "| Base (published) | 0.625 | 0.254 |  | 19.00 | 0.125 | 8 | 3 |"
    assert row(lines, "FSGS (published)").endswith("| 20.43 |  | 8 |  |")
    assert "| 21.00 ± 1.41 |" in row(lines, "fern", "base") and row(lines, "fern", "base").endswith("| 2 | 2.0 ± 0.0 |")
    saved = json.loads((out / "llff.json").read_text())
    assert [(r["scene"], r["seed"]) for r in saved["runs"]] == [("fern", 0), ("horns", 0), ("fern", 1), ("horns", 1)]

    again = run(llff, "llff", monkeypatch, capsys, "--table-only", "--out", out)
    assert again == lines[len(lines) - len(again) :]  # nothing but the JSON is needed


def test_seeds_that_not_all_scenes_have_are_not_averaged(experiments, tmp_path, monkeypatch, capsys):
    data, out = scenes(tmp_path / "data", "fern", "room"), tmp_path / "out"
    for seed in range(2):
        finish(out / f"fern-base-seed{seed}", 20.0 + 8 * seed)
        finish(out / f"room-base-seed{seed}", 10.0)
    llff = experiments("llff")
    run(llff, "llff", monkeypatch, capsys, "--data-root", data, "--out", out, "--seeds", "2", "--methods", "base")
    saved = json.loads((out / "llff.json").read_text())
    saved["runs"].pop()  # as an interruption leaves it
    (out / "llff.json").write_text(json.dumps(saved))
    lines = run(llff, "llff", monkeypatch, capsys, "--table-only", "--out", out)
    assert "base: seed 1 is not averaged, room is not finished." in lines
    own = row(lines, "**ours: base**")
    assert "| 15.00 |" in own and own.endswith("| 2 of 8 | 1 |")
    assert "| 24.00 ± 5.66 |" in row(lines, "fern", "base")
    saved["runs"] = saved["runs"][:1]
    (out / "llff.json").write_text(json.dumps(saved))
    lines = run(llff, "llff", monkeypatch, capsys, "--table-only", "--out", out)
    assert row(lines, "**ours: base**").count("not finished") == 5


def test_figures_that_were_not_computed_are_not_averaged(experiments, tmp_path, monkeypatch, capsys):
    data, out = scenes(tmp_path / "data", "fern", "room"), tmp_path / "out"
    finish(out / "fern-base-seed0", 20.0, unscaled=None, lpips=None)
    finish(out / "room-base-seed0", 18.0)
    options = ["--data-root", data, "--out", out, "--seeds", "1", "--methods", "base"]
    lines = run(experiments("llff"), "llff", monkeypatch, capsys, *options)
    figures = "0.500 | not computed | not computed | 19.00 | not computed"
    assert row(lines, "**ours: base**") == f"| **ours: base** | {figures} | 2 of 8 | 1 |"


def test_what_is_trained_follows_the_protocol(experiments, tmp_path, monkeypatch, capsys):
    data, out, trained = scenes(tmp_path / "data", "fern", "trex"), tmp_path / "out", []
    protocol = experiments("protocol")

    def train(folder, scene, seed, data_root, options):
        trained.append((folder.name, scene, seed, data_root, options))
        finish(folder, 20.0)

    monkeypatch.setattr(protocol, "train_once", train)
    options = ["--data-root", data, "--out", out, "--seeds", "2", "--views", "6", "--scenes", "fern", "room"]
    options += ["--methods", "base", "best", "depth", "--depth-path", "weights", "--", "--sh-degree", "2"]
    lines = run(experiments("llff"), "llff", monkeypatch, capsys, *options)
    fixed = ["--split", "llff", "--views", "6"]
    assert [entry[0] for entry in trained] == [f"fern-{m}-seed{s}" for s in (0, 1) for m in ("base", "best", "depth")]
    assert trained[0] == ("fern-base-seed0", "fern", 0, data, [*fixed, "--sh-degree", "2"])
    assert trained[2][4] == [*fixed, "--depth", "network", "--depth-path", "weights", "--sh-degree", "2"]
    for entry in trained:
        assert parse_command_line(["--scene", entry[1], *entry[4]]).data.views == 6
    assert any("further options" in line and "`--sh-degree 2`" in line for line in lines)
    assert "trex was not asked for" in lines and any(line.startswith("room is missing") for line in lines)
    assert row(lines, "IPSM-Gaussian (published)").startswith("| IPSM-Gaussian (published) | 0.818 |")
    assert row(lines, "**ours: depth**").endswith("| 1 of 8 | 2 |")


def test_without_any_scene_it_says_what_was_looked_for(experiments, tmp_path, monkeypatch, capsys):
    (tmp_path / "data" / "trex").mkdir(parents=True)
    llff = experiments("llff")
    with pytest.raises(SystemExit) as refusal:
        run(llff, "llff", monkeypatch, capsys, "--data-root", tmp_path / "data")
    first, second, *rest = str(refusal.value).splitlines()
    assert first.startswith(
        "no LLFF scene (fern, flower, fortress, horns, leaves, orchids, room) was found in --data-root"
    )
    assert second.startswith("trex is left out:") and "holds no scene in a known layout" in second
    assert any("nerf_llff_data.zip" in line for line in rest)
    with pytest.raises(SystemExit, match="run without --table-only first"):
        run(llff, "llff", monkeypatch, capsys, "--table-only", "--out", tmp_path)


@pytest.mark.parametrize("name", ["scan8", "scan_8", "dtu_scan8"])
def test_that_a_scan_has_no_masks_is_said(experiments, tmp_path, monkeypatch, capsys, name):
    scan(tmp_path / "data" / "DTU" / name, monkeypatch)
    finish(tmp_path / "out" / "scan8-base-seed0", 20.0)
    options = ["--data-root", tmp_path / "data", "--out", tmp_path / "out", "--seeds", "1"]
    lines = run(experiments("dtu"), "dtu", monkeypatch, capsys, *options)
    assert any("scan8: no object masks were found, so these figures are over whole pictures" in x for x in lines)
    assert row(lines, "**ours: base**").endswith("| 1 of 15 | 1 |")
    assert lines[lines.index(row(lines, "**ours: base**")) - 1].startswith("| Base (published) | 0.836 |")


def test_scans_with_masks_need_no_remark_and_too_few_photos_are_left_out(experiments, tmp_path, monkeypatch):
    root = tmp_path / "data"
    scenes(root, "scan21")  # nine photos
    scan(root / "scan8", monkeypatch)
    scan(root / "scan30", monkeypatch)
    for view in range(49):
        (root / "idrmasks" / "scan8").mkdir(parents=True, exist_ok=True)
        iio.imwrite(root / "idrmasks" / "scan8" / f"{view:03d}.png", np.full((34, 40), 255, np.uint8))
    (root / "scan30" / "mask").mkdir()
    iio.imwrite(root / "scan30" / "mask" / "view0.png", np.full((34, 40), 255, np.uint8))
    dtu = experiments("dtu")
    found, missing = experiments("protocol").find_scenes(dtu.DTU, root, 3)
    assert {scene: one.masks for scene, one in found.items()} == {"scan8": True}
    assert "needs the 49 images of a DTU scan, found 9" in missing["scan21"]
    assert "48 of 49 have none" in missing["scan30"]
    assert missing["scan31"].startswith("scan31 is missing: no scene called scan31 or scan_31 or")
    assert len(found) + len(missing) == len(dtu.SCANS) == 15


def test_published_rows_name_methods_that_exist(experiments):
    published, ablation = experiments("published"), experiments("ablation")
    for (protocol, _), rows in published.PUBLISHED.items():
        assert protocol in ("llff", "dtu")
        assert {r.method for r in rows} - {None} <= set(ablation.METHODS)
        for r in rows:  # the published AVGE follows from the other three
            avge = np.cbrt(10 ** (-r.psnr / 10) * math.sqrt(1 - r.ssim) * r.lpips)
            assert r.avge is None or r.avge == pytest.approx(avge, abs=1.5e-3), r
