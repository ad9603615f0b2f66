"""Settings as JSON (a run's config.json) and back, checked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec

from ipsm_jax.config.errors import ConfigError
from ipsm_jax.config.settings import OutputConfig, TrainConfig


def to_json(config: TrainConfig) -> bytes:
    """The settings as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(config, enc_hook=str), indent=2) + b"\n"


def from_json(text: bytes | str, source: str = "config") -> TrainConfig:
    """Settings from their JSON form; missing fields take their defaults.

    Args:
      text: JSON as `to_json` writes it.
      source: where it comes from, for error messages.

    Raises:
      ConfigError: not JSON, an unknown field, a value of the wrong type or out of range.
    """
    try:
        raw = msgspec.json.decode(text)
        config = msgspec.convert(raw, TrainConfig, dec_hook=lambda kind, value: kind(value))
    except (msgspec.MsgspecError, TypeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{source} does not hold the settings of a run: {error}") from error
    unknown = sorted(set(_flatten(raw)) - set(_flatten(msgspec.to_builtins(config, enc_hook=str))))
    if unknown:
        raise ConfigError(f"{source} has settings that this version does not know: {', '.join(unknown)}")
    return config


def load_config(path: Path) -> TrainConfig:
    """Read a run's config.json.

    Raises:
      ConfigError: as `from_json`, or the file cannot be read.
    """
    try:
        return from_json(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"cannot read the settings of a run from {path}: {error.strerror}") from error


def check_resumable(saved: TrainConfig, wanted: TrainConfig) -> None:
    """Refuse to continue a run with other settings than it was started with; output settings may change.

    Raises:
      ConfigError: the settings that differ.
    """
    before, now = (
        _flatten(msgspec.to_builtins(dataclasses.replace(c, output=OutputConfig()), enc_hook=str))
        for c in (saved, wanted)
    )
    changed = [f"{key.split('.')[-1]} {before[key]} -> {now[key]}" for key in before if before[key] != now[key]]
    if changed:
        raise ConfigError(
            f"--resume continues a run with the settings it was started with, and these differ: {'; '.join(changed)}. "
            "Leave them away, or start a new run with another --name"
        )


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}."""
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _flatten(value, f"{prefix}{key}.")
    return leaves
