"""The health of this node: what is read and heard is judged, and what comes of it is told to the controller, Slurm and Prometheus."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Protocol

from holdfast_common.clock import Clock
from holdfast_common.health.catalogue import TIER_S, Tier
from holdfast_common.health.kernel import parse_line
from holdfast_common.health.model import Finding, GpuEvent, Sample
from holdfast_protos.v1 import agent_pb2 as pb

from holdfast_nodeagent.gpu.inventory import Inventory
from holdfast_nodeagent.health.events import Events
from holdfast_nodeagent.health.expected import expected_samples
from holdfast_nodeagent.health.judging import Judging
from holdfast_nodeagent.health.keeping import contained, first_of, keep
from holdfast_nodeagent.health.kept import Memory
from holdfast_nodeagent.health.newest import Newest
from holdfast_nodeagent.health.node_checks import NodeChecks
from holdfast_nodeagent.health.snapshot import Snapshot
from holdfast_nodeagent.health.tenants import Tenants

LOOK_S = 5.0
"""How often it is judged without a reading: rules hold over time, and verdicts of a node without GPUs grow old too."""
INVENTORY_S = 5.0
"""How long the kernel's messages wait for NVML's list at the first start: they name GPUs by PCI address, all else by uuid."""
DRIVER_S = 60.0
"""How often it is looked whether a driver has come."""
PASSED = "passed"

log = logging.getLogger(__name__)


class Reader(Protocol):
    """Reads the GPUs: `gpu.supervisor.Probe`."""

    @property
    def stalls(self) -> int:
        """Heartbeats that were missed since the agent's start."""

    @property
    def restarts(self) -> int:
        """Starts of its process after the first."""

    async def run(self) -> None:
        """Read for ever."""

    def read_now(self) -> None:
        """Have all tiers read at once."""


class Lines(Protocol):
    """The kernel's messages: `gpu.kernel_log.KernelLog`."""

    def lines(self) -> AsyncGenerator[tuple[int, float, str]]:
        """Yield (sequence number, Unix seconds, text) for ever."""


class HealthWatch:
    """One node's health. Listener of the NVML process; nothing of it raises into the agent, and no notice or job waits for it."""

    def __init__(
        self,
        clock: Clock,
        memory: Memory,
        tenants: Tenants,
        checks: NodeChecks,
        judging: Judging,
        wants_gpus: Callable[[int], bool],
        open_lines: Callable[[int, Callable[[], None]], Lines],
        quick_check_s: float,
    ) -> None:
        """`wants_gpus(expected)`: whether NVML is to be asked at all; `open_lines(after_seq, on_caught_up)`: the kernel's messages."""
        self._clock = clock
        self._memory = memory
        self._tenants = tenants
        self._checks = checks
        self._judging = judging
        self._wants_gpus = wants_gpus
        self._open_lines = open_lines
        self._quick_check_s = quick_check_s
        self._newest = Newest()
        self._inventory = Inventory()
        self._node_rounds = 0
        self._unavailable = ""
        self._missed = 0
        self._kernel_heard = False
        self._wanted = wants_gpus(memory.kept.gpus)
        self._changed = asyncio.Event()
        """Something has been read, heard or told."""
        self._recheck = asyncio.Event()
        self._ordered = asyncio.Event()
        self._events = Events(memory.kept, tenants)

    def wire(self, probe: Reader, name: Callable[[], str], say: Callable[[str, pb.AgentMessage], None]) -> None:
        """Connect the parts that need this one to be made. `say(slot, message)` queues a message for the controller."""
        self._probe = probe
        self._name = name
        self._say = say

    async def run(self) -> None:
        """Watch until cancelled."""
        parts = {
            "the GPUs' readings": self._read_gpus,
            "the kernel's messages": self._read_kernel,
            "the node's checks": self._check_node,
            "the jobs' names": self._name_tenants,
            "health": self._keep_looking,
            "the controller's checks": self._answer_orders,
        }
        try:
            async with asyncio.TaskGroup() as tasks:
                for name, part in parts.items():
                    tasks.create_task(keep(name, part, self._clock), name=name)
        finally:
            self._save()

    @contained
    def _save(self) -> None:
        self._judging.save()

    # What is known

    @property
    def ready(self) -> bool:
        """Whether everything has been read since the agent's start, or all that there is."""
        gpus = bool(self._unavailable) or all(self._newest.rounds.values())
        return self._node_rounds > 0 and (not self._wanted or (gpus and self._kernel_heard))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What holds now."""
        return self._judging.findings

    @property
    def deep_check_level(self) -> int:
        """Of `dcgmi diag`, as the controller wants it before slurmd is started; 0: none, or it has passed in this boot."""
        kept = self._memory.kept
        return 0 if kept.noted or kept.deep_check == PASSED else kept.deep_check_level

    def snapshot(self) -> Snapshot:
        """Return all of it."""
        kept = self._memory.kept
        return Snapshot(
            node=self._name(),
            ready=self.ready,
            polled_at=self._newest.polled_at,
            inventory=self._inventory,
            gpus_expected=kept.gpus or None,
            samples=dict(self._newest.samples),
            findings=self.findings,
            rules=self._judging.rules.reading,
            xids=self._events.xids,
            gpu_jobs=self._tenants.jobs,
            tiers=dict(self._newest.tiers),
            stalls=self._probe.stalls,
            restarts=self._probe.restarts,
            quick_check=kept.quick_check,
            deep_check=kept.deep_check,
        )

    def gpus_of(self, job_id: int) -> int:
        """Return how many GPUs the job's processes used at the last look; 0: none, or not known."""
        return sum(job.job_id == job_id for job in self._tenants.jobs)

    # The NVML process's word (gpu.supervisor.Listener)

    @contained
    def on_inventory(self, inventory: Inventory) -> None:
        """Take the list of GPUs. One that is not listed any more is still known by its PCI address: the kernel may speak of it."""
        self._unavailable = ""
        self._inventory = inventory
        self._newest.forget_gpus(gpu.uuid for gpu in inventory.gpus)
        here = {gpu.pci for gpu in inventory.gpus}
        gone = tuple(gpu for gpu in self._memory.kept.known_inventory().gpus if gpu.pci not in here)
        self._memory.kept.set_inventory(Inventory(inventory.driver, inventory.nvml, (*inventory.gpus, *gone[:64])))
        self._look()
        self._judging.save()

    @contained
    def on_samples(self, tier: Tier, samples: Sequence[Sample], took_s: float) -> None:
        """Take a round of readings."""
        self._newest.round(tier, samples, took_s, self._clock.now())
        self._judging.take(samples)
        if tier == "fast":
            self._state_nvml()
        self._look()

    @contained
    def on_event(self, event: GpuEvent) -> None:
        """Take what the driver says by itself, whichever way it comes: it is told first, then kept."""
        heard = self._events.hear(event)
        if heard is None:
            return
        log.warning("GPU %s: %s %d%s", heard.gpu, heard.kind, heard.code, f" (job {heard.job_id})" if heard.job_id else "")
        self._judging.hear(heard)
        self._look()
        self._judging.save_soon()

    @contained
    def on_processes(self, processes: Mapping[str, Mapping[int, int]]) -> None:
        """Take who uses the GPUs."""
        used = self._newest.of("memory_used_bytes")
        self._take(self._tenants.look(processes, used, self._inventory, self._clock.now()))
        self._look()

    @contained
    def on_missed(self, missed_in_a_row: int) -> None:
        """Take a missed heartbeat."""
        self._missed = missed_in_a_row
        self._state_nvml()
        self._look()

    @contained
    def on_unavailable(self, reason: str) -> None:
        """NVML is not here, which is a fault only where there should be GPUs."""
        if reason != self._unavailable:
            log.warning("NVML is not available: %s", reason)
        self._unavailable = reason or "unknown"
        self._state_nvml()
        self._look()

    def _state_nvml(self) -> None:
        """Take how NVML itself is, and compare the GPUs that are there with those that should be: again and again, as rules want it."""
        at, kept = self._clock.now(), self._memory.kept
        self._take([Sample(at, "nvml_missed_heartbeats", float(self._missed))])
        if self._unavailable and kept.gpus:
            self._take([Sample(at, "nvml_unavailable", 1.0, detail=self._unavailable[:200]), Sample(at, "gpus_visible", 0.0)])
        elif self._newest.polled_at:
            visible, up = self._newest.of("gpus_visible").get(""), self._newest.of("up")
            self._take([Sample(at, "nvml_unavailable", 0.0 if kept.gpus else None, state="ok" if kept.gpus else "unsupported")])
            self._take(expected_samples(kept.gpus, kept.gpu_model, self._inventory, visible, up, at))

    # The controller's word

    @contained
    def on_welcome(self, welcome: pb.Welcome) -> None:
        """Take what the node should have, and say again how it is."""
        kept = self._memory.kept
        told = (min(welcome.gpus, 1024), welcome.gpu_model[:256], welcome.deep_check_level, welcome.health_noted)
        if told != (kept.gpus, kept.gpu_model, kept.deep_check_level, kept.noted):
            kept.gpus, kept.gpu_model, kept.deep_check_level, kept.noted = told
            self._wanted = self._wants_gpus(kept.gpus)
            self._state_nvml()
            self._judging.save()
        self._look(again=True)

    @contained
    def on_rules(self, message: pb.HealthRules) -> None:
        """Judge by other rules from now on. Those that are not valid are refused, and the old ones stay."""
        if self._judging.use(message):
            self._look(again=True)
            self._judging.save()

    @contained
    def on_order(self, order: pb.HealthOrder) -> None:
        """Read all at once, or forget what a rule has found."""
        if order.resolve_rule:
            self._judging.resolve(order.resolve_rule, order.resolve_gpu)
            self._look(again=True)
            self._judging.save()
        if order.check_now:
            self._ordered.set()

    @contained
    def on_sent(self, sent_at: float) -> None:
        """Compare the controller's clock with ours."""
        self._checks.skew.hear(sent_at)

    # Before slurmd is started

    async def quick_check(self, *, anew: bool = False) -> str:
        """Return `passed` once all has been read and nothing is graver than a note, or the policy has nothing done about it; else what is.

        It takes `quick_check_s` at most. What cannot be read by then says nothing, unless the node should have GPUs. `anew`: what was
        read before does not count.
        """
        if anew:
            await self._read_anew()
        elif not self.ready:
            await self._until(lambda: self.ready)
        reason = self._judging.objection(self._newest.samples.values())
        if not reason and not self.ready and self._memory.kept.gpus:
            reason = f"NVML has not told of the GPUs within {self._quick_check_s:g} s"
        reason = reason or PASSED
        self.set_quick_check(reason)
        return PASSED if self._memory.kept.noted else reason

    def set_quick_check(self, result: str) -> None:
        """Say what came of the quick check."""
        if result != self._memory.kept.quick_check:
            self._memory.kept.quick_check = result
            self._look()
            self._judging.save()

    def set_deep_check(self, result: str, findings: tuple[Finding, ...]) -> None:
        """Say what came of the deep check."""
        self._judging.found_deep(result, findings)
        self._look()
        self._judging.save()

    # Tasks

    async def _read_gpus(self) -> None:
        await self._until_wanted()
        await self._probe.run()

    async def _read_kernel(self) -> None:
        await self._until_wanted()
        if not self._memory.kept.known_inventory().gpus:
            await first_of(self._when(lambda: bool(self._inventory.gpus or self._unavailable)), self._clock.sleep(INVENTORY_S))
        lines = self._open_lines(self._memory.kept.kernel_seq, self._on_kernel_heard).lines()
        async with contextlib.aclosing(lines):
            async for seq, at, text in lines:
                self._memory.kept.kernel_seq = seq
                # The kernel's own clock is not corrected and drifts by a second a day: what comes while we listen is from now.
                event = parse_line(text, self._clock.now() if self._kernel_heard else at)
                if event is not None:
                    self.on_event(event)
                    await self._clock.sleep(0)  # a storm of thousands must not keep a notice waiting

    @contained
    def _on_kernel_heard(self) -> None:
        if not self._kernel_heard:
            self._kernel_heard = True
            self._look()

    async def _until_wanted(self) -> None:
        while not self._wanted:
            await first_of(self._when(lambda: self._wanted), self._clock.sleep(DRIVER_S))
            self._wanted = self._wants_gpus(self._memory.kept.gpus)

    async def _check_node(self) -> None:
        """Take the node's readings: memory each 15 s, the rest each minute and when asked."""
        slow_at = 0.0
        while True:
            self._take(self._checks.medium())
            if self._recheck.is_set() or self._clock.monotonic() >= slow_at:
                self._recheck.clear()
                slow_at = self._clock.monotonic() + TIER_S["slow"]
                self._take(await self._checks.slow())
            self._node_rounds += 1
            self._look()
            await first_of(self._recheck.wait(), self._clock.sleep(TIER_S["medium"]))

    async def _name_tenants(self) -> None:
        """Find out who the jobs on the GPUs are of: a directory service, and a process that hangs in the driver, may take their time."""
        while True:
            for uid in self._tenants.nameless:
                self._tenants.users |= {uid: name} if (name := await self._checks.user_name(uid)) is not None else {}
            for job_id, pid in self._tenants.unlabelled.items():
                label = await self._checks.told(f"process {pid}", functools.partial(self._tenants.label_of, pid))
                self._tenants.labels |= {job_id: label} if label is not None else {}
            await self._clock.sleep(TIER_S["medium"])

    async def _keep_looking(self) -> None:
        while True:
            if self._unavailable:
                self._state_nvml()
            self._look()
            self._judging.renew(self.snapshot(), LOOK_S)
            await self._clock.sleep(LOOK_S)

    async def _answer_orders(self) -> None:
        """Say how the node is, changed or not, once all has been read."""
        while True:
            await self._ordered.wait()
            self._ordered.clear()
            await self._read_anew()
            self._look(again=True)

    # Parts of them

    async def _read_anew(self) -> None:
        """Read everything; return when it has come, or after `quick_check_s`."""
        node, gpus = self._node_rounds, dict(self._newest.rounds)
        self._recheck.set()
        if self._wanted and not self._unavailable:
            self._probe.read_now()

        def came() -> bool:
            there = not self._wanted or bool(self._unavailable) or all(self._newest.rounds[tier] > gpus[tier] for tier in gpus)
            return there and self._node_rounds > node

        await self._until(came)

    async def _until(self, holds: Callable[[], bool]) -> None:
        await first_of(self._when(holds), self._clock.sleep(self._quick_check_s))

    async def _when(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    def _take(self, samples: Sequence[Sample]) -> None:
        self._newest.take(samples)
        self._judging.take(samples)

    def _look(self, *, again: bool = False) -> None:
        """Judge, and tell where that has changed."""
        self._changed.set()
        self._judging.tell(self.snapshot(), self._say, again=again)
