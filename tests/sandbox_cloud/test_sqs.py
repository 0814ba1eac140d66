"""The SQS endpoint with real boto3: EventBridge's events of what happens to instances, visibility, long polls, errors."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

pytestmark = pytest.mark.timeout(60)

SMALL = {"ImageId": "ami-1", "InstanceType": "sim1.small", "MinCount": 1, "MaxCount": 1}
SPOT = SMALL | {"InstanceMarketOptions": {"MarketType": "spot"}}
WARNING = "EC2 Spot Instance Interruption Warning"
STATE_CHANGE = "EC2 Instance State-change Notification"


@pytest.fixture
def sqs(cloud: Any) -> Iterator[Any]:
    client = sqs_of(cloud, "us-east-1")
    yield client
    client.close()


def sqs_of(cloud: Any, region: str) -> Any:
    config = Config(retries={"total_max_attempts": 1}, read_timeout=10, proxies={})
    keys = {"aws_access_key_id": "sandbox", "aws_secret_access_key": "sandbox"}
    return boto3.client("sqs", endpoint_url=cloud.url, region_name=region, config=config, **keys)


@pytest.fixture
def events(sqs: Any) -> str:
    """The address of the queue that all events come to, emptied."""
    url = str(sqs.get_queue_url(QueueName="holdfast-events")["QueueUrl"])
    read(sqs, url)
    return url


@pytest.fixture
def queue(sqs: Any, request: pytest.FixtureRequest) -> str:
    name = f"q-{abs(hash(request.node.name))}"
    return str(sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "1"})["QueueUrl"])


def read(sqs: Any, url: str) -> list[dict[str, Any]]:
    """All that is in the queue now, and no longer afterwards."""
    found: list[dict[str, Any]] = []
    while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
        found.extend(json.loads(message["Body"]) if message["Body"].startswith("{") else {} for message in messages)
        entries = [{"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]} for number, message in enumerate(messages)]
        assert sqs.delete_message_batch(QueueUrl=url, Entries=entries).get("Failed", []) == []
    return found


def read_until(sqs: Any, url: str, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    end = time.monotonic() + 10
    while len(found) < count:
        assert time.monotonic() < end, found
        found.extend(read(sqs, url))
    return found


def test_a_life_in_events(cloud: Any, sqs: Any, events: str) -> None:
    instance_id = cloud.ec2().run_instances(**SPOT)["Instances"][0]["InstanceId"]
    cloud.control.wait_for(instance_id, lambda one: one["state"] == "running", 5)
    deadline = cloud.control.reclaim(instance_id, notice_s=110.0)["deadline"]
    cloud.ec2().terminate_instances(InstanceIds=[instance_id])
    cloud.control.wait_for(instance_id, lambda one: one["gone"] is not None, 5)
    told = read_until(sqs, events, 5)
    assert {event["detail"]["instance-id"] for event in told} == {instance_id}
    assert [event["detail"].get("state") for event in told] == ["pending", "running", None, "shutting-down", "terminated"]
    warning = told[2]
    assert warning["detail-type"] == WARNING
    assert warning["detail"] == {"instance-id": instance_id, "instance-action": "terminate"}
    assert (warning["source"], warning["region"], warning["version"]) == ("aws.ec2", "us-east-1", "0")
    assert warning["resources"] == [f"arn:aws:ec2:us-east-1:000000000000:instance/{instance_id}"]
    at = time.mktime(time.strptime(warning["time"], "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
    assert 0 <= deadline - 120 - at < 1, "EC2 warns two minutes ahead, by its own clock"
    assert len({event["id"] for event in told}) == 5


def test_each_region_has_its_own_events(cloud: Any, sqs: Any, events: str) -> None:
    instance_id = cloud.ec2("us-west-2").run_instances(**SMALL)["Instances"][0]["InstanceId"]
    west = sqs_of(cloud, "us-west-2")
    url = west.get_queue_url(QueueName="holdfast-events")["QueueUrl"]
    (pending, *_) = read_until(west, url, 1)
    assert (pending["detail-type"], pending["region"], pending["detail"]["instance-id"]) == (STATE_CHANGE, "us-west-2", instance_id)
    assert read(sqs, events) == []
    west.close()


def test_received_is_hidden_until_its_time_or_deleted(sqs: Any, queue: str) -> None:
    sent = sqs.send_message(QueueUrl=queue, MessageBody="one")["MessageId"]
    (first,) = sqs.receive_message(QueueUrl=queue)["Messages"]
    assert (first["MessageId"], first["Body"]) == (sent, "one")
    assert "Messages" not in sqs.receive_message(QueueUrl=queue)
    (again,) = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5)["Messages"]
    assert again["MessageId"] == sent
    assert again["ReceiptHandle"] != first["ReceiptHandle"]
    for receipt in (again["ReceiptHandle"], first["ReceiptHandle"]):
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=receipt)
    assert "Messages" not in sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=2)


def test_a_long_poll_ends_with_the_first_message(sqs: Any, queue: str) -> None:
    timer = threading.Timer(0.3, lambda: sqs.send_message(QueueUrl=queue, MessageBody="late"))
    begun = time.monotonic()
    timer.start()
    (message,) = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=8)["Messages"]
    timer.join()
    assert message["Body"] == "late"
    assert time.monotonic() - begun < 5


def test_a_batch_is_at_most_ten(sqs: Any, queue: str) -> None:
    for number in range(12):
        sqs.send_message(QueueUrl=queue, MessageBody=str(number))
    first = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    rest = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    assert [message["Body"] for message in first + rest] == [str(number) for number in range(12)]
    entries = [{"Id": "a", "ReceiptHandle": first[0]["ReceiptHandle"]}, {"Id": "b", "ReceiptHandle": "nonsense"}]
    answer = sqs.delete_message_batch(QueueUrl=queue, Entries=entries)
    assert [one["Id"] for one in answer["Successful"]] == ["a"]
    assert [(one["Id"], one["Code"]) for one in answer["Failed"]] == [("b", "ReceiptHandleIsInvalid")]


@pytest.mark.parametrize(
    ("call", "parameters", "code"),
    [
        ("get_queue_url", {"QueueName": "nowhere"}, "AWS.SimpleQueueService.NonExistentQueue"),
        ("receive_message", {"QueueUrl": "http://x/000000000000/nowhere"}, "AWS.SimpleQueueService.NonExistentQueue"),
        ("receive_message", {"QueueUrl": "{queue}", "MaxNumberOfMessages": 11}, "InvalidParameterValue"),
        ("receive_message", {"QueueUrl": "{queue}", "WaitTimeSeconds": 21}, "InvalidParameterValue"),
        ("receive_message", {"QueueUrl": "{queue}", "MessageAttributeNames": ["All"]}, "InvalidParameterValue"),
        ("delete_message", {"QueueUrl": "{queue}", "ReceiptHandle": "nonsense"}, "ReceiptHandleIsInvalid"),
        ("create_queue", {"QueueName": "x", "Attributes": {"VisibilityTimeout": "-1"}}, "InvalidAttributeValue"),
        ("create_queue", {"QueueName": "a/b"}, "InvalidParameterValue"),
        ("purge_queue", {"QueueUrl": "{queue}"}, "InvalidAction"),
    ],
)
def test_what_makes_no_sense_is_refused(sqs: Any, queue: str, call: str, parameters: dict[str, Any], code: str) -> None:
    given = {key: queue if value == "{queue}" else value for key, value in parameters.items()}
    with pytest.raises(ClientError) as caught:
        getattr(sqs, call)(**given)
    assert caught.value.response["Error"]["Code"] == code


def test_faults_on_demand(cloud: Any, sqs: Any, queue: str) -> None:
    cloud.control.fail(action="SendMessage", mode="500", when="after", count=1)
    with pytest.raises(ClientError) as caught:
        sqs.send_message(QueueUrl=queue, MessageBody="lost")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert [message["Body"] for message in sqs.receive_message(QueueUrl=queue)["Messages"]] == ["lost"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"QueueUrl": 7}', b"\xff"])
def test_unsigned_or_unreadable_requests_are_answered(cloud: Any, body: bytes) -> None:
    scope = "AWS4-HMAC-SHA256 Credential=x/20261124/us-east-1/sqs/aws4_request"
    for headers, status in (({}, 403), ({"Authorization": scope}, 400)):
        request = urllib.request.Request(f"{cloud.url}/", body, {"X-Amz-Target": "AmazonSQS.ReceiveMessage"} | headers)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=5)
        with caught.value:
            assert caught.value.code == status
