"""Checkpoints: all bits come back, broken and foreign files are refused in plain words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from ipsm_jax.config import DataConfig, TrainConfig
from ipsm_jax.scene.gaussians import zeros
from ipsm_jax.training.checkpoint import (
    CheckpointError,
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    load_run,
    save_checkpoint,
)
from ipsm_jax.training.state import init_state

CONFIG = TrainConfig(seed=3, data=DataConfig(scene="somewhere"))


def noisy_state(step):
    rng = np.random.default_rng(step)
    state = init_state(jax.random.key(11), zeros(7), jnp.arange(7) < 5)

    def noise(a):
        if a.dtype == jnp.float32:
            return jnp.asarray(rng.normal(size=a.shape), jnp.float32)
        return a

    return jax.tree.map(noise, state)._replace(step=jnp.int32(step))


def arrays(state):
    return [np.asarray(a) for a in jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))]


def test_everything_comes_back_bit_for_bit(tmp_path):
    state = noisy_state(120)
    state = state._replace(
        gaussians=state.gaussians._replace(means=state.gaussians.means.at[0].set([np.nan, -0.0, 1e-42]))
    )
    path = save_checkpoint(tmp_path, CONFIG, state)
    assert path == tmp_path / "checkpoints" / "000120.safetensors"
    config, loaded = load_run(tmp_path)
    assert config == CONFIG
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    for before, after in zip(arrays(state), arrays(loaded), strict=True):
        assert before.dtype == after.dtype
        assert before.tobytes() == after.tobytes()
    assert jax.random.normal(loaded.key).item() == jax.random.normal(state.key).item()


def test_the_newest_two_are_kept_and_found(tmp_path):
    for step in (100, 200, 300, 1_000_000):
        save_checkpoint(tmp_path, CONFIG, noisy_state(step))
    (tmp_path / "checkpoints" / "note.txt").write_text("mine")
    assert list(list_checkpoints(tmp_path)) == [300, 1_000_000]
    assert int(load_run(tmp_path)[1].step) == 1_000_000
    assert int(load_run(tmp_path, 300)[1].step) == 300
    with pytest.raises(CheckpointError, match=r"after iterations \[300, 1000000\], not after 200"):
        load_run(tmp_path, 200)


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_taken(tmp_path):
    for step in (100, 200):
        save_checkpoint(tmp_path, CONFIG, noisy_state(step))
    newest = checkpoint_path(tmp_path, 200)
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=r"000200.safetensors is damaged .* using 000100.safetensors instead"):
        _, state = load_run(tmp_path)
    assert int(state.step) == 100
    with pytest.raises(CheckpointError, match=r"000200.safetensors is damaged"):
        load_run(tmp_path, 200)
    checkpoint_path(tmp_path, 100).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint of .* can be used"):
        load_run(tmp_path)


def test_foreign_and_incomplete_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_run(tmp_path)
    path = tmp_path / "foreign.safetensors"
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(path)
    safetensors.numpy.save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="no checkpoint of this program"):
        load_checkpoint(path)

    saved = save_checkpoint(tmp_path, CONFIG, noisy_state(5))
    with safetensors.safe_open(saved, framework="numpy") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    cases = {
        r"missing arrays \['alive'\], unknown arrays \['living'\]": lambda t, h: t.update(living=t.pop("alive")),
        r"alive is float32\(7,\) instead of bool\(7,\)": lambda t, h: t.update(alive=np.zeros(7, np.float32)),
        r"moments.mu.sh_dc is float32\(6, 3\) instead of float32\(7, 3\)": lambda t, h: t.update(
            {"moments.mu.sh_dc": np.zeros((6, 3), np.float32)}
        ),
        "it lacks gaussians.means": lambda t, h: t.pop("gaussians.means"),
        "does not hold the settings": lambda t, h: h.update(config="{"),
        "imaginary": lambda t, h: h.update(key_type="imaginary"),
    }
    for message, damage in cases.items():
        changed, changed_header = dict(tensors), dict(header)
        damage(changed, changed_header)
        safetensors.numpy.save_file(changed, path, metadata=changed_header)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(path)
