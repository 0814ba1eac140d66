"""What the settings of several clouds have in common."""

from collections.abc import Collection

from holdfast_common.policy_checks import pool_name
from pydantic import BeforeValidator

from holdfast_controller.providers.base import Pool


def _none_at_zero(value: object) -> object:
    return None if isinstance(value, int) and not isinstance(value, bool) and value == 0 else value


OFF_AT_ZERO = BeforeValidator(_none_at_zero)
"""TOML has no word for nothing: 0 turns what can be turned off."""


def pool_fault(provider: str, regions: Collection[str], pool: Pool) -> str:
    """Return why a pool is none of this account's; empty if it is one."""
    name = pool_name(provider, pool.region, pool.zone, pool.instance_type, pool.market)
    if pool.provider != provider or pool.name != name:
        return f"pool {pool.name} of provider {pool.provider} must be named {name}"
    if pool.region not in regions:
        return f"pool {pool.name}: region {pool.region} is not among those that are listed ({', '.join(regions)})"
    return ""
