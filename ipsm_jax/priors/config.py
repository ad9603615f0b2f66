"""Reading a network's config.json: what this library implements is taken, anything that would change it is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipsm_jax.errors import InputError

# What settings can ask for, so that a damaged file costs a message and not hours or the machine's memory.
MOST_CHANNELS = 1 << 20
MOST_LAYERS = 200
MOST_PIXELS = 8192
"""Along a side of a picture, or latents."""


class PriorError(InputError):
    """A prior that cannot be used; the message says what was found, where, and what to do about it."""


def check_settings(config: Mapping[str, Any], known: Mapping[str, tuple[Any, ...]], read: set[str], where: str) -> None:
    """Refuse settings that the network's code does not implement.

    Args:
      config: the file's content.
      known: settings that are not read, with the values under which they change nothing.
      read: settings that the code reads.
      where: the file, for the message.

    Raises:
      PriorError: naming each setting and its value.
    """
    refused = []
    for key, value in config.items():
        if key.startswith("_") or key in read:
            continue
        if key not in known:
            refused.append(f"{key}={value!r} (unknown)")
        elif not any(value == allowed and type(value) is type(allowed) for allowed in known[key]):
            refused.append(f"{key}={value!r} (implemented: {', '.join(map(repr, known[key]))})")
    if refused:
        raise PriorError(f"{where} asks for what is not implemented here: {'; '.join(refused)}")


def integer(
    config: Mapping[str, Any], key: str, where: str, default: int | None = None, *, most: int = MOST_CHANNELS
) -> int:
    """A positive integer.

    Raises:
      PriorError: if it is absent (without default), more than `most`, or anything else.
    """
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PriorError(f"{where}: {key} must be a positive integer, found {value!r}")
    if value > most:
        raise PriorError(f"{where}: {key} must be at most {most}, found {value}")
    return value


def positive(config: Mapping[str, Any], key: str, where: str, default: float | None = None) -> float:
    """A positive number that float32 holds.

    Raises:
      PriorError: if it is absent (without default) or anything else.
    """
    value = config.get(key, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e38:
        raise PriorError(f"{where}: {key} must be a positive number, found {value!r}")
    return float(value)


def integers(
    config: Mapping[str, Any], key: str, where: str, count: int | None = None, *, most: int = MOST_CHANNELS
) -> tuple[int, ...]:
    """A tuple of positive integers; with `count`, a single integer stands for that many equal ones.

    Raises:
      PriorError: if it is absent, empty, of another length, more than `most`, or anything else.
    """
    value = config.get(key)
    if count is not None and isinstance(value, int):
        value = [value] * count
    if (
        not isinstance(value, (list, tuple))
        or len(value) != (count or max(len(value), 1))
        or not all(type(v) is int and 0 < v <= most for v in value)
    ):
        many = "a list" if count is None else f"one integer or a list of {count}"
        raise PriorError(f"{where}: {key} must be {many} of positive integers up to {most}, found {value!r}")
    return tuple(value)


def choices(config: Mapping[str, Any], key: str, where: str, allowed: tuple[str, ...], count: int) -> tuple[str, ...]:
    """A list of `count` names out of `allowed`.

    Raises:
      PriorError: if it is anything else.
    """
    value = config.get(key)
    if not isinstance(value, (list, tuple)) or len(value) != count or any(v not in allowed for v in value):
        raise PriorError(f"{where}: {key} must list {count} of {', '.join(allowed)}; found {value!r}")
    return tuple(value)
