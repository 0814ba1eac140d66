"""What a machine must pass before slurmd is started on it."""

import asyncio
from dataclasses import dataclass, field

import pytest
from holdfast_common.clock import VirtualClock, settle
from holdfast_common.health.model import Action, Finding
from holdfast_nodeagent.health.admission import Admission
from holdfast_nodeagent.health.deep_check import DeepCheck

BAD = Finding("xid_79", Action.REPLACE, 1.0, "GPU-0", "XID 79")
DEEP = Finding("deep_check", Action.REPLACE, 1.0, text="memory on GPU 3")


@dataclass
class Health:
    """Says what a test puts in."""

    reasons: list[str] = field(default_factory=lambda: ["passed"])
    holds: tuple[Finding, ...] = ()
    level: int = 0
    checks: list[bool] = field(default_factory=list)
    quick: str = ""
    deep: str = ""

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.holds

    @property
    def deep_check_level(self) -> int:
        return self.level

    async def quick_check(self, *, anew: bool = False) -> str:
        self.checks.append(anew)
        return self.reasons.pop(0) if len(self.reasons) > 1 else self.reasons[0]

    def set_quick_check(self, result: str) -> None:
        self.quick = result

    def set_deep_check(self, result: str, findings: tuple[Finding, ...]) -> None:
        self.deep, self.holds = result, findings
        if result == "passed":
            self.level = 0


class Deep(DeepCheck):
    """Answers what a test puts in."""

    def __init__(self, clock: VirtualClock, *answers: tuple[str, tuple[Finding, ...]]) -> None:
        super().__init__(clock)
        self.answers = list(answers)
        self.levels: list[int] = []

    async def run(self, level: int) -> tuple[str, tuple[Finding, ...]]:
        self.levels.append(level)
        return self.answers.pop(0)


async def begin(health: Health, clock: VirtualClock, deep: DeepCheck | None = None) -> "asyncio.Task[None]":
    task = asyncio.ensure_future(Admission(health, deep or DeepCheck(clock), clock).passed())
    await settle()
    return task


async def test_a_sound_node_is_not_kept_waiting(clock: VirtualClock) -> None:
    health = Health()
    assert (await begin(health, clock)).done()
    assert health.checks == [False]


async def test_one_that_failed_is_checked_anew_every_ten_seconds_until_it_passes(clock: VirtualClock) -> None:
    health = Health(["xid_79: XID 79", "xid_79: XID 79", "xid_79: XID 79", "passed"], (BAD,))
    task = await begin(health, clock)
    await clock.advance(29.9)
    assert not task.done()
    assert health.checks == [False, True, True]
    await clock.advance(0.2)
    assert task.done()


async def test_a_finding_stands_for_as_long_as_it_does_and_what_cannot_be_judged_does_not(clock: VirtualClock) -> None:
    stands = await begin(Health(["xid_79: XID 79"], (BAD,)), clock)
    unclear = Health(["NVML has not told of the GPUs within 20 s"])
    waits = await begin(unclear, clock)
    await clock.advance(299)
    assert not waits.done()
    await clock.advance(2)
    assert waits.done()
    assert unclear.quick == "passed"
    await clock.advance(3600)
    assert not stands.done()
    stands.cancel()


async def test_the_deep_check_comes_after_the_quick_one_and_only_where_it_is_wanted(clock: VirtualClock) -> None:
    health, deep = Health(level=2), Deep(clock, ("passed", ()))
    assert (await begin(health, clock, deep)).done()
    assert (deep.levels, health.deep) == ([2], "passed")
    assert (await begin(Health(), clock, unwanted := Deep(clock))).done()
    assert unwanted.levels == []


async def test_a_deep_check_that_cannot_be_run_does_not_block(clock: VirtualClock) -> None:
    note = Finding("deep_check", Action.NOTE, 1.0, text="not run: dcgmi is not installed")
    health = Health(level=3)
    assert (await begin(health, clock, Deep(clock, (note.text, (note,))))).done()
    assert health.deep == note.text


async def test_one_that_fails_blocks_until_it_is_resolved_and_passes(clock: VirtualClock) -> None:
    health, deep = Health(level=2), Deep(clock, ("memory on GPU 3", (DEEP,)), ("passed", ()))
    health.reasons = ["passed", "deep_check: memory on GPU 3"]
    task = await begin(health, clock, deep)
    await clock.advance(600)
    assert not task.done()
    assert deep.levels == [2]
    health.reasons, health.holds = ["passed"], ()  # an admin has resolved it
    await clock.advance(11)
    assert task.done()
    assert deep.levels == [2, 2]


async def test_a_fault_of_ours_starts_slurmd_all_the_same(clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Health):
        async def quick_check(self, *, anew: bool = False) -> str:
            raise KeyError("judge")

    assert (await begin(Broken(), clock)).done()
    assert "slurmd's start" in caplog.text
