"""What is raised for settings that cannot be used."""

from __future__ import annotations

from ipsm_jax.errors import InputError


class ConfigError(InputError):
    """A setting that cannot be used; the message says which, what was found and what is possible."""


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with this message unless the condition holds."""
    if not condition:
        raise ConfigError(message)
