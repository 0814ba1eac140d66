"""What the settings of several clouds have in common."""

from pydantic import BeforeValidator


def _none_at_zero(value: object) -> object:
    return None if isinstance(value, int) and not isinstance(value, bool) and value == 0 else value


OFF_AT_ZERO = BeforeValidator(_none_at_zero)
"""TOML has no word for nothing: 0 turns what can be turned off."""
