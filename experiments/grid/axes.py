"""Options that the trainings of a grid have with several values: `--vary`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin, get_type_hints

from ipsm_jax.config import ConfigError, TrainConfig

SWITCH = {"yes": "--{}", "no": "--no-{}"}
"""Values of an option that is on or off, and what the train command has instead."""


def vary(methods: Mapping[str, Sequence[str]], axes: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Every method with every combination of values of some options.

    Args:
      methods: options of the train command by name.
      axes: an option without its dashes and the values it is to have, each: ("dropout", "0.1", "0.2"); "yes" and "no"
        if it is a switch.

    Returns:
      Options by name; "base" becomes "base dropout=0.1" and "base dropout=0.2".

    Raises:
      ConfigError: an axis without values, or with one twice; an option that is not there, is varied twice, or takes
        several numbers.
    """
    varied = {name: list(options) for name, options in methods.items()}
    kinds, seen = option_kinds(TrainConfig), set()
    for option, *values in axes:
        if not values or len(set(values)) < len(values):
            found = " ".join([option, *values])
            raise ConfigError(f"--vary needs an option and different values, as in --vary dropout 0.1 0.2; got {found}")
        flag = option.removeprefix("--").replace("_", "-")
        _check(flag, values, kinds.get(flag))
        if flag in seen:
            raise ConfigError(f"--vary {flag} is given twice: put all its values behind one of them")
        seen.add(flag)
        words = {value: [f"--{flag}", value] for value in values}
        if kinds[flag] is bool:
            words = {value: [SWITCH[value].format(flag)] for value in values}
        varied = {
            f"{name} {flag}={value}": [*options, *words[value]] for name, options in varied.items() for value in values
        }
    return varied


def option_kinds(settings: Any) -> dict[str, Any]:
    """The type of every option of a dataclass of settings, by its name without dashes in front."""
    kinds: dict[str, Any] = {}
    for name, kind in get_type_hints(settings).items():
        kinds |= option_kinds(kind) if dataclasses.is_dataclass(kind) else {name.replace("_", "-"): kind}
    return kinds


def _check(flag: str, values: Sequence[str], kind: Any) -> None:
    if kind is None:
        raise ConfigError(f"--vary {flag}: the trainings have no option --{flag}; `ipsm-jax train --help` names all")
    if get_origin(kind) is tuple:
        raise ConfigError(
            f"--vary {flag}: only options of one value can be varied, and --{flag} takes {len(get_args(kind))}. Make a "
            f"grid for each of its values, with --{flag} after --"
        )
    if kind is bool and not set(values) <= set(SWITCH):
        raise ConfigError(f"--vary {flag}: this option is on or off, its values are yes and no; got {' '.join(values)}")
