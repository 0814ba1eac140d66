"""Messages out of SQS: received, taken in, and only then deleted, so that a crash between brings them again."""

from collections.abc import Callable
from urllib.parse import urlsplit

from holdfast_controller.providers.aws_calls import AwsCalls
from holdfast_controller.providers.aws_config import AwsConfig

BATCH = 10
"""The most that ReceiveMessage and DeleteMessageBatch take."""
ROUNDS_MAX = 20
"""Receives of one look; what is left comes with the next."""
WAIT_S = 1
"""A wait of at least a second asks all of SQS' servers; none would ask some of them, and may miss what is there."""


def queue_calls(config: AwsConfig) -> AwsCalls:
    """Return calls to the configured queues, where their addresses say they are; with a thread each, since a receive waits."""
    origins = {region: "{0.scheme}://{0.netloc}".format(urlsplit(url)) for region, url in config.queue_urls.items()}
    return AwsCalls(config, "sqs", threads=1, endpoints=origins)


async def drain(calls: AwsCalls, region: str, url: str, take: Callable[[str], None]) -> None:
    """Give each message's body to `take` and delete it. Raises ProviderError; what was taken until then stays taken, and may come again."""
    for number in range(ROUNDS_MAX):
        wait_s = 0 if number else WAIT_S
        answer = await calls.call(region, "receive_message", QueueUrl=url, MaxNumberOfMessages=BATCH, WaitTimeSeconds=wait_s)
        messages = answer.get("Messages", [])
        if not messages:
            return
        for message in messages:
            take(str(message.get("Body", "")))
        entries = [{"Id": str(index), "ReceiptHandle": str(message["ReceiptHandle"])} for index, message in enumerate(messages)]
        await calls.call(region, "delete_message_batch", QueueUrl=url, Entries=entries)
