"""What the driver says by itself, from both sources: each once, with the GPU's uuid and the job it is blamed on, and counted."""

from collections.abc import Mapping
from dataclasses import replace

from holdfast_common.health.dedupe import Dedupe
from holdfast_common.health.model import GpuEvent

from holdfast_nodeagent.health.kept import Kept, KeptXid
from holdfast_nodeagent.health.snapshot import XidCount
from holdfast_nodeagent.health.tenants import Tenants

MAX_XIDS = 4096
"""Pairs of GPU and XID that are counted."""


class Events:
    """Remembers over a restart what `kept` does."""

    def __init__(self, kept: Kept, tenants: Tenants) -> None:
        self._kept = kept
        self._tenants = tenants
        self._dedupe = Dedupe()
        for event in kept.heard():
            self._dedupe.first_time(event)
        self._counts = {(each.gpu, each.xid): XidCount(each.count, each.last_at) for each in kept.xids}

    @property
    def xids(self) -> Mapping[tuple[str, int], XidCount]:
        """How often each XID came for each GPU in this boot."""
        return dict(self._counts)

    def hear(self, event: GpuEvent) -> GpuEvent | None:
        """Take an event in; return it with what else is known, None where the other source has told it already."""
        gpu = self._kept.known_inventory().by_pci(event.gpu) if event.source == "kmsg" else None
        event = replace(event, gpu=gpu.uuid if gpu is not None else event.gpu)
        event = replace(event, job_id=event.job_id or self._tenants.blamed(event.gpu, event.pid))
        self._kept.hear(event)  # also one that the other source has told: only so are both a pair after a restart, too
        if not self._dedupe.first_time(event):
            return None
        key = (event.gpu, event.code)
        if event.kind == "xid" and (key in self._counts or len(self._counts) < MAX_XIDS):
            count = self._counts.get(key, XidCount(0, 0.0))
            self._counts[key] = XidCount(count.count + 1, max(count.last_at, event.at))
            self._kept.xids = [
                KeptXid(gpu=gpu, xid=xid, count=each.count, last_at=each.last_at) for (gpu, xid), each in self._counts.items()
            ]
        return event
