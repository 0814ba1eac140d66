"""Real ranks through the public API: a notice at every bad moment. The test is the nodes' agent."""

import random
import time
from collections.abc import Callable

import pytest
from gang_bed import SETTLE_S, Gang, Until

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]
Start = Callable[..., Gang]


def both(step: int, what: str, argument: object = None) -> list[tuple[int, int, str, object]]:
    return [(step, rank, what, argument) for rank in range(2)]


def resumes_at(start: Start, step: int, ranks: int = 2, **settings: object) -> None:
    """The next attempt goes on there, from a checkpoint of that step."""
    again = start("again", ranks, step + 2, **settings).finished()
    assert [line["step"] for line in again.events("resumed")][-1] == step
    assert list(again.batches()) == [step, step + 1], "the data goes on there, too"


def test_during_an_evaluation_within_a_step(gang: Start, until: Until) -> None:
    """Steps of milliseconds, then a long one on both ranks, in which rank 1 is told: they park at its end and no step later."""
    one = gang("one", 2, acts=both(30, "hold"))
    one.held(30, ranks=2)
    one.notify(1)
    until(lambda: one.timeline(1, "notice_seen"))
    time.sleep(SETTLE_S)
    one.go(30)
    status = one.parked()
    assert (status["saved_step"], status["steps_lost"]) == (31, 0)
    resumes_at(gang, 31)


def test_while_a_rank_waits_in_a_collective_for_another(gang: Start, until: Until) -> None:
    """Rank 0 is told while its main thread is blocked, since rank 1 computes: seen at once, and both park at the end of the step."""
    one = gang("one", 2, acts=[(4, 1, "hold", None)])
    one.held(4)
    time.sleep(0.1)  # rank 0 comes to the collective
    one.notify(0)
    [seen] = until(lambda: one.timeline(0, "notice_seen"))
    time.sleep(SETTLE_S)
    assert len(one.lines(0)) == 4, "rank 0 is blocked in step 4"
    one.go(4)
    assert one.parked()["saved_step"] == 5
    assert seen["t"] - seen["received"] < 0.3
    assert one.lines(0)[4]["t"] - seen["t"] > SETTLE_S - 0.1, "and it was seen while the main thread was blocked"


@pytest.mark.long
def test_in_the_first_step(gang: Start) -> None:
    one = gang("one", 2, acts=[(0, 1, "hold", None)])
    one.held(0)
    one.notify(1)
    one.go(0)
    assert one.parked()["saved_step"] == 1
    resumes_at(gang, 1)


@pytest.mark.long
def test_in_the_last_step(gang: Start) -> None:
    """The run finishes instead: it is saved, says so, and nobody asks to be requeued."""
    one = gang("one", 2, 8, acts=[(7, 1, "hold", None)])
    one.held(7)
    one.notify(1)
    one.go(7)
    one.finished()
    assert [report["state"] for report in one.reports()] == ["done", "done"]
    status = one.nodes[0].report()
    assert (status["state"], status["saved_step"], status["stopped_on_notice"]) == ("done", 8, False)
    assert one.events("parked") == []


@pytest.mark.long
def test_before_the_processes_start(gang: Start, make_node: Callable[[str], object]) -> None:
    """The file is there first, on one node of two; no signal is sent, since nobody has registered. No step is made in vain."""
    nodes = [make_node("node0"), make_node("node1")]
    nodes[1].notify()  # type: ignore[attr-defined]
    one = gang("one", 2, nodes=nodes)
    status = one.parked()
    assert (status["saved_step"], status["steps_lost"]) == (0, 0)
    assert one.lines(0) == []
    resumes_at(gang, 0)


@pytest.mark.long
def test_two_nodes_are_told_of_different_things_in_one_second(gang: Start) -> None:
    """Each rank answers the notice of its own node; all park at one step, and know the earlier deadline."""
    one = gang("one", 2, acts=both(3, "hold"))
    one.held(3, ranks=2)
    now = time.time()
    one.notify(0, id="far", kind="maintenance", deadline=now + 300)
    one.notify(1, id="near", deadline=now + 100)
    time.sleep(SETTLE_S)
    one.go(3)
    status = one.parked()
    assert status["notice_id"] == "far"
    assert [report["notice_id"] for report in one.reports()] == ["far", "near"]
    assert [line["notice_id"] for line in one.events("parked")] == ["near"]
    assert status["saved_step"] == 4


def test_while_an_earlier_save_is_on_its_way_to_a_slow_disk(gang: Start, until: Until) -> None:
    """Each rank's disk takes 50 KiB a second. The save of step 2 is finished, then the step that training has reached is saved."""
    one = gang("one", 2, kind="fsdp", step_s=0.02, run={"every_steps": 2, "save_bandwidth_mib_s": 0.05}, acts=both(3, "hold"))
    one.held(3, ranks=2)
    assert one.published() == []
    one.notify(0)
    until(lambda: one.timeline(0, "notice_seen"))
    time.sleep(0.15)
    assert one.published() == [], "the save is still on its way"
    one.go(3)
    status = one.parked()
    assert status["saved_step"] == 4
    assert [(line["step"], line["ok"]) for line in one.events("save_ended")] == [(2, True), (4, True)]
    resumes_at(gang, 4, kind="fsdp")


def test_amid_steps_of_a_millisecond(gang: Start, until: Until) -> None:
    one = gang("one", 2, 100_000, step_s=0.001)
    until(lambda: len(one.lines(1)) > 10)
    chance = random.random()
    time.sleep(chance)
    one.notify(1)
    told = time.time()
    status = one.parked()
    [parked] = one.events("parked")
    assert parked["t"] - told < 2, f"told {chance} s after the tenth step"
    assert status["saved_step"] == parked["step"] == len(one.lines(0)) == len(one.lines(1))
