"""The walk's parts: which piece of a recording, which zones, what is told of an event, what is made of the records."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from holdfast_common.errors import ConfigError
from holdfast_sandbox.cloud_config import CloudConfig
from holdfast_sandbox.cluster_config import CLOUDS, SandboxConfig
from holdfast_sandbox.history.model import JobRun, JournalEntry, Start
from holdfast_sandbox.market import Pool
from holdfast_sandbox.recordings import RECORDINGS, recording
from holdfast_sandbox.trace import TraceFile, build_market, read_trace
from holdfast_sandbox.walk_choice import choose
from holdfast_sandbox.walk_events import Narrator
from holdfast_sandbox.walk_job import undisturbed
from holdfast_sandbox.walk_plan import WalkOptions, introduction, patience, plan
from holdfast_sandbox.walk_result import Walked, attempts, failures, result, table, verdict
from holdfast_sandbox.zones import SandboxZone, market_of, zones_of


def recorded(**lines: str) -> TraceFile:
    """A recording of zones that had room (1) or not (0), dearer from zone to zone."""
    pools = {
        name: {"region": name[:-1], "on_demand_usd_h": 3.0, "available": line, "spot_usd_h": 1.0 + number}
        for number, (name, line) in enumerate(lines.items())
    }
    return TraceFile.model_validate({"step_s": 100, "instance": "p3.2xlarge", "pools": pools})


# The recordings


def test_the_recordings_come_along_with_their_licence() -> None:
    assert {name: len(read_trace(path).pools) for name, path in RECORDINGS.items()} == {"v100": 9, "h100": 13}
    assert recording("v100") == RECORDINGS["v100"]
    assert recording("some/where.json") == Path("some/where.json")
    folder = RECORDINGS["v100"].parent
    assert "Apache License" in (folder / "LICENSE.Apache-2.0").read_text()
    assert all(path.name in (folder / "README.md").read_text() for path in RECORDINGS.values())


# Which piece


def test_the_zones_are_those_in_which_a_job_is_moved_about() -> None:
    trace = recorded(a1="1" * 8, b1="0" * 8, c1="11100000", d1="00111000", e1="00001111")
    found = choose(trace, zones=3, nodes=4, job_nodes=2, steps=8, start=0)
    assert found.zones == ("c1", "d1", "e1"), "cheapest first"
    assert (found.start, found.units, found.moves) == (0, 4, 2)


def test_the_start_is_where_a_job_is_moved_most() -> None:
    trace = recorded(a1="1" * 20 + "1110001111", b1="0" * 20 + "0111110011")
    assert choose(trace, 2, 1, 1, 10) == choose(trace, 2, 1, 1, 10, start=20)


def test_a_window_without_room_or_with_haste_is_worth_less() -> None:
    flapping, calm = "1010101010", "1110011111"
    trace = recorded(a1=flapping + calm, b1="0101010101" + "0011111011")
    assert choose(trace, 2, 1, 1, 10).start == 10


def test_what_a_recording_has_not_is_said() -> None:
    trace = recorded(a1="101", b1="010")
    with pytest.raises(ValueError, match="2 zones"):
        choose(trace, 3, 1, 1, 2)
    with pytest.raises(ValueError, match="3 steps"):
        choose(trace, 2, 1, 1, 2, start=3)


@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.parametrize("clouds", [("aws",), CLOUDS])
def test_the_default_walk_loses_and_moves(name: str, clouds: Any) -> None:
    planned = plan(WalkOptions(trace=recording(name), clouds=clouds))
    assert planned == replace(plan(WalkOptions(trace=recording(name), clouds=clouds)), config=planned.config), "always the same"
    assert planned.choice.moves >= 3
    assert [zone.provider for zone in zones_of(planned.config)] == list(clouds * 3)[:3]
    said = introduction(planned)
    assert "takes 4 s" in said
    assert "notices (20 s)" in said


def test_faulty_options_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        WalkOptions(nodes=3, job_nodes=2, steps=0, speed=-1.0)
    assert len(caught.value.faults) == 3
    with pytest.raises(ConfigError, match="10080 steps"):
        plan(WalkOptions(trace=recording("v100"), start=10_080))
    with pytest.raises(ConfigError, match="No such file"):
        plan(WalkOptions(trace=Path("/nowhere.json")))


def test_times_that_depend_on_the_market_are_shortened_as_it_is() -> None:
    assert patience(1.0)["refusal_memory_s"] == 1800.0
    assert patience(10.0)["refusal_backoff_s"] == 3.0
    assert patience(1000.0)["refusal_memory_s"] == 4.0
    assert patience(1.0)["registration_timeout_s"] == patience(1000.0)["registration_timeout_s"]


# Zones of several clouds


def test_zones_are_dealt_out_to_the_clouds() -> None:
    zones = zones_of(SandboxConfig(clouds=CLOUDS, zones=5))
    assert [(zone.provider, zone.name, zone.region, zone.own_name, zone.instance_type) for zone in zones] == [
        ("aws", "us-east-1a", "us-east-1", "us-east-1a", "sim1.node"),
        ("gcp", "us-central1-a", "us-central1", "us-central1-a", "sim1-node"),
        ("azure", "eastus-1", "eastus", "1", "Standard_Sim1"),
        ("aws", "us-east-1b", "us-east-1", "us-east-1b", "sim1.node"),
        ("gcp", "us-central1-b", "us-central1", "us-central1-b", "sim1-node"),
    ]
    assert [zone.spot_usd_h for zone in zones] == [1.0, 1.1, 1.2, 1.3, 1.4]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_cloud_has_26_zones(cloud: Any) -> None:
    zones = zones_of(SandboxConfig(clouds=(cloud,), zones=26))
    assert len({zone.name for zone in zones}) == 26


def test_a_recording_keeps_its_names_in_its_own_cloud_only(tmp_path: Path) -> None:
    config = SandboxConfig(
        clouds=("gcp", "azure"), zones=2, trace=recording("h100"), trace_zones=("us-east4-b", "us-west1-b"), trace_start=3
    )
    zones = zones_of(config)
    assert [(zone.name, zone.recorded, zone.provider) for zone in zones] == [
        ("us-east4-b", "us-east4-b", "gcp"),
        ("eastus-1", "us-west1-b", "azure"),
    ]
    (tmp_path / "market.json").write_text(json.dumps(market_of(config, zones)))
    cloud = CloudConfig.model_validate(
        {
            "state_dir": tmp_path,
            "trace": {"path": tmp_path / "market.json", "speed": 600.0, "start_step": 3, "lead_s": 5.0},
            "instance_types": {zone.instance_type: {"vcpus": 1, "memory_mib": 1} for zone in zones},
            "instance_command": ["true"],
        }
    )
    market = build_market(cloud, now=1000.0)
    assert {name: zone.provider for name, zone in market.zones.items()} == {"us-east4-b": "gcp", "eastus-1": "azure"}
    pool = Pool("eastus-1", "Standard_Sim1", "spot")
    counts = read_trace(recording("h100")).pools["us-west1-b"].counts()[3:]
    assert [market.capacity(pool, 1000.0 + at) for at in (0.0, 5.9, 6.0, 7.0)] == [counts[0], counts[0], counts[1], counts[2]]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"clouds": ()}, "clouds must be"),
        ({"clouds": ("aws", "aws")}, "clouds must be"),
        ({"clouds": CLOUDS, "zones": 2}, "zones must be 3"),
    ],
)
def test_clouds_that_cannot_be(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        SandboxConfig(**settings)


# What is told

AWS = SandboxZone("us-east-1a", "us-east-1", 1.0, recorded="x")
AZURE = SandboxZone("eastus-1", "eastus", 1.2, provider="azure", recorded="y")
AWS_POOL, AZURE_POOL = "aws/us-east-1/us-east-1a/sim1.node/spot", "azure/eastus/1/Standard_Sim1/spot"


def launched(pool: str, instance: str = "", fault: str = "") -> dict[str, Any]:
    return {
        "launch_id": f"of-{instance}",
        "pool": pool,
        "instances": [{"instance_id": instance, "pool": pool}] if instance else [],
        "faults": [{"kind": "capacity", "code": fault}] if fault else [],
        "price_usd_h": 1.2,
        "on_demand_usd_h": 3.0,
    }


def job_view(state: str, restarts: int, *nodes: str, completing: bool = False) -> dict[str, Any]:
    return {"view": {"job_id": 1, "state": state, "restarts": restarts, "nodes": list(nodes), "completing": completing}}


def parked(node: str, step: int) -> dict[str, Any]:
    return {"node": node, "job_id": 1, "attempt": 0, "state": "parked", "saved_step": step}


NOTICE = {"node": "spot-1", "notice": {"id": "n", "deadline": 30.0, "received": 10.0, "reason": "Azure evicts the spot VM"}}
STORY: list[tuple[str, dict[str, Any]]] = [
    ("NodesRequested", {"nodes": ["spot-1"], "job_id": 1, "source": "hook"}),
    ("LaunchEnded", launched(AWS_POOL, fault="InsufficientInstanceCapacity") | {"price_usd_h": None}),
    ("Launch", {"command": {"launch_id": "of-i-1", "nodes": ["spot-1"]}}),
    ("LaunchEnded", launched(AZURE_POOL, "i-1")),
    ("BindInstance", {"command": {"node": "spot-1", "instance_id": "i-1"}}),
    ("JobChanged", job_view("CONFIGURING", 0, "spot-1")),
    ("JobChanged", job_view("RUNNING", 0, "spot-1")),
    ("JobChanged", job_view("RUNNING", 0, "spot-1")),
    ("NoticeReceived", NOTICE),
    ("NoticeReceived", NOTICE),
    ("PowerUpNode", {"command": {"node": "spot-2", "for_job": 1}}),
    ("PowerUpNode", {"command": {"node": "spot-2", "for_job": 1}}),
    ("JobReported", parked("spot-1", 59) | {"state": "saving"}),
    ("JobReported", parked("spot-1", 59)),
    ("JobReported", parked("spot-1", 59)),
    ("JobRequeued", {"job_id": 1, "attempt": 0}),
    ("JobRequeued", {"job_id": 7, "attempt": 0}),
    ("GiveUp", {"command": {"job_id": 1}}),
    ("JobChanged", job_view("RUNNING", 1, "spot-1")),
    ("JobChanged", job_view("COMPLETED", 1, "spot-1", completing=True)),
    ("JobChanged", job_view("COMPLETED", 1, "spot-1")),
    ("NobodyKnowsThis", {"view": 3}),
]


def test_the_story_of_a_job() -> None:
    narrator = Narrator([AWS, AZURE], 1)
    lines = [line for at, (kind, body) in enumerate(STORY) for line in narrator.lines(float(at), kind, body)]
    assert [(line.zone, line.what, line.text) for line in lines] == [
        ("", "requested", "Slurm asks for spot-1 for job 1"),
        ("aws us-east-1a", "refused", "refused at about 1.00 USD/h: no capacity (InsufficientInstanceCapacity)"),
        ("azure eastus-1", "bought", "bought spot-1 at 1.20 USD/h (on demand 3.00)"),
        ("azure eastus-1", "running", "running on spot-1 (attempt 0)"),
        ("azure eastus-1", "notice", "notice: spot-1 is taken back in 20 s (Azure evicts the spot VM)"),
        ("", "requested", "spot-2 is asked for ahead, while the job still saves"),
        ("azure eastus-1", "saved", "saved at step 59"),
        ("", "requeued", "job 1 is requeued after attempt 0"),
        ("", "waits", "no zone has room: the job waits, and is tried again"),
        ("azure eastus-1", "running", "running again on spot-1 (attempt 1)"),
        ("", "ended", "job 1 is COMPLETED"),
    ]
    assert narrator.ended == "COMPLETED"


# What is made of it


def entry(at: float, kind: str, body: dict[str, Any]) -> JournalEntry:
    return JournalEntry(seq=int(at * 10), at=at, kind=kind, text=kind, body=body)


def machine(instance: str, zone: str, requested: float, price: float) -> list[dict[str, Any]]:
    line = {"event": "requested", "t": requested, "instance_id": instance, "zone": zone, "price_usd_h": price, "client_token": "t"}
    return [line, {"event": "running", "t": requested + 1, "instance_id": instance}]


def mark(event: str, t: float, attempt: int, **keys: Any) -> dict[str, Any]:
    return {"event": event, "t": t, "attempt": attempt, **keys}


@pytest.fixture
def walked() -> Walked:
    """Reclaimed with notice in one cloud at step 40, an attempt of Slurm's counting that never began, done in another cloud."""
    run = JobRun(
        job_id=1,
        nodes=1,
        total_steps=100,
        every_steps=50,
        slurm={"JobState": "COMPLETED"},
        starts=[Start(102.0, 0, "spot-1"), Start(122.0, 2, "spot-2")],
        timeline=[
            mark("resumed", 102.5, 0, step=0),
            mark("parked", 110.0, 0, step=40),
            mark("resumed", 122.5, 2, step=40),
            mark("done", 130.0, 2, step=100),
        ],
        steps=[(0, 0, 39), (2, 40, 99)],
        outcome={"step": 100, "digest": "d"},
    )
    journal = [
        entry(101.5, "BindInstance", {"command": {"node": "spot-1", "instance_id": "i-1"}}),
        entry(101.9, "JobChanged", job_view("RUNNING", 0, "spot-1")),
        entry(109.5, "NoticeReceived", NOTICE),
        entry(121.0, "BindInstance", {"command": {"node": "spot-2", "instance_id": "i-2"}}),
        entry(121.9, "JobChanged", job_view("RUNNING", 2, "spot-2")),
    ]
    cloud = [
        *machine("i-1", "us-east-1a", 100.0, 36.0),
        {"event": "notice", "t": 109.4, "instance_id": "i-1"},
        {"event": "terminated", "t": 111.0, "instance_id": "i-1", "cost_usd": 0.1},
        *machine("i-2", "eastus-1", 119.0, 36.0),
        *machine("i-3", "eastus-1", 119.5, 36.0),
    ]
    return Walked(run=run, journal=journal, cloud=cloud, zones=[AWS, AZURE], ended=130.0, digest="d")


def test_the_attempts_and_their_costs(walked: Walked) -> None:
    first, last = attempts(walked)
    assert (first.number, first.zones, first.nodes, first.ended_by) == (0, ("aws us-east-1a",), ("spot-1",), "notice")
    assert (first.resumed, first.reached, first.lost, first.ran_s) == (0, 40, 0, 8.0)
    assert first.spot_usd == pytest.approx(0.1)
    assert first.on_demand_usd == pytest.approx(10 * 3.0 / 3600)
    assert (last.number, last.zones, last.ended_by, last.reached) == (2, ("azure eastus-1",), "finished", 100)
    # its own machine from 120 to 130, and the one that nobody used, from 120.5
    assert last.spot_usd == pytest.approx((10 + 9.5) * 0.01)
    assert failures(walked, [first, last]) == []
    said = table([first, last]) + verdict([first, last], [])
    assert "aws us-east-1a" in said
    assert "1 reclaims with notice, no step lost" in said
    told = result(walked, [first, last], [], {"speed": 2})
    assert (told["passed"], told["lost_steps"], told["market"]) == (True, 0, {"speed": 2})
    assert told["spot_usd"] == pytest.approx(0.295)
    assert json.loads(json.dumps(told)) == told


def lose_ten(walked: Walked) -> Walked:
    timeline = [line | {"step": 30} if line["event"] == "resumed" and line["attempt"] == 2 else line for line in walked.run.timeline]
    return replace(walked, run=replace(walked.run, timeline=timeline))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lose_ten, "attempt 0 had its notice, and 10 steps were lost"),
        (lambda walked: replace(walked, digest="another"), "not that of an undisturbed run"),
        (lambda walked: replace(walked, run=replace(walked.run, slurm={"JobState": "FAILED"})), "is FAILED instead of COMPLETED"),
        (lambda walked: replace(walked, trouble=["too slow"]), "too slow"),
        (lambda walked: replace(walked, leftovers=["7: sleep"]), "outlived the sandbox: 7: sleep"),
    ],
)
def test_a_broken_promise_is_told(walked: Walked, change: Callable[[Walked], Walked], told: str) -> None:
    changed = change(walked)
    seen = attempts(changed)
    broken = failures(changed, seen)
    assert len(broken) == 1
    assert told in broken[0]
    assert told in verdict(seen, broken)
    assert result(changed, seen, broken, {})["passed"] is False


def test_a_loss_without_notice_is_no_broken_promise(walked: Walked) -> None:
    cloud = [line | {"event": "killed"} if line["event"] == "notice" else line for line in walked.cloud]
    journal = [each for each in walked.journal if each.kind != "NoticeReceived"]
    changed = lose_ten(replace(walked, cloud=cloud, journal=journal))
    seen = attempts(changed)
    assert [(each.ended_by, each.lost) for each in seen] == [("loss", 10), ("finished", 0)]
    assert failures(changed, seen) == []


def test_a_walk_without_a_reclaim_says_so(walked: Walked) -> None:
    last = attempts(walked)[-1:]
    assert "took no machine back" in verdict(last, [])


def test_the_chain_depends_on_every_step() -> None:
    assert undisturbed(3) == undisturbed(3) != undisturbed(4)
