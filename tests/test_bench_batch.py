"""The benchmark of a batch against single runs: what it measures of a tiny scene, and what it refuses."""

import json
import sys
from pathlib import Path

import pytest
from tiny_run import write_scene

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import bench_batch

sys.path.pop(0)


@pytest.fixture
def run(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bench_batch.py", *map(str, arguments)])
        return bench_batch.main()

    return run


@pytest.mark.usefixtures("own_caches", "compiled_quickly")
def test_a_batch_is_timed_beside_its_runs_and_compared_with_them(run, tmp_path, capsys):
    scene = write_scene(tmp_path / "noise")
    arguments = ["--scene", f"{scene}:1", "--methods", "base", "--seeds", "2", "--iterations", "101"]
    assert run(*arguments, "--init", "random", "--out", tmp_path / "out") == 0
    (result,) = json.loads((tmp_path / "out/batch.json").read_text())["results"]
    assert all(second > 0 for way in ("single", "batch") for second in result["seconds"][way])
    assert max(result["early"]) < 1e-4  # nothing but rounding
    single, batch = (result["psnr"][way] for way in ("single", "batch"))
    assert len(single) == 2 and batch == pytest.approx(single, abs=0.5)
    assert capsys.readouterr().out.splitlines()[-1].startswith("| base | 2 | ")


def test_what_cannot_be_compared_is_refused(run, tmp_path, capsys):
    refused = [
        (("--scene", "demo"), "a scene is name:downscale"),
        (("--seeds", "0"), "--seeds must be at least 1, got 0"),
        (("--iterations", "99"), "--iterations must be more than 99, got 99"),
        (("--scene", f"{tmp_path}/nowhere:1"), "nowhere"),
    ]
    for arguments, words in refused:
        assert run(*arguments, "--out", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and words in error
