"""Reading a network's config.json: what this library implements is taken, anything that would change it is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class PriorError(ValueError):
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


def integer(config: Mapping[str, Any], key: str, where: str, default: int | None = None) -> int:
    """A positive integer.

    Raises:
      PriorError: if it is absent (without default) or anything else.
    """
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PriorError(f"{where}: {key} must be a positive integer, found {value!r}")
    return value


def integers(config: Mapping[str, Any], key: str, where: str, count: int | None = None) -> tuple[int, ...]:
    """A tuple of positive integers; with `count`, a single integer stands for that many equal ones.

    Raises:
      PriorError: if it is absent, empty, of another length or anything else.
    """
    value = config.get(key)
    if count is not None and isinstance(value, int):
        value = [value] * count
    if (
        not isinstance(value, (list, tuple))
        or len(value) != (count or max(len(value), 1))
        or not all(type(v) is int and v > 0 for v in value)
    ):
        many = "a list" if count is None else f"one integer or a list of {count}"
        raise PriorError(f"{where}: {key} must be {many} of positive integers, found {value!r}")
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
