"""All commands that compile keep what they compiled; a choice that the person made is left alone."""

import importlib

import jax
import pytest

OPTIONS = ("compilation_cache_dir", "persistent_cache_min_compile_time_secs", "persistent_cache_min_entry_size_bytes")


@pytest.fixture
def settings():
    names = [f"jax_{name}" for name in OPTIONS]
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name in names:
        jax.config.update(name, before[name])


@pytest.mark.parametrize("command", ["evaluate", "render", "train"])
@pytest.mark.parametrize("own", [None, "elsewhere"])
def test_commands_keep_compiled_programs(command, own, settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IPSM_JAX_CACHE", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", own)
    training = ["--scene", str(tmp_path / "missing"), "--out", str(tmp_path / "runs")]
    assert importlib.import_module(f"ipsm_jax.{command}").main(training if command == "train" else ["missing"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert jax.config.jax_compilation_cache_dir == (own or str(tmp_path / "compiled"))
