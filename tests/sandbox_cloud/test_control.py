"""The control API is strict, and its faults reach boto3 as EC2's would."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError, HTTPClientError
from holdfast_sandbox.cloud_control import CloudControl, CloudControlError
from holdfast_sandbox.record import Record, read_record

pytestmark = pytest.mark.timeout(30)  # real processes on a machine that may be busy


def post(url: str, body: bytes) -> tuple[int, str]:
    try:
        with urlopen(Request(url, body)) as reply:
            return reply.status, reply.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def launch(cloud: Any, count: int = 1, tag: str = "n1") -> list[str]:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "node", "Value": tag}]}]
    answer = cloud.ec2().run_instances(ImageId="ami-1", InstanceType="sim1.small", MinCount=count, MaxCount=count, TagSpecifications=tags)
    return [one["InstanceId"] for one in answer["Instances"]]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("reclaim", {}, 400),
        ("reclaim", {"instance_id": "i-1", "tag": {"key": "a", "value": "b"}}, 400),
        ("reclaim", {"instance_id": "i-1", "notice_s": -1}, 400),
        ("reclaim", {"instance_id": "i-1", "notice_s": "5"}, 400),
        ("reclaim", {"instance_id": "i-1", "when": "now"}, 400),
        ("reclaim", {"instance_id": "i-1"}, 404),
        ("refuse", {"count": 0}, 400),
        ("fail", {"mode": "explode"}, 400),
        ("zones/us-east-1a", {"capacity": 1.5}, 400),
        ("zones/mars-1a", {"capacity": 1}, 404),
        ("zones/us-east-1a", {"capacity": 1, "instance_type": "p99.huge"}, 404),
        ("no-such-thing", {}, 404),
    ],
)
def test_a_wrong_request_is_refused(cloud: Any, path: str, body: dict[str, Any], status: int) -> None:
    assert post(f"{cloud.url}/control/{path}", json.dumps(body).encode())[0] == status


def test_text_that_is_no_json_is_refused(cloud: Any) -> None:
    assert post(f"{cloud.url}/control/reclaim", b"{")[0] == 400


def test_an_instance_may_be_named_by_its_tag(cloud: Any) -> None:
    instance_id = launch(cloud, tag="n7")[0]
    assert cloud.control.reclaim(tag=("node", "n7"), notice_s=60)["instance_id"] == instance_id
    launch(cloud, tag="n7")
    with pytest.raises(CloudControlError) as caught:
        cloud.control.kill(tag=("node", "n7"))
    assert caught.value.status == 409


def test_what_is_gone_cannot_be_taken_again(cloud: Any) -> None:
    instance_id = launch(cloud)[0]
    with pytest.raises(CloudControlError) as caught:
        cloud.control.cancel_reclaim(instance_id)
    assert caught.value.status == 409
    cloud.control.kill(instance_id)
    cloud.control.wait_for(instance_id, lambda one: one["gone"] is not None, 5)
    with pytest.raises(CloudControlError) as caught:
        cloud.control.reclaim(instance_id)
    assert caught.value.status == 409


def test_the_state_tells_pools_times_and_prices(cloud: Any) -> None:
    instance_id = launch(cloud)[0]
    cloud.control.set_zone("us-east-1b", price_usd_h=0.6, instance_type="sim1.small")
    try:
        state = cloud.control.state()
        pool = next(
            one for one in state["pools"] if (one["zone"], one["instance_type"], one["lifecycle"]) == ("us-east-1b", "sim1.small", "spot")
        )
        assert (pool["capacity"], pool["price_usd_h"]) == (4, 0.6)
    finally:
        cloud.control.set_zone("us-east-1b", price_usd_h=0.5, instance_type="sim1.small")
    one = cloud.control.instance(instance_id)
    assert one["lifecycle"] == "on_demand"
    assert one["price_at_launch_usd_h"] == 10.0
    assert [point["usd_h"] for point in one["price_history"]] == [10.0]
    assert one["tags"] == {"node": "n1"}
    assert one["client_token"]
    assert Path(state["record"]) == cloud.state_dir / "cloud.jsonl"


def test_throttling_lasts_as_many_calls_as_asked(cloud: Any) -> None:
    cloud.control.throttle(action="DescribeInstances", count=2)
    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            cloud.ec2().describe_instances()
        assert caught.value.response["Error"]["Code"] == "RequestLimitExceeded"
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
        cloud.ec2().describe_subnets()
    cloud.ec2().describe_instances()


def test_failures_of_every_kind(cloud: Any) -> None:
    client = cloud.ec2()
    cloud.control.fail(action="DescribeSubnets", mode="error", code="UnauthorizedOperation", count=1)
    with pytest.raises(ClientError) as caught:
        client.describe_subnets()
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    cloud.control.fail(mode="slow", seconds=0.2, count=1)
    before = time.monotonic()
    client.describe_subnets()
    assert time.monotonic() - before >= 0.2
    cloud.control.fail(mode="hang", seconds=0.05, count=1)
    with pytest.raises((ConnectionClosedError, EndpointConnectionError, HTTPClientError)):
        client.describe_subnets()
    cloud.control.fail()
    with pytest.raises(ClientError, match="InternalError"):
        client.describe_subnets()
    cloud.control.clear()
    client.describe_subnets()


def test_errors_of_ec2_itself(cloud: Any) -> None:
    client = cloud.ec2()
    with pytest.raises(ClientError) as caught:
        client.describe_instances(DryRun=True)
    assert caught.value.response["Error"]["Code"] == "DryRunOperation"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    with pytest.raises(ClientError, match="InvalidAction"):
        client.describe_vpcs()
    form = urlencode({"Action": "DescribeInstances", "Version": "2016-11-15"}).encode()
    status, text = post(f"{cloud.url}/", form)
    assert status == 400
    assert "<Code>MissingParameter</Code>" in text


def test_a_cloud_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CloudControlError, match="does not answer"):
        CloudControl("http://127.0.0.1:1").state()
    with pytest.raises(FileNotFoundError):
        CloudControl.from_ready_file(tmp_path / "cloud.ready.json")


def test_two_clouds_cannot_share_a_directory(cloud: Any) -> None:
    config = cloud.state_dir.with_suffix(".json")
    command = [sys.executable, "-m", "holdfast_sandbox.cloud", "--config", str(config)]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert "could not run" in second.stderr
    assert cloud.control.state()["zones"]


def test_a_bad_configuration_is_told(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"zones": []}')
    command = [sys.executable, "-m", "holdfast_sandbox.cloud", "--config", str(config)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "instance_command" in refused.stderr


def test_a_record_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    record = Record(tmp_path / "r.jsonl", lambda: 5.0)
    record.write("one", zone="z")
    with (tmp_path / "r.jsonl").open("a") as file:
        file.write('{"t":')
    record.close()
    assert read_record(tmp_path / "r.jsonl") == [{"t": 5.0, "event": "one", "zone": "z"}]
