"""From configured zones and recorded spot markets to a `Market`."""

import json
from itertools import chain, repeat
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from holdfast_sandbox.cloud_config import Cloud, CloudConfig, TraceConfig, ZoneConfig
from holdfast_sandbox.market import Market, Pool, PoolState, Zone
from holdfast_sandbox.timeline import Timeline

TRACE_ON_DEMAND_CAPACITY = 1000  # the recordings say nothing of on-demand capacity


class TracePool(BaseModel):
    """One zone of a recording: what could be had at each step, at which price."""

    model_config = ConfigDict(extra="forbid")

    region: str
    on_demand_usd_h: Annotated[float, Field(ge=0)]
    available: str | list[Annotated[int, Field(ge=0)]]
    spot_usd_h: float | None = None
    spot_usd_h_runs: list[tuple[int, float]] | None = None
    provider: Cloud | None = None
    """Through whose interfaces the zone is reached; None: all those of the recording through the same."""
    instance_type: str | None = None
    """What is sold in it; None: in all zones of the recording the same."""

    @model_validator(mode="after")
    def _consistent(self) -> "TracePool":
        if not self.available:
            raise ValueError("a pool without steps")
        if isinstance(self.available, str) and set(self.available) - {"0", "1"}:
            raise ValueError("available is a string of 0 and 1, or a list of counts")
        if (self.spot_usd_h is None) == (self.spot_usd_h_runs is None):
            raise ValueError("a pool has either spot_usd_h or spot_usd_h_runs")
        return self

    def counts(self) -> list[int]:
        """How many were available, by step."""
        return [int(step) for step in self.available]

    def prices(self) -> list[float]:
        """The spot price in USD per hour, by step (the last one holds on where the recording is shorter)."""
        if self.spot_usd_h_runs is None:
            return [self.spot_usd_h or 0.0]
        return list(chain.from_iterable(repeat(price, steps) for steps, price in self.spot_usd_h_runs))


class TraceFile(BaseModel):
    """A recorded market: `step_s` seconds a step, one entry a zone. Descriptive keys are ignored."""

    step_s: Annotated[float, Field(gt=0)]
    instance: str
    provider: Cloud = "aws"
    pools: Annotated[dict[str, TracePool], Field(min_length=1)]


def read_trace(path: Path) -> TraceFile:
    """Read a recording; raises OSError or ValueError."""
    return TraceFile.model_validate(json.loads(path.read_text()))


def build_market(config: CloudConfig, now: float) -> Market:
    """The market of a configuration, with time running from `now`; raises OSError or ValueError for a bad trace."""
    zones = [Zone(zone.name, zone.region, zone.provider) for zone in config.zones]
    pools: dict[Pool, PoolState] = {}
    for zone in config.zones:
        pools |= _fixed_pools(zone, now)
    if config.trace is not None:
        trace = read_trace(config.trace.path)
        for name in config.trace.zones if config.trace.zones is not None else trace.pools:
            if name not in trace.pools or any(zone.name == name for zone in zones):
                raise ValueError(f"zone {name} is not in the trace, or is named twice")
            zones.append(Zone(name, trace.pools[name].region, trace.pools[name].provider or config.trace.provider))
            pools |= _trace_pools(name, trace, config, config.trace, now)
    return Market(zones, pools)


def _fixed_pools(zone: ZoneConfig, now: float) -> dict[Pool, PoolState]:
    pools = {}
    for name, capacity in zone.capacity.items():
        reserve = zone.on_demand_capacity
        spot = zone.spot_price_usd_h
        on_demand = zone.on_demand_usd_h
        pools[Pool(zone.name, name, "spot")] = PoolState(
            Timeline([(now, capacity)]), Timeline([(now, spot[name] if isinstance(spot, dict) else spot)])
        )
        pools[Pool(zone.name, name, "on_demand")] = PoolState(
            Timeline([(now, reserve.get(name, 0) if isinstance(reserve, dict) else reserve)]),
            Timeline([(now, on_demand[name] if isinstance(on_demand, dict) else on_demand)]),
        )
    return pools


def _trace_pools(name: str, trace: TraceFile, config: CloudConfig, chosen: TraceConfig, now: float) -> dict[Pool, PoolState]:
    recorded = trace.pools[name]
    instance_type = recorded.instance_type or chosen.instance_type or trace.instance
    if instance_type not in config.all_instance_types():
        raise ValueError(f"the trace's instance type {instance_type} is unknown; describe it in instance_types")
    step_s = trace.step_s / chosen.speed

    def line(values: list[float]) -> Timeline:
        rest = values[chosen.start_step :] or values[-1:]
        return Timeline((now + step * step_s + (chosen.lead_s if step else 0.0), value) for step, value in enumerate(rest))

    counts = [float(count * chosen.instances_per_unit) for count in recorded.counts()]
    spot = PoolState(line(counts), line(recorded.prices()))
    on_demand = PoolState(Timeline([(now, TRACE_ON_DEMAND_CAPACITY)]), Timeline([(now, recorded.on_demand_usd_h)]))
    return {Pool(name, instance_type, "spot"): spot, Pool(name, instance_type, "on_demand"): on_demand}
