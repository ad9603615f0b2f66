"""The one error of all readers."""

from __future__ import annotations

from ipsm_jax.errors import InputError


class DataError(InputError):
    """Input that cannot be used; the message says what was found, where, and what to do about it."""
