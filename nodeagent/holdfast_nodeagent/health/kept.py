"""What the health of this node remembers over the agent's restart: `<run_dir>/health.json`, which holds for one boot.

An event is judged and told first, then kept together with the kernel's sequence number: one that was not kept is read, judged and told
again, and counts once, since all of it is one file.
"""

import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from holdfast_common.files import replace_file
from holdfast_common.health.model import Finding, GpuEvent
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from holdfast_nodeagent.gpu.inventory import Inventory

RECENT_S = 60.0
"""Events of this age are kept, so that the other source's word for the same one is known after a restart."""
MAX_BYTES = 16 * 1024 * 1024

_INVENTORY = TypeAdapter(Inventory)
_EVENTS = TypeAdapter(tuple[GpuEvent, ...])
_FINDINGS = TypeAdapter(tuple[Finding, ...])

log = logging.getLogger(__name__)


class KeptXid(BaseModel):
    """How often an XID came for a GPU."""

    model_config = ConfigDict(frozen=True)

    gpu: str
    xid: int
    count: int
    last_at: float


class Kept(BaseModel):
    """The file's content."""

    v: Literal[1] = 1
    boot_id: str = ""
    kernel_seq: int = -1
    """The kernel's last message that was heard."""
    judge: dict[str, Any] = Field(default_factory=dict)
    xids: Annotated[list[KeptXid], Field(max_length=4096)] = Field(default_factory=list)
    recent: Annotated[list[dict[str, Any]], Field(max_length=1024)] = Field(default_factory=list)
    rules: str = ""
    """The controller's rules.toml; empty: the default."""
    inventory: dict[str, Any] = Field(default_factory=dict)
    """As last seen: the kernel names GPUs by their PCI address, and NVML may not answer any more."""
    gpus: int = 0
    gpu_model: str = ""
    deep_check_level: int = 0
    noted: bool = False
    """The policy has nothing done about what rules find."""
    quick_check: str = ""
    deep_check: str = ""
    deep_findings: list[dict[str, Any]] = Field(default_factory=list)

    def set_inventory(self, inventory: Inventory) -> None:
        """Keep the GPUs."""
        self.inventory = asdict(inventory)

    def known_inventory(self) -> Inventory:
        """Return the GPUs that were last seen, none where that is not known. Raises ValidationError."""
        return _INVENTORY.validate_python(self.inventory)

    def hear(self, event: GpuEvent) -> None:
        """Keep a recent event."""
        recent = [each for each in self.recent if each["at"] > event.at - RECENT_S]
        self.recent = [*recent[-1000:], asdict(event)]

    def heard(self) -> tuple[GpuEvent, ...]:
        """Return the recent events. Raises ValidationError."""
        return _EVENTS.validate_python(self.recent)

    def set_deep(self, result: str, findings: Iterable[Finding]) -> None:
        """Keep what the deep check found."""
        self.deep_check = result
        self.deep_findings = [asdict(finding) for finding in findings]

    def found_deep(self) -> tuple[Finding, ...]:
        """Return what the deep check found. Raises ValidationError."""
        return _FINDINGS.validate_python(self.deep_findings)


class Memory:
    """Keeps it. Whoever changes it saves it."""

    def __init__(self, path: Path, boot_id: str) -> None:
        self._path = path
        self.kept = self._load(boot_id)
        self._fault = ""

    def _load(self, boot_id: str) -> Kept:
        fresh = Kept(boot_id=boot_id)
        try:
            with self._path.open("rb") as file:
                kept = Kept.model_validate_json(file.read(MAX_BYTES))
            kept.known_inventory(), kept.heard(), kept.found_deep()
        except FileNotFoundError:
            return fresh
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            log.warning("%s cannot be used, starting afresh: %s", self._path, str(error)[:200])
            return fresh
        return kept if kept.boot_id == boot_id else fresh

    def save(self) -> None:
        """Write it; a disk that takes nothing is logged once and passed over, since telling goes before remembering."""
        fault = ""
        try:
            replace_file(self._path, self.kept.model_dump_json().encode(), 0o600, "agent.health", durable=True)
        except OSError as error:
            fault = error.strerror or str(error)
        if fault and fault != self._fault:
            log.error("%s cannot be written: %s", self._path, fault)
        self._fault = fault
