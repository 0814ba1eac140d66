"""The life of a machine: a real process tree that boots, is warned, and dies whole."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

pytestmark = pytest.mark.timeout(30)  # real processes on a machine that may be busy

A, B = "us-east-1a", "us-east-1b"
# A machine with a daemon that left its session and ignores every signal that can be ignored.
RESTLESS = [
    "/bin/sh",
    "-c",
    "trap '' TERM HUP INT; env > env.txt; setsid sh -c 'trap \"\" TERM HUP; sleep 1000 & wait' & echo up; wait",
]


def processes_of(state_dir: Path) -> list[int]:
    """Every process that has this cloud's directory in its environment."""
    mark = f"HOLDFAST_SANDBOX_INSTANCE_DIR={state_dir}/".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environ = path.read_bytes()
        except OSError:
            continue
        if mark in environ:
            found.append(int(path.parent.name))
    return found


def wait_until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def launch(cloud: Any, count: int = 1, zone: str = A, spot: bool = True, **more: Any) -> list[str]:
    market = {"InstanceMarketOptions": {"MarketType": "spot"}} if spot else {}
    place = {"Placement": {"AvailabilityZone": zone}}
    request = {"ImageId": "ami-1", "InstanceType": "sim1.small", "MinCount": count, "MaxCount": count}
    answer = cloud.ec2().run_instances(**(request | market | place | more))
    return [one["InstanceId"] for one in answer["Instances"]]


def described(cloud: Any, instance_id: str) -> dict[str, Any]:
    return dict(cloud.ec2().describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0])


def until(cloud: Any, instance_id: str, state: str) -> dict[str, Any]:
    return dict(cloud.control.wait_for(instance_id, lambda one: one["state"] == state, 8))


def events_of(cloud: Any, instance_id: str) -> list[str]:
    return [line["event"] for line in cloud.record() if line.get("instance_id") == instance_id]


def test_a_machine_boots_knows_who_it_is_and_dies_whole(start_cloud: Callable[..., Any]) -> None:
    cloud = start_cloud(instance_command=RESTLESS, instance_env={"EXTRA": "1"}, boot_delay_s=0.3)
    instance_id = launch(cloud)[0]
    assert described(cloud, instance_id)["State"]["Name"] == "pending"
    running = until(cloud, instance_id, "running")
    assert running["running"] - running["requested"] >= 0.3
    directory = cloud.state_dir / "instances" / instance_id
    wait_until(lambda: (directory / "stdout").exists() and (directory / "stdout").read_text() == "up\n")
    wait_until(lambda: len(processes_of(cloud.state_dir)) >= 4)  # unshare, init, the daemon, its sleep
    told = dict(line.split("=", 1) for line in (directory / "env.txt").read_text().splitlines() if "=" in line)
    assert told["HOLDFAST_SANDBOX_INSTANCE_ID"] == instance_id
    assert told["HOLDFAST_SANDBOX_METADATA_URL"] == f"{cloud.url}/imds/{instance_id}"
    assert told["HOLDFAST_SANDBOX_INSTANCE_DIR"] == str(directory)
    assert told["HOLDFAST_SANDBOX_INSTANCE_IP"] == described(cloud, instance_id)["PrivateIpAddress"]
    assert told["EXTRA"] == "1"
    answer = cloud.ec2().terminate_instances(InstanceIds=[instance_id])["TerminatingInstances"][0]
    assert answer["CurrentState"]["Name"] == "shutting-down"
    until(cloud, instance_id, "terminated")
    assert processes_of(cloud.state_dir) == []
    gone = described(cloud, instance_id)
    assert gone["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert "PrivateIpAddress" not in gone
    assert events_of(cloud, instance_id) == ["requested", "running", "terminating", "terminated"]


def test_a_notice_then_a_hard_end(cloud: Any) -> None:
    instance_id = launch(cloud)[0]
    until(cloud, instance_id, "running")
    reply = cloud.control.reclaim(instance_id, notice_s=0.6)
    assert reply["deadline"] - reply["notice"] == pytest.approx(0.6, abs=0.01)
    assert described(cloud, instance_id)["State"]["Name"] == "running"
    later = cloud.control.reclaim(instance_id, notice_s=60)  # a second notice cannot put it off
    assert later["deadline"] == reply["deadline"]
    gone = until(cloud, instance_id, "terminated")
    assert 0 <= gone["gone"] - reply["deadline"] < 0.5
    assert gone["reason"] == "Server.SpotInstanceTermination"
    assert gone["cost_usd"] == pytest.approx(0.9 * (gone["gone"] - gone["running"]) / 3600)
    assert described(cloud, instance_id)["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    assert events_of(cloud, instance_id) == ["requested", "running", "notice", "killed", "terminated"]


def test_a_withdrawn_notice(cloud: Any) -> None:
    instance_id = launch(cloud)[0]
    cloud.control.reclaim(instance_id, notice_s=0.3)
    cloud.control.cancel_reclaim(instance_id)
    time.sleep(0.4)
    one = cloud.control.instance(instance_id)
    assert (one["state"], one["notice"], one["deadline"]) == ("running", None, None)


def test_a_kill_without_notice(cloud: Any) -> None:
    instance_id = launch(cloud)[0]
    until(cloud, instance_id, "running")
    wait_until(lambda: len(processes_of(cloud.state_dir)) >= 2)
    cloud.control.kill(instance_id)
    until(cloud, instance_id, "terminated")
    assert processes_of(cloud.state_dir) == []


def test_a_machine_that_never_got_to_boot(cloud: Any) -> None:
    cloud.control.fail_boot(seconds=60, count=1)
    instance_id = launch(cloud)[0]
    cloud.control.kill(instance_id)
    gone = until(cloud, instance_id, "terminated")
    assert gone["running"] is None
    assert gone["cost_usd"] == 0


def test_a_dead_boot_runs_in_name_only(cloud: Any) -> None:
    cloud.control.fail_boot(zone=A, count=1)
    dead, sound = launch(cloud, 2)
    until(cloud, dead, "running")
    wait_until(lambda: cloud.control.instance(sound)["pid"] is not None)
    assert cloud.control.instance(dead)["pid"] is None
    cloud.ec2().terminate_instances(InstanceIds=[dead])
    until(cloud, dead, "terminated")


def test_a_machine_that_ends_by_itself_is_terminated(start_cloud: Callable[..., Any]) -> None:
    cloud = start_cloud(instance_command=["/bin/sh", "-c", "exit 3"], terminated_visible_s=0.3)
    instance_id = launch(cloud)[0]
    gone = until(cloud, instance_id, "terminated")
    assert gone["exit_status"] == 3
    assert gone["reason"] == "Client.InstanceInitiatedShutdown"
    wait_until(lambda: cloud.control.state()["now"] > gone["gone"] + 0.3)
    with pytest.raises(ClientError, match=r"InvalidInstanceID\.NotFound"):
        described(cloud, instance_id)


def test_a_zone_that_shrinks_takes_the_newest_back(cloud: Any) -> None:
    older, newer = launch(cloud, 1, B)[0], launch(cloud, 1, B)[0]
    cloud.control.set_zone(B, capacity=1, instance_type="sim1.small")
    try:
        assert cloud.control.instance(newer)["deadline"] is not None
        assert cloud.control.instance(older)["deadline"] is None
    finally:
        cloud.control.set_zone(B, capacity=4, instance_type="sim1.small")


def test_a_price_above_the_bid_takes_the_instance_back(cloud: Any) -> None:
    bid = {"InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": {"MaxPrice": "0.95"}}}
    outbid, unbounded = launch(cloud, **bid)[0], launch(cloud)[0]
    cloud.control.set_zone(A, price_usd_h=1.0, instance_type="sim1.small")
    try:
        assert cloud.control.instance(outbid)["deadline"] is not None
        assert cloud.control.instance(unbounded)["deadline"] is None
    finally:
        cloud.control.set_zone(A, price_usd_h=0.9, instance_type="sim1.small")


def test_capacity_comes_back_when_a_machine_is_gone(cloud: Any) -> None:
    ids = launch(cloud, 4)
    with pytest.raises(ClientError, match="InsufficientInstanceCapacity"):
        launch(cloud)
    cloud.ec2().terminate_instances(InstanceIds=ids[:1])
    until(cloud, ids[0], "terminated")
    assert len(launch(cloud)) == 1


def test_terminate_is_all_or_nothing_and_may_be_repeated(cloud: Any) -> None:
    instance_id = launch(cloud)[0]
    with pytest.raises(ClientError, match=r"InvalidInstanceID\.NotFound"):
        cloud.ec2().terminate_instances(InstanceIds=[instance_id, "i-0123456789abcdef0"])
    assert cloud.control.instance(instance_id)["terminating"] is None
    cloud.ec2().terminate_instances(InstanceIds=[instance_id, instance_id])
    until(cloud, instance_id, "terminated")
    again = cloud.ec2().terminate_instances(InstanceIds=[instance_id])["TerminatingInstances"]
    assert again[0]["PreviousState"]["Name"] == "terminated"


def test_a_recorded_market_runs_by_itself(start_cloud: Callable[..., Any], tmp_path: Path) -> None:
    pool = {"region": "us-east-1", "on_demand_usd_h": 3.0, "spot_usd_h_runs": [[1, 1.0], [9, 1.5]], "available": "100"}
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps({"instance": "sim1.small", "step_s": 150, "pools": {A: pool}}))
    settings = {"zones": [], "trace": {"path": str(trace), "speed": 100, "instances_per_unit": 2}, "notice_s": 0.2}
    cloud = start_cloud(**settings)
    ids = launch(cloud, 2)
    for instance_id in ids:
        gone = until(cloud, instance_id, "terminated")
        assert gone["reason"] == "Server.SpotInstanceTermination"
        assert gone["deadline"] - gone["notice"] == pytest.approx(0.2, abs=0.01)
    with pytest.raises(ClientError, match="InsufficientInstanceCapacity"):
        launch(cloud)
    changes = [line for line in cloud.record() if line["event"] == "market"]
    assert [line.get("capacity", line.get("price_usd_h")) for line in changes] == [0, 1.5]


@pytest.mark.parametrize("booted", [True, False])
def test_nothing_outlives_a_cloud_that_is_killed(start_cloud: Callable[..., Any], booted: bool) -> None:
    cloud = start_cloud(instance_command=RESTLESS, boot_delay_s=0.0)
    ids = launch(cloud, 4) + launch(cloud, 4, B)
    if booted:
        for instance_id in ids:
            until(cloud, instance_id, "running")
        wait_until(lambda: len(processes_of(cloud.state_dir)) >= 4 * len(ids))
    os.kill(cloud.process.pid, signal.SIGKILL)
    cloud.process.wait()
    wait_until(lambda: processes_of(cloud.state_dir) == [])


def test_an_orderly_stop_leaves_nothing_and_says_so(start_cloud: Callable[..., Any]) -> None:
    cloud = start_cloud(instance_command=RESTLESS)
    instance_id = launch(cloud)[0]
    until(cloud, instance_id, "running")
    cloud.process.terminate()
    assert cloud.process.wait(10) == 0
    assert processes_of(cloud.state_dir) == []
    assert not (cloud.state_dir / "cloud.ready.json").exists()
    assert [line["event"] for line in cloud.record()][-2:] == ["terminated", "stopped"]
