"""The zones of a sandbox's cloud: made up, or those of a recorded market."""

from dataclasses import dataclass

from holdfast_sandbox.cluster_config import REGION, SandboxConfig
from holdfast_sandbox.trace import read_trace

ON_DEMAND_USD_H = 3.0


@dataclass(frozen=True, slots=True)
class SandboxZone:
    """One zone; without a price its price comes from the recording."""

    name: str
    region: str
    spot_usd_h: float | None = None


def zones_of(config: SandboxConfig) -> list[SandboxZone]:
    """Return the zones, cheapest first where they are made up. Raises OSError, ValueError for a trace that cannot be read."""
    if config.trace is not None:
        return [SandboxZone(name, pool.region) for name, pool in read_trace(config.trace).pools.items()]
    return [SandboxZone(f"{REGION}{chr(ord('a') + number)}", REGION, round(1.0 + 0.1 * number, 2)) for number in range(config.zones)]
