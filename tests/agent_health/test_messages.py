"""What the controller is told of a node's health is no larger than what it takes."""

from holdfast_common.health.model import Action, Finding
from holdfast_nodeagent.health.messages import MAX_JOBS, health_message
from holdfast_nodeagent.health.snapshot import Snapshot


def test_of_many_jobs_to_blame_the_newest_are_told() -> None:
    finding = Finding("xid-program", Action.NOTE, 1.0, job_ids=tuple(range(1, 151)))
    (told,) = health_message(Snapshot(findings=(finding,)), "r").health.findings
    assert len(told.job_ids) == MAX_JOBS
    assert told.job_ids[-1] == 150
