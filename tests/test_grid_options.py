"""Options of a grid: what can be varied, and what a grid refuses because a run would not be what it is called."""

import sys
from pathlib import Path

import pytest

from ipsm_jax.config import ConfigError

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
from grid.axes import option_kinds, vary
from grid.plan import expand

from ipsm_jax.config import TrainConfig

sys.path.pop(0)

METHODS = {"base": [], "two views": ["--views", "2"]}


def plan(out, methods, more=(), data_root=None):
    return expand(["demo"], methods, [3], more, data_root, out)


def test_options_can_be_varied(tmp_path):
    varied = vary(METHODS, [("dropout", "0.1", "0.2"), ("--means-lr", "1e-4")])
    assert list(varied) == [f"{name} dropout={p} means-lr=1e-4" for name in METHODS for p in ("0.1", "0.2")]
    runs = plan(tmp_path, varied)
    found = [(run.config.data.views, run.config.optimization.dropout) for run in runs]
    assert found == [(3, 0.1), (3, 0.2), (2, 0.1), (2, 0.2)]
    assert all(run.config.optimization.means_lr == 1e-4 for run in runs)
    assert runs[2].name.startswith("demo-two-views-dropout-0.1-means-lr-1e-4-seed3-")
    assert vary(METHODS, []) == METHODS
    for axis in (["dropout"], ["dropout", "0.1", "0.1"]):
        with pytest.raises(ConfigError, match="--vary needs an option and different values"):
            vary(METHODS, [axis])


def test_switches_can_be_varied(tmp_path):
    varied = vary(METHODS, [("geometry", "yes", "no"), ("zero_dark_background", "no")])
    runs = plan(tmp_path, varied)
    assert [run.config.geometry.geometry for run in runs] == [True, False, True, False]
    assert not any(run.config.optimization.zero_dark_background for run in runs)
    assert [run.method for run in runs[:2]] == [f"base geometry={v} zero-dark-background=no" for v in ("yes", "no")]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (["geometry True False"], "--vary geometry: this option is on or off, its values are yes and no; got True"),
        (["background 0 1"], "--vary background: only options of one value can be varied, and --background takes 3"),
        (["drop-out 0 1"], "--vary drop-out: the trainings have no option --drop-out"),
        (["dropout 0 0.1", "--dropout 0.2"], "--vary dropout is given twice"),
    ],
)
def test_what_cannot_be_varied_is_said_before_anything_is_parsed(axes, message):
    with pytest.raises(ConfigError, match=message):
        vary(METHODS, [axis.split() for axis in axes])


def test_every_option_of_the_train_command_is_known():
    kinds = option_kinds(TrainConfig)
    assert kinds["seed"] is int and kinds["g1-weight"] == float | None and kinds["geometry"] is bool
    assert {"preset", "scene", "init", "prior-path", "density-until", "out"} <= set(kinds)
    assert "data" not in kinds and "data_root" not in kinds


@pytest.mark.parametrize("useless", [["--view"], ["--name", "x"], ["--resume"], ["--eval-every", "10"]])
def test_options_that_a_grid_has_no_use_for_are_refused(tmp_path, useless):
    with pytest.raises(ConfigError, match=f"a grid has no use for {useless[0]}: "):
        plan(tmp_path, {"base": []}, useless)


@pytest.mark.parametrize(
    ("option", "instead"), [("scene", "scenes"), ("seed", "seeds"), ("out", "out"), ("data-root", "data-root")]
)
def test_options_that_the_grid_gives_to_each_run_are_refused(tmp_path, option, instead):
    message = f"gets its own --{option}: use --{instead} of run_grid.py"
    for given in ([f"--{option}", "7"], [f"--{option}=7"], [f"--{option.replace('-', '_')}", "7"]):
        with pytest.raises(ConfigError, match=message):
            plan(tmp_path, {"base": []}, given)
        with pytest.raises(ConfigError, match=message):  # the grid's own would win
            plan(tmp_path, {"base": []}, given, data_root=tmp_path)
    with pytest.raises(ConfigError, match=message):
        plan(tmp_path, vary({"base": []}, [(option, "7")]))


@pytest.mark.parametrize("given", [["--dropout", "0.1"], ["--dropout=0.1"]])
def test_options_after_the_dashes_do_not_change_what_a_method_is(tmp_path, given):
    with pytest.raises(ConfigError, match=r"--dropout is part of what 'base dropout=0\.2' stands for"):
        plan(tmp_path, vary({"base": []}, [("dropout", "0.2")]), given)
    with pytest.raises(ConfigError, match="--geometry is part of what 'base geometry=yes' stands for"):
        plan(tmp_path, vary({"base": []}, [("geometry", "yes")]), ["--no-geometry"])
    (run,) = plan(tmp_path, {"base": []}, given)
    assert run.config.optimization.dropout == 0.1
