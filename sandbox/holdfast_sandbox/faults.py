"""Faults on demand: refusals, throttling, failing and slow calls, machines that never boot, bad metadata."""

from dataclasses import dataclass
from typing import Literal

from holdfast_sandbox.market import Pool, Quote

ApiMode = Literal["500", "error", "hang", "slow"]
MetadataMode = Literal["500", "hang", "slow", "malformed"]


@dataclass
class Fault:
    """Something that goes wrong `left` more times, or until it is cleared (None)."""

    left: int | None

    def use(self) -> None:
        """Count one occurrence."""
        if self.left is not None:
            self.left -= 1


@dataclass
class Refusal(Fault):
    """Launches refused with `code`; None matches every zone, type or market."""

    zone: str | None
    instance_type: str | None
    market: str | None
    code: str

    def matches(self, pool: Pool) -> bool:
        """Whether a launch in this pool is refused."""
        wanted = (self.zone, self.instance_type, self.market)
        return all(want in (None, have) for want, have in zip(wanted, (pool.zone, pool.instance_type, pool.market), strict=True))


@dataclass
class ApiFault(Fault):
    """EC2 calls that fail; `after` lets the call take effect first and then loses its answer."""

    action: str | None
    mode: ApiMode
    code: str
    seconds: float
    after: bool


@dataclass
class MetadataFault(Fault):
    """Metadata reads that go wrong, for one instance or all (None), below a path prefix."""

    instance_id: str | None
    prefix: str
    mode: MetadataMode
    seconds: float


@dataclass
class BootFault(Fault):
    """Machines whose boot never ends (`seconds` None) or takes so much longer."""

    zone: str | None
    seconds: float | None


class Faults:
    """All that is set up to go wrong."""

    def __init__(self) -> None:
        self.refusals: list[Refusal] = []
        self.api: list[ApiFault] = []
        self.metadata: list[MetadataFault] = []
        self.boot: list[BootFault] = []

    def clear(self) -> None:
        """Let everything go right again."""
        self.refusals.clear()
        self.api.clear()
        self.metadata.clear()
        self.boot.clear()

    def refuse(self, pool: Pool) -> Quote | None:
        """The refusal that a launch in this pool meets, which counts it; None where it meets none."""
        fault = next((fault for fault in self.refusals if fault.left != 0 and fault.matches(pool)), None)
        if fault is None:
            return None
        fault.use()
        return Quote(0, fault.code, f"Refused on demand ({pool.zone}, {pool.instance_type}, {pool.market}).")

    def api_fault(self, action: str) -> ApiFault | None:
        """The fault that a call of this action meets, which counts it."""
        fault = next((fault for fault in self.api if fault.left != 0 and fault.action in (None, action)), None)
        if fault is not None:
            fault.use()
        return fault

    def metadata_fault(self, instance_id: str, path: str) -> MetadataFault | None:
        """The fault that a metadata read meets, which counts it."""
        for fault in self.metadata:
            if fault.left != 0 and fault.instance_id in (None, instance_id) and path.startswith(fault.prefix):
                fault.use()
                return fault
        return None

    def boot_fault(self, zone: str) -> BootFault | None:
        """The fault that a boot in this zone meets, which counts it."""
        fault = next((fault for fault in self.boot if fault.left != 0 and fault.zone in (None, zone)), None)
        if fault is not None:
            fault.use()
        return fault
