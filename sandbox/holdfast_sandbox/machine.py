"""What the cloud knows of one instance."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal

from holdfast_sandbox.instance import MachineProcess
from holdfast_sandbox.market import Pool

StateName = Literal["pending", "running", "shutting-down", "terminated"]
STATE_CODES: dict[StateName, int] = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48}


@dataclass(frozen=True)
class LaunchSpec:
    """How an instance was asked for: what launch template and request add up to."""

    image_id: str
    user_data: bytes = b""
    key_name: str | None = None
    iam_instance_profile: str | None = None
    security_group_ids: tuple[str, ...] = ()
    http_tokens: str = "required"
    http_endpoint: str = "enabled"
    metadata_tags: str = "disabled"
    tags: dict[str, str] = field(default_factory=dict)
    max_price_usd_h: float | None = None
    attributes: dict[str, Any] = field(default_factory=dict)  # the resource as it was asked for, on clouds that tell it back


@dataclass
class ScheduledEvent:
    """What is to happen to an Azure VM."""

    id: str
    kind: str
    """Preempt, Terminate, Reboot, Redeploy or Freeze."""
    not_before: float
    resources: tuple[str, ...]
    duration_s: int = -1
    approved: bool = False

    def has_started(self, now: float) -> bool:
        """Whether it happens: its time has come, or the VM has approved it."""
        return self.approved or now >= self.not_before


@dataclass
class Machine:
    """An instance from its request to its end; all times are Unix seconds, None while they have not come."""

    instance_id: str
    ordinal: int
    reservation_id: str
    pool: Pool
    region: str
    spec: LaunchSpec
    tags: dict[str, str]
    ip: str
    client_token: str
    spot_request_id: str | None
    price_at_launch_usd_h: float
    requested: float
    provider: str = "aws"
    name: str = ""  # of the resource, on clouds that name instances
    running: float | None = None
    notice: float | None = None  # when the notice in force was given
    deadline: float | None = None  # when it will be taken away
    rebalance: float | None = None
    terminating: float | None = None
    gone: float | None = None
    state: StateName = "pending"
    reason_code: str = ""
    reason: str = ""
    exit_status: int | None = None
    maintenance: list[dict[str, str]] = field(default_factory=list)
    maintenance_event: str = "NONE"  # as Compute Engine words it
    scheduled_events: list[ScheduledEvent] = field(default_factory=list)  # Azure's
    changes: int = 0  # of what its metadata say
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # set, and another one, at each such change
    process: MachineProcess | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def alive(self) -> bool:
        """Whether it still holds capacity."""
        return self.gone is None

    def touch(self) -> None:
        """Wake those who wait for a change of its metadata."""
        self.changes += 1
        woken, self.changed = self.changed, asyncio.Event()
        woken.set()

    def end_with(self, code: str, reason: str) -> None:
        """Note why it ends; the first reason stands."""
        if not self.reason_code:
            self.reason_code, self.reason = code, reason

    def describe(self) -> dict[str, Any]:
        """What the control API says of it."""
        return {
            "instance_id": self.instance_id,
            "provider": self.provider,
            "name": self.name,
            "instance_type": self.pool.instance_type,
            "zone": self.pool.zone,
            "region": self.region,
            "lifecycle": self.pool.market,
            "state": self.state,
            "reason": self.reason_code,
            "exit_status": self.exit_status,
            "ip": self.ip,
            "pid": self.process.pid if self.process else None,
            "client_token": self.client_token,
            "tags": dict(self.tags),
            "requested": self.requested,
            "running": self.running,
            "rebalance": self.rebalance,
            "notice": self.notice,
            "deadline": self.deadline,
            "terminating": self.terminating,
            "gone": self.gone,
            "price_at_launch_usd_h": self.price_at_launch_usd_h,
        }
