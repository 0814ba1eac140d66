"""One machine whose health is watched, made of fakes, for tests: its agent can be ended and started again."""

import asyncio
from pathlib import Path

from holdfast_common.clock import VirtualClock, settle
from holdfast_common.health.catalogue import TIER_S, Tier
from holdfast_common.health.model import Sample
from holdfast_protos.v1 import agent_pb2 as pb

from holdfast_nodeagent.gpu.blame import Blame
from holdfast_nodeagent.gpu.inventory import Inventory
from holdfast_nodeagent.health.fakes import FakeCalls, FakeLines, FakeProcesses, FakeReader
from holdfast_nodeagent.health.judging import Judging
from holdfast_nodeagent.health.kept import Memory
from holdfast_nodeagent.health.node_checks import NodeChecks
from holdfast_nodeagent.health.tenants import Tenants
from holdfast_nodeagent.health.verdict_file import VerdictFile
from holdfast_nodeagent.health.watch import HealthWatch

XID_LINE = "NVRM: Xid (PCI:0000:18:00): {}, pid=7, name=python, GPU has fallen off the bus."
"""Of the first GPU."""


class FakeNode:
    """The machine; `gpus`: it has an NVIDIA driver."""

    def __init__(self, run_dir: Path, clock: VirtualClock, inventory: Inventory, *, gpus: bool = True) -> None:
        self.run_dir = run_dir
        self.clock = clock
        self.inventory = inventory
        self.gpus = gpus
        self.lines = FakeLines(clock)
        self.processes = FakeProcesses()
        self.calls = FakeCalls(clock)
        self.watched: list[Path] = [run_dir]
        self.mounts: list[Path] = []
        self.said: list[pb.Health] = []
        self.name = "spot-1"
        self.boot_id = "boot-1"
        self.make()

    def make(self) -> None:
        """What the agent's start makes."""
        tenants = Tenants(self.processes, Blame(self.processes).job_of, self.run_dir / "proc")
        self.reader = FakeReader()
        memory = Memory(self.run_dir / "health.json", self.boot_id)
        self.watch = HealthWatch(
            self.clock,
            memory,
            tenants,
            NodeChecks(self.clock, self.calls, self.watched, self.mounts),
            Judging(self.clock, memory, VerdictFile(self.run_dir)),
            lambda expected: self.gpus or expected > 0,
            self.lines.open,
            20.0,
        )
        self.watch.wire(self.reader, lambda: self.name, self.say)
        self.task: asyncio.Task[None] | None = None

    def say(self, slot: str, message: pb.AgentMessage) -> None:
        """Take a word for the controller."""
        assert slot == "health"
        self.said.append(message.health)

    async def start(self) -> None:
        """Run the agent's part."""
        self.task = asyncio.ensure_future(self.watch.run())
        await settle()

    async def stop(self, *, crash: bool = False) -> None:
        """End the agent. After a crash, what stands on disk is what stood there."""
        file = self.run_dir / "health.json"
        before = file.read_bytes() if crash and file.exists() else None
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        if crash and before is not None:
            file.write_bytes(before)

    async def again(self, *, crash: bool = False) -> None:
        """The agent's restart."""
        await self.stop(crash=crash)
        self.make()
        await self.start()

    def tier(self, tier: Tier, *samples: Sample) -> None:
        """A round of the NVML process."""
        now = self.clock.now()
        some = [Sample(now, "gpus_visible", float(len(self.inventory.gpus)))] if tier == "fast" else []
        self.watch.on_samples(tier, [*some, *samples], 0.001)

    def read_all(self) -> None:
        """All is well with the GPUs."""
        self.watch.on_inventory(self.inventory)
        for tier in TIER_S:
            self.tier(tier, *(Sample(self.clock.now(), "up", 1.0, gpu.uuid) for gpu in self.inventory.gpus if tier == "fast"))

    def rules(self) -> dict[str, str]:
        """Rule → action of the newest word to the controller."""
        return {finding.rule: finding.action for finding in self.said[-1].findings} if self.said else {}

    @property
    def word(self) -> str:
        """What the hook is told."""
        return (self.run_dir / "health").read_text().split()[0]
