"""Settings: presets, the command line, JSON and back, refusals in plain words."""

import dataclasses
import json

import hypothesis
import hypothesis.strategies as st
import pytest

from ipsm_jax.config import (
    PRESETS,
    ConfigError,
    DensityConfig,
    OptimizationConfig,
    TrainConfig,
    best,
    check_resumable,
    from_json,
    load_config,
    parse_command_line,
    preset_for_scene,
    to_json,
)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    assert PRESETS[name].preset == name
    assert from_json(to_json(PRESETS[name])) == PRESETS[name]


@hypothesis.given(
    optimization=st.builds(
        OptimizationConfig,
        iterations=st.integers(1, 10**6),
        ssim_weight=st.floats(0, 1),
        means_lr=st.floats(1e-12, 1e6),
        background=st.tuples(*[st.floats(0, 1)] * 3),
    ),
    density=st.builds(DensityConfig, density_until=st.none() | st.integers(0, 10**6)),
    seed=st.integers(0, 2**31 - 1),
)
def test_settings_survive_json(optimization, density, seed):
    config = TrainConfig(seed=seed, optimization=optimization, density=density)
    assert from_json(to_json(config)) == config


def test_presets_hold_the_published_settings():
    llff, dtu = PRESETS["llff"], PRESETS["dtu"]
    assert (llff.data.downscale, dtu.data.downscale) == (8, 4)
    assert (llff.optimization.ssim_weight, dtu.optimization.ssim_weight) == (0.2, 0.6)
    assert (llff.optimization.zero_dark_background, dtu.optimization.zero_dark_background) == (False, True)
    assert (llff.density.opacity_reset_value, llff.density.opacity_reset_interval) == (0.01, 0)
    assert (dtu.density.opacity_reset_value, dtu.density.opacity_reset_interval) == (0.05, 1000)
    assert llff.optimization.iterations == dtu.optimization.iterations == 10_000


@pytest.mark.parametrize(
    ("scene", "preset"),
    [("demo", "demo"), ("scan30", "dtu"), ("/data/DTU/scan_8/", "dtu"), ("x/DTU_Scan30", "dtu"), ("scanner", "llff")],
)
def test_the_scene_chooses_the_preset(scene, preset):
    assert preset_for_scene(scene) == preset
    assert parse_command_line(["--scene", scene]).preset == preset


@pytest.mark.parametrize("scene", ["demo", "scan30", "fern"])
def test_best_changes_the_preset_of_the_scene(scene):
    own = parse_command_line(["--scene", scene])
    found = parse_command_line(["--scene", scene, "--preset", "best"])
    assert found == best(own) != own and found.preset == "best"
    assert found.data == own.data and found.optimization.ssim_weight == own.optimization.ssim_weight
    assert from_json(to_json(found)) == found
    assert found.optimization.iterations == min(own.optimization.iterations, 3000)
    share = found.optimization.iterations / 10_000  # of the published run
    assert (found.pseudo.pseudo_from, found.pseudo.pseudo_until) == (2000 * share, 9500 * share)
    assert parse_command_line(["--scene", scene, "--preset", "best", "--dropout", "0"]).optimization.dropout == 0


def test_flags_override_the_preset():
    config = parse_command_line(
        ["--scene=scan30", "--ssim-weight", "0.3", "--views", "None", "--no-video", "--seed", "4", "--out", "x/y"]
    )
    assert config.optimization.ssim_weight == 0.3
    assert config.density.opacity_reset_interval == 1000
    assert config.data.views is None
    assert not config.output.video
    assert str(config.folder) == "x/y/scan30"
    assert parse_command_line(["--scene", "fern", "--preset", "dtu"]).optimization.ssim_weight == 0.6
    assert parse_command_line(["--scene", "a/b/my scene", "--name", "first"]).folder.name == "first"
    assert parse_command_line(["--scene", "a/b/my scene"]).folder.name == "my_scene"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--views", "0"], "--views must be at least 1"),
        (["--ssim-weight", "1.5"], "--ssim-weight must lie in [0, 1], got 1.5"),
        (["--means-lr", "0"], "--means-lr must be positive"),
        (["--iterations", "0"], "--iterations must be at least 1"),
        (["--seed", "-1"], "--seed must be a number from 0"),
        (["--name", "../elsewhere"], "--name may hold letters"),
        (["--prune-opacity", "0"], "--prune-opacity must lie between 0 and 1"),
        (["--background", "0", "0", "2"], "--background takes three numbers"),
        (["--init", "sterio"], "--init is one of auto, stereo, triangulated, random, sfm-all-views or a .ply file"),
        (["--depth-path", "maps"], "--depth-path maps is read with --depth maps or --depth network only"),
        (["--depth", "stereo", "--maps-hold", "inverse"], "--maps-hold inverse says something of --depth maps only"),
        (["--maps-unit", "0"], "--maps-unit must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_command_line(["--scene", "horns", *arguments])
    assert stop.value.code == 2
    printed = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in printed


def test_a_depth_network_asks_for_pseudo_views_only_if_it_looks_at_them():
    config = parse_command_line(["--scene", "horns", "--depth", "network"])
    assert config.asking_for_pseudo_views == ("--depth network",)
    config = parse_command_line(["--scene", "horns", "--depth", "network", "--pseudo-depth-weight", "0"])
    assert not config.wants_pseudo_views


def test_a_scene_must_be_named():
    with pytest.raises(ConfigError, match="say what to train on"):
        parse_command_line([])


@pytest.mark.parametrize("arguments", [["--no-such-flag"], ["--iterations", "many"], ["--preset", "blender"]])
def test_unknown_flags_and_wrong_types_end_with_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_command_line(["--scene", "horns", *arguments])
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "does not hold the settings"),
        ("[]", "Expected `object`"),
        ('{"seed": "one"}', r"Expected `int`, got `str` - at `\$.seed`"),
        ('{"optimization": {"itrations": 3}}', "does not know: optimization.itrations"),
        ('{"data": {"views": 0}}', "--views must be at least 1"),
        ('{"output": {"out": 3}}', "does not hold the settings"),
        (b"\xff\xfe", "does not hold the settings"),
    ],
)
def test_broken_json_is_refused(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message) as error:
        load_config(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*config.json: No such file"):
        load_config(tmp_path / "config.json")


def test_resuming_takes_the_saved_settings_and_refuses_changes(tmp_path):
    saved = parse_command_line(["--scene", "horns", "--ssim-weight", "0.3", "--out", str(tmp_path)])
    saved.folder.mkdir()
    (saved.folder / "config.json").write_bytes(to_json(saved))
    again = parse_command_line(["--name", "horns", "--out", str(tmp_path), "--resume", "--eval-every", "7"])
    assert again.optimization == saved.optimization
    assert again.output == dataclasses.replace(saved.output, name="horns", resume=True, eval_every=7)
    check_resumable(saved, again)
    changed = parse_command_line(["--scene", "horns", "--out", str(tmp_path), "--resume", "--ssim-weight", "0.4"])
    with pytest.raises(ConfigError, match=r"these differ: ssim_weight 0.3 -> 0.4. Leave them away"):
        check_resumable(saved, changed)
    assert json.loads(to_json(saved))["output"]["resume"] is False
