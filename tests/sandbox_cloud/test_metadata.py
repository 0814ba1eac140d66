"""The metadata service answers as EC2's does: tokens first, 404 while there is nothing to say."""

import json
import time
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.timeout(30)  # real processes on a machine that may be busy

TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"


class Imds:
    """A machine's view of its metadata."""

    def __init__(self, url: str, instance_id: str) -> None:
        self._netloc = urlsplit(url).netloc
        self._base = f"/imds/{instance_id}/latest/"

    def call(self, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        connection = HTTPConnection(self._netloc, timeout=5)
        try:
            connection.request(method, self._base + path, headers=headers or {})
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        finally:
            connection.close()

    def token(self, ttl_s: int = 60) -> str:
        status, text = self.call("PUT", "api/token", {TTL: str(ttl_s)})
        assert status == 200
        return text

    def get(self, path: str) -> tuple[int, str]:
        return self.call("GET", path, {TOKEN: self.token()})

    def value(self, path: str) -> str:
        status, text = self.get(path)
        assert status == 200, path
        return text


@pytest.fixture
def machine(cloud: Any, template: str) -> tuple[str, Imds]:
    answer = cloud.ec2().run_instances(
        LaunchTemplate={"LaunchTemplateName": template},
        InstanceType="sim1.small",
        Placement={"AvailabilityZone": "us-east-1b"},
        InstanceMarketOptions={"MarketType": "spot"},
        MinCount=1,
        MaxCount=1,
    )
    instance_id = answer["Instances"][0]["InstanceId"]
    return instance_id, Imds(cloud.url, instance_id)


def test_no_token_no_answer(machine: tuple[str, Imds]) -> None:
    _, imds = machine
    assert imds.call("GET", "meta-data/instance-id")[0] == 401
    assert imds.call("GET", "meta-data/instance-id", {TOKEN: "made-up"})[0] == 401
    assert imds.call("PUT", "api/token")[0] == 400
    for ttl in ("0", "21601", "soon", "-1", "9" * 30):
        assert imds.call("PUT", "api/token", {TTL: ttl})[0] == 400
    assert imds.call("GET", "api/token", {TTL: "60"})[0] == 405
    assert imds.call("PUT", "api/token", {TTL: "60", "X-Forwarded-For": "10.0.0.1"})[0] == 403
    assert imds.call("POST", "meta-data/instance-id", {TOKEN: imds.token()})[0] == 405


def test_a_token_expires_and_belongs_to_its_machine(cloud: Any, machine: tuple[str, Imds]) -> None:
    _, imds = machine
    short = imds.token(1)
    assert imds.call("GET", "meta-data/instance-id", {TOKEN: short})[0] == 200
    other = cloud.ec2().run_instances(ImageId="ami-1", InstanceType="sim1.small", MinCount=1, MaxCount=1)
    stranger = Imds(cloud.url, other["Instances"][0]["InstanceId"])
    assert stranger.call("GET", "meta-data/instance-id", {TOKEN: short})[0] == 401
    time.sleep(1.05)
    assert imds.call("GET", "meta-data/instance-id", {TOKEN: short})[0] == 401


def test_what_a_machine_is_told(machine: tuple[str, Imds]) -> None:
    instance_id, imds = machine
    assert imds.value("meta-data/instance-id") == instance_id
    assert imds.value("meta-data/instance-type") == "sim1.small"
    assert imds.value("meta-data/instance-life-cycle") == "spot"
    assert imds.value("meta-data/placement/availability-zone") == "us-east-1b"
    assert imds.value("meta-data/placement/region") == "us-east-1"
    assert imds.value("meta-data/local-ipv4").startswith("127.77.")
    assert imds.value("meta-data/tags/instance/from") == "template"
    assert imds.value("user-data") == "hello"
    document = json.loads(imds.value("dynamic/instance-identity/document"))
    assert (document["instanceId"], document["region"]) == (instance_id, "us-east-1")
    assert "placement/" in imds.value("meta-data/").split("\n")
    assert json.loads(imds.value("meta-data/events/maintenance/scheduled")) == []
    assert imds.get("meta-data/no/such/thing")[0] == 404


def test_nothing_to_say_is_404_and_a_notice_is_not(cloud: Any, machine: tuple[str, Imds]) -> None:
    instance_id, imds = machine
    paths = ["meta-data/spot/instance-action", "meta-data/spot/termination-time"]
    paths.append("meta-data/events/recommendations/rebalance")
    assert [imds.get(path)[0] for path in paths] == [404, 404, 404]
    deadline = cloud.control.reclaim(instance_id, notice_s=120)["deadline"]
    action = json.loads(imds.value(paths[0]))
    assert action["action"] == "terminate"
    assert datetime.strptime(action["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp() == int(deadline)
    assert imds.value(paths[1]) == action["time"]
    cloud.control.rebalance(instance_id)
    assert "noticeTime" in json.loads(imds.value(paths[2]))
    cloud.control.maintenance(instance_id, [{"Code": "system-reboot", "State": "active"}])
    assert json.loads(imds.value("meta-data/events/maintenance/scheduled"))[0]["Code"] == "system-reboot"
    cloud.control.cancel_reclaim(instance_id)
    assert imds.get(paths[0])[0] == 404


def test_tags_show_only_where_the_launch_asked_for_it(cloud: Any) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "k", "Value": "v"}]}]
    answer = cloud.ec2().run_instances(ImageId="ami-1", InstanceType="sim1.small", MinCount=1, MaxCount=1, TagSpecifications=tags)
    imds = Imds(cloud.url, answer["Instances"][0]["InstanceId"])
    assert imds.get("meta-data/tags/instance/k")[0] == 404
    assert imds.value("meta-data/instance-life-cycle") == "on-demand"
    assert imds.get("user-data")[0] == 404


def test_version_1_where_the_launch_allows_it_and_no_service_where_it_forbids_it(cloud: Any) -> None:
    for options, status in (({"HttpTokens": "optional"}, 200), ({"HttpEndpoint": "disabled"}, 403)):
        answer = cloud.ec2().run_instances(ImageId="ami-1", InstanceType="sim1.small", MinCount=1, MaxCount=1, MetadataOptions=options)
        imds = Imds(cloud.url, answer["Instances"][0]["InstanceId"])
        assert imds.call("GET", "meta-data/instance-id")[0] == status


def test_a_service_gone_bad(cloud: Any, machine: tuple[str, Imds]) -> None:
    instance_id, imds = machine
    path = "meta-data/spot/instance-action"
    cloud.control.reclaim(instance_id, notice_s=60)
    cloud.control.fail_metadata(prefix="meta-data/spot", mode="malformed", count=1)
    with pytest.raises(json.JSONDecodeError):
        json.loads(imds.value(path))
    assert imds.get(path)[0] == 200
    cloud.control.fail_metadata(instance_id=instance_id, mode="500", count=1)
    assert imds.call("PUT", "api/token", {TTL: "60"})[0] == 500
    token = imds.token()
    cloud.control.fail_metadata(mode="slow", seconds=0.2, count=1)
    before = time.monotonic()
    assert imds.call("GET", path, {TOKEN: token})[0] == 200
    assert time.monotonic() - before >= 0.2
    cloud.control.fail_metadata(mode="hang", seconds=0.05, count=1)
    with pytest.raises((HTTPException, OSError)):
        imds.call("GET", path, {TOKEN: token})


@pytest.fixture
def stranger(cloud: Any) -> Imds:
    return Imds(cloud.url, "i-0123456789abcdef0")


def test_no_machine_no_metadata(cloud: Any, machine: tuple[str, Imds], stranger: Imds) -> None:
    instance_id, imds = machine
    assert stranger.call("PUT", "api/token", {TTL: "60"})[0] == 404
    cloud.control.kill(instance_id)
    cloud.control.wait_for(instance_id, lambda one: one["gone"] is not None, 5)
    assert imds.call("PUT", "api/token", {TTL: "60"})[0] == 404
