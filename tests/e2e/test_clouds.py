"""One partition over three clouds: each by its own clients, its own metadata service and its own way to give notice."""

from collections.abc import Callable
from typing import Any

import pytest
from e2e_bed import Bed, Entry
from e2e_clouds import ZONES, approved, clouds_of, fresh, give_all_back, noticed, only, running_in
from e2e_gang import gang

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(120)]
SETTINGS = {"nodes": 24, "clouds": ("aws", "gcp", "azure"), "zones": 3}
PLAN = ("--steps", "100", "--every-steps", "1000")
NOTICE_S = 15.0


def lead_s(entry: Entry) -> float:
    """How long before the deadline, by the agent's word, it learnt of it."""
    return float(entry.body["notice"]["deadline"]) - float(entry.body["notice"]["received"])


def refusals(bed: Bed, cloud: str) -> int:
    """How often a cloud has refused so far."""
    return sum(line["zone"] == ZONES[cloud] for line in bed.record("refused"))


def test_from_cloud_to_cloud(bed: Bed) -> None:
    """The first test of the file: a pool that has refused would be asked last for half an hour."""
    only(bed, "gcp", "azure")
    before = refusals(bed, "aws")
    job = bed.train(*PLAN, options=fresh(bed))
    node = running_in(bed, job, "gcp")
    asked = [entry.command["pool"].split("/")[0] for entry in bed.journal("Launch", job.job_id)]
    assert asked == ["aws", "gcp"], "the first cloud refuses, and the next one in the list is asked"
    assert refusals(bed, "aws") == before + 1, "a cloud that has refused is left alone for a while"

    only(bed, "azure")
    bed.reclaim(node, notice_s=NOTICE_S)
    parked = job.await_event("parked")
    assert job.await_event("resumed", attempt=1)["step"] == parked["step"]
    node = running_in(bed, job, "azure", attempt=1)

    only(bed, "aws")
    bed.reclaim(node, notice_s=NOTICE_S)
    parked = job.await_event("parked", attempt=1)
    assert job.await_event("resumed", attempt=2)["step"] == parked["step"]
    running_in(bed, job, "aws", attempt=2)

    assert job.finished()["Restarts"] == "2"
    assert job.result() == bed.reference(*PLAN)
    bed.cloud.clear()
    give_all_back(bed)


@pytest.mark.parametrize(
    ("cloud", "reason", "learnt_within_s"),
    # Google's service answers a long poll as the value changes, Azure's is asked each second; the machine that runs this may be busy
    [("gcp", "Google takes the Spot VM back", 1.0), ("azure", "Azure evicts the spot VM", 2.0)],
)
def test_a_notice_of_the_clouds_own(cloud: str, reason: str, learnt_within_s: float, bed: Bed) -> None:
    only(bed, cloud)
    job = bed.train(*PLAN, options=fresh(bed))
    node = running_in(bed, job, cloud)
    notice = bed.reclaim(node, notice_s=NOTICE_S)
    told = noticed(bed, node, notice["notice"])
    parked = job.await_event("parked")
    resumed = job.await_event("resumed", attempt=1)
    assert (told.body["source"], told.body["notice"]["reason"]) == ("agent", reason)
    assert float(told.body["notice"]["received"]) - notice["notice"] < learnt_within_s
    if cloud == "azure":
        assert abs(float(told.body["notice"]["deadline"]) - notice["deadline"]) <= 1.0, "NotBefore, in whole seconds"
    else:
        assert lead_s(told) == pytest.approx(bed.sandbox.config.notice_s), "Google tells no time: what the launch asked for counts"
    assert resumed["step"] == parked["step"] > 0
    assert resumed["t"] < notice["deadline"] - 5, "neither Slurm's two minutes nor the end of the notice were waited for"
    assert clouds_of(bed, job) == [cloud]
    assert job.finished()["Restarts"] == "1"
    assert job.result() == bed.reference(*PLAN)
    assert "Preempt" not in approved(bed), "whoever approves that gives up what is left of the notice"


@pytest.mark.long
@pytest.mark.parametrize("cloud", ["gcp", "azure"])
@pytest.mark.parametrize("point", ["effect.Launch.after", "commit.LaunchEnded.after", "effect.BindInstance.before"])
def test_the_controller_dies_in_a_launch(cloud: str, point: str, bed: Bed) -> None:
    bed.allow_hook_lines(r"not taken by the controller|does not answer")
    only(bed, cloud)
    bed.train("--steps", "1", options=fresh(bed)).finished()  # from now on this cloud is asked first: the others have refused
    bought, chosen = len(bed.record("requested")), fresh(bed)
    bed.restart_controller(fault=f"{point}:{1 + len(bed.agents())}" if "BindInstance" in point else point)
    job = bed.train("--steps", "3", options=chosen)
    bed.await_controller_death()
    bed.restart_controller()
    assert job.finished()["Restarts"] == "0"
    assert [entry.command["pool"].split("/")[0] for entry in bed.journal("Launch", job.job_id)] == [cloud]
    assert clouds_of(bed, job) == [cloud]
    assert len(bed.record("requested")) == bought + 1
    give_all_back(bed)


@pytest.mark.long
@pytest.mark.parametrize("cloud", ["gcp", "azure"])
def test_without_any_notice(cloud: str, bed: Bed) -> None:
    plan = ("--steps", "100", "--every-steps", "10")
    only(bed, cloud)
    job = bed.train(*plan, options=fresh(bed))
    job.await_event("save_ended", step=20)
    node = running_in(bed, job, cloud)
    bed.cloud.kill(bed.sandbox.instances.instance_of(node))
    resumed = job.await_event("resumed", attempt=1)
    assert resumed["step"] == job.events("save_ended", attempt=0)[-1]["step"] >= 20
    assert job.finished()["Restarts"] == "1"
    assert job.result() == bed.reference(*plan)


@pytest.mark.long
@pytest.mark.parametrize("cloud", ["gcp", "azure"])
def test_one_node_of_two(cloud: str, bed: Bed, until: Callable[..., Any]) -> None:
    only(bed, cloud)
    job = gang(bed, *PLAN, fresh=True)
    job.await_event("first_step_done")
    nodes = job.nodes()
    assert clouds_of(bed, job) == [cloud, cloud]
    bed.reclaim(nodes[1], notice_s=NOTICE_S)
    parked = job.await_event("parked")
    assert job.await_event("resumed", attempt=1)["step"] == parked["step"]
    assert nodes[0] in job.nodes(), "the survivor was not used again"
    assert nodes[1] not in job.nodes()
    assert job.finished()["Restarts"] == "1"
    assert job.result() == bed.reference(*PLAN)
