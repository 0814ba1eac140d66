"""How a walk is set up: its options, the part of the recording, the sandbox in which it is made."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast_common.errors import ConfigError

from holdfast_sandbox.cloud_config import Cloud
from holdfast_sandbox.cluster_config import SandboxConfig, Site
from holdfast_sandbox.defaults import default_controller, default_policy
from holdfast_sandbox.recordings import recording
from holdfast_sandbox.trace import read_trace
from holdfast_sandbox.walk_choice import Choice, choose
from holdfast_sandbox.zones import zones_of

STEP_S = 0.1
"""Of the job, in real seconds."""
MARKET_STEP_S = 4.0
"""A recorded step takes so many real seconds, where no speed is given."""
NOTICE_S = 20.0
"""Real seconds from notice to end, in every cloud: the job's save and Slurm's requeue are real, too."""
LEAD_S = 5.0
"""The market stands still for so long, while the sandbox starts: the walk begins with the recording."""
MOVE_S = 6.0
"""What a move costs at most where a zone has room: for how long a walk may take, and how much of the recording it sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkOptions:
    """What is walked. Raises ConfigError with every fault."""

    clouds: tuple[Cloud, ...] = ("aws",)
    zones: int = 3
    trace: Path = field(default_factory=lambda: recording("v100"))
    speed: float | None = None
    """Recorded seconds that pass in one second; None: a recorded step takes `MARKET_STEP_S`."""
    start: int | None = None
    """The recorded step with which it begins; None: where most is going on."""
    nodes: int = 8
    job_nodes: int = 1
    steps: int = 600

    def __post_init__(self) -> None:
        """Check what only a walk asks for; the sandbox checks the rest."""
        faults = []
        if not 1 <= self.job_nodes <= self.nodes // 2:
            faults.append(f"job_nodes must be 1 to half of the nodes ({self.nodes}), not {self.job_nodes}: a job moves to fresh ones")
        if not 1 <= self.steps <= 100_000:
            faults.append(f"steps must be 1 to 100000, not {self.steps}")
        if self.speed is not None and not 0 < self.speed <= 1e6:
            faults.append(f"speed must be above 0 and at most 1e6, not {self.speed}")
        if faults:
            raise ConfigError("walk", faults)


@dataclass(frozen=True, slots=True)
class Plan:
    """A walk that can be made."""

    options: WalkOptions
    choice: Choice
    speed: float
    step_s: float
    """Of the recording."""
    config: SandboxConfig


def plan(options: WalkOptions) -> Plan:
    """Choose the part of the recording, and how the sandbox is. Raises ConfigError with what is wrong with the options."""
    try:
        trace = read_trace(options.trace)
        speed = options.speed or trace.step_s / MARKET_STEP_S
        window = max(2, round((options.steps * STEP_S + 2 * MOVE_S) * speed / trace.step_s))
        choice = choose(trace, options.zones, options.nodes, options.job_nodes, window, options.start)
    except (OSError, ValueError) as fault:
        raise ConfigError("walk", [f"{options.trace}: {fault}"]) from fault
    config = SandboxConfig(
        nodes=options.nodes,
        clouds=options.clouds,
        zones=options.zones,
        notice_s=NOTICE_S,
        trace=options.trace,
        trace_speed=speed,
        trace_zones=choice.zones,
        trace_start=choice.start,
        trace_units=choice.units,
        trace_lead_s=LEAD_S,
        controller=default_controller(policy=_policy(speed)),
    )
    return Plan(options, choice, speed, trace.step_s, config)


def patience(speed: float) -> dict[str, float]:
    """Return the policy's times in real seconds: what depends on the market is shortened as that is, what depends on machines is not."""
    return {
        "registration_timeout_s": 30.0,
        "refusal_backoff_s": max(1.0, round(30.0 / speed, 1)),
        "refusal_memory_s": max(4.0, round(1800.0 / speed, 1)),
        "orphan_grace_s": 15.0,
    }


def _policy(speed: float) -> Callable[[Site], str]:
    return lambda site: default_policy(site, **patience(speed))


def market(planned: Plan) -> dict[str, Any]:
    """Return what of the recording is walked through."""
    return {
        "recording": str(planned.options.trace),
        "step_s": planned.step_s,
        "speed": planned.speed,
        "start": planned.choice.start,
        "notice_s": NOTICE_S,
        "zones": [
            {"name": zone.name, "provider": zone.provider, "recorded": zone.recorded, "usd_h": zone.spot_usd_h}
            for zone in zones_of(planned.config)
        ],
    }


def introduction(planned: Plan) -> str:
    """Return what is said before a walk."""
    times = ", ".join(f"{key.removesuffix('_s').replace('_', ' ')} {value:g} s" for key, value in patience(planned.speed).items())
    zones = ", ".join(
        zone.label + (f" (recorded as {zone.recorded})" if zone.recorded != zone.name else "") for zone in zones_of(planned.config)
    )
    return (
        f"{planned.options.trace.name} from step {planned.choice.start}: one step, {planned.step_s:g} recorded seconds, takes"
        f" {planned.step_s / planned.speed:g} s ({planned.speed:g} times as fast).\n"
        f"Zones, cheapest first: {zones}.\n"
        f"Real seconds: notices ({NOTICE_S:g} s), boots, the job. Shortened in the policy: {times}.\n"
        "Not shortened: how a refusal is forgotten (half of it in 30 minutes), so that a zone that has refused is asked last from then on."
    )
