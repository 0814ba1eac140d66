"""Fixtures: the fake NVML library, GPUs, and whoever hears the probe."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from ctypes import CDLL
from pathlib import Path

import pynvml
import pytest
from holdfast_common.clock import SystemClock
from holdfast_common.health.catalogue import Tier
from holdfast_common.health.model import GpuEvent, Sample
from holdfast_nodeagent.gpu.inventory import Inventory
from holdfast_nodeagent.gpu.rounds import Gpus
from holdfast_nodeagent.gpu.supervisor import Probe
from holdfast_sandbox.nvml import library as fake
from holdfast_sandbox.nvml.gpus import FakeGpus

TIERS: dict[Tier, float] = {"fast": 0.4, "medium": 0.6, "slow": 0.8}


class Heard:
    """All that a probe says."""

    def __init__(self) -> None:
        self.inventories: list[Inventory] = []
        self.samples: dict[tuple[str, str], Sample] = {}
        self.rounds: list[Tier] = []
        self.took_s: list[float] = []
        self.events: list[GpuEvent] = []
        self.processes: list[Mapping[str, Mapping[int, int]]] = []
        self.missed: list[int] = []
        self.unavailable: list[str] = []

    def on_inventory(self, inventory: Inventory) -> None:
        self.inventories.append(inventory)

    def on_samples(self, tier: Tier, samples: Sequence[Sample], took_s: float) -> None:
        self.rounds.append(tier)
        self.took_s.append(took_s)
        self.samples |= {(sample.name, sample.gpu): sample for sample in samples}

    def on_event(self, event: GpuEvent) -> None:
        self.events.append(event)

    def on_processes(self, processes: Mapping[str, Mapping[int, int]]) -> None:
        self.processes.append(processes)

    def on_missed(self, missed_in_a_row: int) -> None:
        self.missed.append(missed_in_a_row)

    def on_unavailable(self, reason: str) -> None:
        self.unavailable.append(reason)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Collection[str]], Path]:
    directory = tmp_path_factory.mktemp("nvml")
    return lambda without: fake.build(directory, without)


@pytest.fixture
def library(build: Callable[[Collection[str]], Path]) -> Path:
    return build(())


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    machine = FakeGpus(tmp_path / "gpus")
    machine.install("h100x8")
    monkeypatch.setenv(fake.STATE_VARIABLE, str(machine.state_file))
    return machine


@pytest.fixture
def read(gpus: FakeGpus, build: Callable[[Collection[str]], Path], monkeypatch: pytest.MonkeyPatch) -> Iterator["Read"]:
    reading = Read(gpus, build, monkeypatch)
    yield reading
    reading.close()


class Read:
    """Reads a machine's GPUs in this process, as the NVML process does."""

    def __init__(self, gpus: FakeGpus, build: Callable[[Collection[str]], Path], monkeypatch: pytest.MonkeyPatch) -> None:
        self._gpus = gpus
        self._build = build
        self._monkeypatch = monkeypatch
        self._found: Gpus | None = None

    def begin(self, profile: str, without: Collection[str] = ()) -> Gpus:
        self._gpus.install(profile)
        self._monkeypatch.setattr(pynvml, "nvmlLib", CDLL(str(self._build(without))))
        self._monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        pynvml.nvmlInit()
        self._found = Gpus()
        return self._found

    def __call__(self, *tiers: str) -> dict[tuple[str, str], tuple[object, ...]]:
        """Return (value, state, detail) by reading and GPU."""
        assert self._found is not None
        told = {}
        for tier in tiers or ("fast", "medium", "slow"):
            samples = self._found.round(tier)["samples"]
            assert isinstance(samples, list)
            told |= {(name, gpu): (value, state, detail) for name, gpu, value, state, detail in samples}
        return told

    def close(self) -> None:
        if self._found is not None:
            self._gpus.clear()
            pynvml.nvmlShutdown()


RunProbe = Callable[..., Awaitable[Probe]]


@pytest.fixture
async def run_probe(library: Path, gpus: FakeGpus, heard: Heard) -> AsyncIterator[RunProbe]:
    """Start a probe on the fake library, with real processes; it is ended with the test."""

    @asynccontextmanager
    async def running(path: str) -> AsyncIterator[Probe]:
        probe = Probe(path, TIERS, SystemClock(), heard)
        task = asyncio.create_task(probe.run())
        try:
            yield probe
        finally:
            gpus.hang(False)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async with AsyncExitStack() as stack:

        async def start(path: str = str(library)) -> Probe:
            return await stack.enter_async_context(running(path))

        yield start


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Wait, in real time, until something is so; the test's own time-out is the limit."""

    async def wait(holds: Callable[[], object]) -> None:
        while not holds():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.01)

    return wait
