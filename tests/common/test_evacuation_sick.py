"""The steps of an evacuation from a sick machine, of which nobody else decides when it ends."""

from dataclasses import replace
from typing import Any

import pytest
from holdfast_common.evacuation import Drain, JobCase, Limits, NodeCase, PowerDown, Requeue, Signal, Step, job_steps, moved, node_steps
from holdfast_common.notice import Notice, NoticeKind
from holdfast_common.views import JobView, NodeView

NOW = 1_700_000_000.0
DEADLINE = NOW + 600.0
RUNNING = JobView(7, "7", "RUNNING", nodes=("n1",), priority=1)
NOTICE = Notice("health-i-1", NoticeKind.HEALTH, DEADLINE, NOW, "xid-79")


def case(view: JobView = RUNNING, **more: Any) -> JobCase:
    return JobCase(
        **{"view": view, "attempt": 0, "nodes": ("n1",), "doomed": frozenset({"n1"}), "deadline": DEADLINE, "sick": True, **more}
    )


def steps(found: JobCase, now: float = NOW) -> list[type[Step]]:
    return [type(step) for step in job_steps(found, now, Limits())]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, [Requeue]),
        ({"sick": False}, []),
        ({"registered": True}, []),
        ({"registered": True, "parked": True}, [Requeue]),
        ({"signal": "USR1"}, [Signal]),
        ({"saves": False}, [Requeue]),
    ],
    ids=["nothing could save", "the cloud's notice", "registered", "parked", "declared a signal", "never saves"],
)
def test_who_waits_for_a_save(more: dict[str, Any], expected: list[type[Step]]) -> None:
    assert steps(case(**more)) == expected


def test_a_job_that_registered_is_requeued_when_its_time_is_over() -> None:
    assert steps(case(registered=True), DEADLINE - 3) == []
    assert steps(case(registered=True), DEADLINE - 1) == [Requeue]


@pytest.mark.parametrize("batch_and_requeue", [(False, True), (True, False)], ids=["salloc", "--no-requeue"])
def test_what_cannot_be_requeued_is_not(batch_and_requeue: tuple[bool, bool]) -> None:
    batch, requeue = batch_and_requeue
    assert steps(case(replace(RUNNING, batch=batch, requeue=requeue))) == []
    assert steps(case(replace(RUNNING, state="FAILED", batch=batch, requeue=requeue))) == []


@pytest.mark.parametrize(
    ("state", "sick", "again"),
    [
        ("FAILED", True, True),
        ("FAILED", False, False),
        ("NODE_FAIL", True, True),
        ("NODE_FAIL", False, True),
        ("COMPLETED", True, False),
        ("CANCELLED", True, False),
        ("TIMEOUT", True, False),
        ("OUT_OF_MEMORY", True, False),
    ],
)
def test_what_an_end_means(state: str, sick: bool, again: bool) -> None:
    ended = case(replace(RUNNING, state=state, exit_code=1), sick=sick)
    found = job_steps(ended, NOW, Limits())
    assert [type(step) for step in found] == ([Requeue] if again else [])
    assert all(isinstance(step, Requeue) and step.ended for step in found)
    assert moved(ended) is not again, "the machine stays until it runs again"


def test_a_job_that_ends_still_is_not_judged_yet() -> None:
    assert steps(case(replace(RUNNING, state="FAILED", completing=True))) == []


def machine(flags: str = "DRAIN", *, keep_until: float = 0.0, jobs: tuple[JobCase, ...] = (), occupied: bool = False) -> NodeCase:
    view = NodeView("n1", "IDLE", frozenset(flags.split()))
    return NodeCase(view, NOTICE, "i-1", jobs=jobs, occupied=occupied, keep_until=keep_until)


def due(found: NodeCase, now: float) -> list[type[Step]]:
    return [type(step) for step in node_steps(found, now)]


def test_an_empty_machine_goes_at_once_and_one_that_is_kept_later() -> None:
    assert due(machine(), NOW) == [PowerDown]
    assert due(machine(keep_until=NOW + 60), NOW + 59) == []
    assert due(machine(keep_until=NOW + 60), NOW + 60) == [PowerDown]


def test_the_jobs_deadline_ends_no_machine_that_is_kept() -> None:
    kept = machine(keep_until=DEADLINE + 3600)
    assert due(kept, DEADLINE + 1) == []
    (step,) = node_steps(kept, DEADLINE + 3600)
    assert isinstance(step, PowerDown)
    assert due(machine(), DEADLINE + 1) == [PowerDown]


def test_a_machine_that_is_kept_is_drained_all_the_same() -> None:
    assert due(machine("CLOUD", keep_until=DEADLINE + 3600), NOW) == [Drain]


def test_one_with_a_job_stays_until_its_deadline() -> None:
    stays = machine(jobs=(case(registered=True),))
    assert due(stays, NOW) == []
    (step,) = node_steps(stays, DEADLINE)
    assert isinstance(step, PowerDown)
    assert not step.if_empty
    assert due(machine(occupied=True), NOW) == []
