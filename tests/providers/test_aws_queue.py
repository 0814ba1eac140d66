"""Interruption warnings through a real boto3 out of SQS: the sandbox's, moto's, and one that says what it is told."""

import asyncio
import json
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
from botocore.config import Config
from holdfast_common.clock import VirtualClock
from holdfast_controller.providers.aws import AwsProvider
from holdfast_controller.providers.base import PartialAnswerError, ProviderError

pytestmark = pytest.mark.timeout(90)

REGION = "us-east-1"
STRANGER = "i-0feedfeedfeedfeed"


def sqs_of(url):
    config = Config(retries={"total_max_attempts": 1}, read_timeout=10, proxies={})
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client("sqs", region_name=REGION, endpoint_url=url, config=config, **keys)


@pytest.fixture
def sqs(bed):
    client = sqs_of(bed.url)
    yield client
    client.close()


@pytest.fixture
def queue(bed, sqs):
    """An empty queue; the sandbox's gets all that happens to instances, moto's only what a test sends."""
    if bed.name == "moto":
        return sqs.create_queue(QueueName="warnings", Attributes={"VisibilityTimeout": "1"})["QueueUrl"]
    url = sqs.get_queue_url(QueueName="holdfast-events")["QueueUrl"]
    while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
        for message in messages:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return url


@pytest.fixture
async def provider(bed, queue, config_of):
    made = AwsProvider(config_of(bed.url, queue_urls={REGION: queue}, images={REGION: "ami-12c6146b"}))
    yield made
    await made.close()


def warning(instance_id, at=None):
    moment = datetime.fromtimestamp(int(time.time() if at is None else at), UTC).isoformat().replace("+00:00", "Z")
    return json.dumps(
        {
            "version": "0",
            "id": "7bf73129-1428-4cd3-a780-95db273d1602",
            "detail-type": "EC2 Spot Instance Interruption Warning",
            "source": "aws.ec2",
            "account": "123456789012",
            "time": moment,
            "region": REGION,
            "resources": [f"arn:aws:ec2:{REGION}:123456789012:instance/{instance_id}"],
            "detail": {"instance-id": instance_id, "instance-action": "terminate"},
        }
    )


def ids(reclaims):
    return {each.instance_id for each in reclaims}


SANDBOX = pytest.mark.parametrize("bed", ["sandbox"], indirect=True)
MOTO = pytest.mark.parametrize("bed", ["moto"], indirect=True)


@SANDBOX
async def test_queue_and_list_say_the_same_once(bed, provider, request_of):
    told = sorted(each.instance_id for each in (await provider.launch(request_of(bed.spot, "queue-1"))).instances)[0]
    assert await provider.reclaims() == (), "states are no reclaims"
    before = time.time()
    bed.announce(told, 100.0)
    (reclaim,) = await provider.reclaims()
    assert (reclaim.instance_id, abs(reclaim.deadline - before - 100) < 5) == (told, True)
    (again,) = await provider.reclaims()
    assert again == reclaim, "it stands although its message has been taken out"
    bed.spare(told)
    assert await provider.reclaims() == ()


@SANDBOX
async def test_warning_is_told_though_the_list_fails(bed, provider, request_of):
    told = (await provider.launch(request_of(bed.spot, "queue-2", 1))).instances[0].instance_id
    bed.announce(told, 100.0)
    bed.control.fail(action="DescribeSpotInstanceRequests", mode="500", count=2)
    for _ in range(2):
        with pytest.raises(PartialAnswerError) as raised:
            await provider.reclaims()
        assert ids(raised.value.reclaims) == {told}
    assert ids(await provider.reclaims()) == {told}


@SANDBOX
async def test_queue_that_fails_takes_nothing_from_the_list_and_is_read_later(bed, provider, request_of, sqs, queue, caplog):
    told = (await provider.launch(request_of(bed.spot, "queue-3", 1))).instances[0].instance_id
    bed.control.fail(action="ReceiveMessage", mode="error", code="AccessDenied", count=3)
    bed.announce(told, 100.0)
    sqs.send_message(QueueUrl=queue, MessageBody=warning(STRANGER))
    for _ in range(2):
        assert ids(await provider.reclaims()) == {told}
    assert len([each for each in caplog.records if "cannot be read" in each.message]) == 1, "it is said once"
    bed.spare(told)
    assert await provider.reclaims() == (), "what is spared is withdrawn although the queue is still broken"
    assert ids(await provider.reclaims()) >= {STRANGER}
    assert [each.message for each in caplog.records][-1].endswith("is read again")


@SANDBOX
async def test_nothing_answers(bed, provider):
    for action in ("DescribeSpotInstanceRequests", "ReceiveMessage"):
        bed.control.fail(action=action, mode="500", count=1)
    with pytest.raises(ProviderError) as raised:
        await provider.reclaims()
    assert not isinstance(raised.value, PartialAnswerError)


@SANDBOX
async def test_message_that_could_not_be_deleted_comes_again_and_changes_nothing(bed, provider, sqs, queue):
    bed.control.fail(action="DeleteMessageBatch", mode="500", count=1)
    sqs.send_message(QueueUrl=queue, MessageBody=warning(STRANGER))
    (first,) = await provider.reclaims()
    assert await provider.reclaims() == (first,)


@SANDBOX
async def test_end_of_an_instance_ends_its_warning(bed, provider, request_of, sqs, queue):
    told = (await provider.launch(request_of(bed.spot, "queue-5", 1))).instances[0].instance_id
    sqs.send_message(QueueUrl=queue, MessageBody=warning(told))
    assert ids(await provider.reclaims()) == {told}
    await provider.terminate([told])

    async def over():
        return await provider.reclaims() == ()

    await bed.until(over)


@SANDBOX
async def test_listed_as_gone_ends_a_warning_without_any_event(bed, provider, request_of, sqs, queue):
    told = (await provider.launch(request_of(bed.spot, "queue-6", 1))).instances[0].instance_id
    await provider.terminate([told])

    async def gone():
        return all(each.state == "gone" for each in await provider.instances() if each.instance_id == told)

    await bed.until(gone)
    await provider.reclaims()  # the queue is empty
    sqs.send_message(QueueUrl=queue, MessageBody=warning(told))
    assert ids(await provider.reclaims()) == {told}
    await provider.instances()
    assert await provider.reclaims() == ()


@MOTO
async def test_moto_agrees_on_the_calls(bed, provider, sqs, queue):
    for number in range(25):
        sqs.send_message(QueueUrl=queue, MessageBody=warning(f"i-{number:017x}"))
    sqs.send_message(QueueUrl=queue, MessageBody="nonsense")
    assert ids(await provider.reclaims()) == {f"i-{number:017x}" for number in range(25)}
    await asyncio.sleep(1.1)
    assert "Messages" not in sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=1), "all were deleted, the nonsense as well"
    assert len(await provider.reclaims()) == 25


@MOTO
async def test_queue_that_is_not_there_is_an_admins_matter(bed, config_of, caplog):
    provider = AwsProvider(config_of(bed.url, queue_urls={REGION: f"{bed.url}/123456789012/nowhere"}))
    assert await provider.reclaims() == ()
    assert "cannot be read" in caplog.text
    await provider.close()


class EndlessQueue:
    """A queue that never ends, and never answers the same twice."""

    def __init__(self):
        self.receives = 0
        queue = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                reply = {"Successful": [], "Failed": []}
                if self.headers["X-Amz-Target"].endswith("ReceiveMessage"):
                    queue.receives += 1
                    body = warning(f"i-{queue.receives:017x}")
                    reply = {"Messages": [{"MessageId": "1", "ReceiptHandle": "r", "Body": body}]}
                text = json.dumps(reply).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-amz-json-1.0")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/123456789012/endless"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def stop(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


async def test_a_look_has_an_end(ec2, config_of):
    endless = EndlessQueue()
    ec2.say("DescribeSpotInstanceRequests", "<R/>")
    provider = AwsProvider(config_of(ec2.url, queue_urls={REGION: endless.url}))
    try:
        assert len(await provider.reclaims()) == 20
        assert endless.receives == 20
    finally:
        await provider.close()
        endless.stop()


async def test_queue_is_read_though_nobody_asks_for_reclaims(ec2, config_of):
    endless, clock = EndlessQueue(), VirtualClock()
    ec2.say("DescribeInstances", "<R/>")
    provider = AwsProvider(config_of(ec2.url, queue_urls={REGION: endless.url}), clock=clock)
    try:
        await provider.instances()
        assert endless.receives == 0
        await clock.advance(60)
        await provider.instances()
        for _ in range(500):
            if endless.receives == 20:
                break
            await asyncio.sleep(0.01)
        await provider.instances()
        assert endless.receives == 20
    finally:
        await provider.close()
        endless.stop()
