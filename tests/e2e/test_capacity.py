"""Pools that refuse: the next one is tried at once; when all refuse, the job is told why, and served when there is capacity again."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from e2e_bed import Bed

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(90)]
SETTINGS = {"nodes": 12, "zones": 2}
CHEAP, DEAR = "us-east-1a", "us-east-1b"


def zones(bed: Bed, job_id: int) -> list[str]:
    """Where instances were bought for a job."""
    return [line["zone"] for line in bed.record("requested") if line["tags"].get("holdfast:job") == str(job_id)]


def test_a_refusal_is_answered_by_the_next_pool(bed: Bed) -> None:
    bed.cloud.refuse(zone=CHEAP)
    job = bed.train("--steps", "3")
    assert job.finished()["Restarts"] == "0"
    assert zones(bed, job.job_id) == [DEAR]
    refused = [line for line in bed.record("refused") if line["zone"] == CHEAP]
    assert len(refused) == 1, "a pool that has refused is left alone for a while"
    asked = [entry.command["pool"].split("/")[2] for entry in bed.journal("Launch", job.job_id)]
    assert asked == [CHEAP, DEAR]


def test_a_gang_is_bought_whole_in_one_pool_or_not_there(bed: Bed) -> None:
    bed.cloud.set_zone(CHEAP, capacity=1)
    bed.restart_controller()
    job = bed.train("--steps", "3", options=("--nodes=2", "--exclusive", "-w", "spot-[5-6]"))
    assert job.finished(80)["Restarts"] == "0"
    assert zones(bed, job.job_id) in ([DEAR, DEAR], [CHEAP, DEAR, DEAR])
    alive = [each for each in bed.cloud.instances() if each["state"] == "running" and each["tags"].get("holdfast:job") == str(job.job_id)]
    assert [each["zone"] for each in alive] == [DEAR, DEAR], "what a partial launch brought was not given back"
    bed.cloud.set_zone(CHEAP, capacity=12)


def test_refused_everywhere_told_why_and_served_later(bed: Bed, until: Callable[..., Any]) -> None:
    bed.cloud.refuse()
    job = bed.train("--steps", "3", options=("--exclude", "spot-[1-6]"))
    told = until(lambda: bed.slurm.job(job.job_id).get("AdminComment", ""), 20, "the reason why the job waits")
    assert told.startswith(f"holdfast: no capacity for job {job.job_id}")
    assert re.search(rf"aws/us-east-1/{CHEAP}/sim1.node/spot: refused", told)
    assert re.search(rf"aws/us-east-1/{DEAR}/sim1.node/spot: refused", told)
    waiting = until(lambda: (seen := bed.slurm.job(job.job_id))["JobState"] == "PENDING" and seen, 20, "the job to wait")
    bed.requeued_by_slurm[job.job_id] = int(waiting["Restarts"])
    bed.cloud.clear()
    ended = job.finished(20)  # after its backoff, and not after Slurm's own delay of half a minute
    bed.requeued_by_slurm[job.job_id] = int(ended["Restarts"])
    assert len(job.starts()) == 1
    assert job.result()["step"] == 3
