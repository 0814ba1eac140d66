"""The SQS endpoint: Amazon's JSON protocol on the port of EC2's, and in each AWS region one queue that holds all that happens to instances.

That queue stands for an EventBridge rule with the queue as its target. Other queues can be made; nothing comes into them by itself.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast_sandbox.datacenter import Datacenter
from holdfast_sandbox.ec2 import HungUpError, suffer
from holdfast_sandbox.ec2_instances import OWNER
from holdfast_sandbox.ec2_wire import Ec2Error
from holdfast_sandbox.events import envelope
from holdfast_sandbox.machine import Machine
from holdfast_sandbox.sqs_queue import Message, Queue, digest

EVENTS = "holdfast-events"
"""The queue that is there from the start."""
TARGET = "AmazonSQS."
_log = logging.getLogger(__name__)
_SCOPE = re.compile(r"Credential=[^/,]+/\d{8}/([a-z0-9-]+)/sqs/aws4_request")
_NO_QUEUE = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "The specified queue does not exist.")
QueueName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,80}$")]


class SqsError(Exception):
    """An error as SQS answers it: the code of the old query protocol (which boto3 shows), the shape's name, a message."""

    def __init__(self, code: str, shape: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.shape, self.message, self.status = code, shape, message, status


class Request(BaseModel):
    """The parameters of an action; what this queue cannot do is refused, not ignored."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Named(Request):
    """Of an action on one queue."""

    QueueUrl: Annotated[str, Field(max_length=300)]


class CreateQueue(Request):
    """A queue, by its name."""

    QueueName: QueueName
    Attributes: dict[str, str] = {}


class GetQueueUrl(Request):
    """A queue's address, by its name."""

    QueueName: QueueName


class SendMessage(Named):
    """One message."""

    MessageBody: Annotated[str, Field(min_length=1, max_length=1_048_576)]


class ReceiveMessage(Named):
    """Some messages."""

    MaxNumberOfMessages: Annotated[int, Field(ge=1, le=10)] = 1
    WaitTimeSeconds: Annotated[int, Field(ge=0, le=20)] = 0
    VisibilityTimeout: Annotated[int, Field(ge=0, le=43_200)] | None = None


class DeleteMessage(Named):
    """One message, received."""

    ReceiptHandle: str


class Entry(Request):
    """One of a batch."""

    Id: str
    ReceiptHandle: str


class DeleteMessageBatch(Named):
    """Several messages, received."""

    Entries: Annotated[list[Entry], Field(min_length=1, max_length=10)]


@dataclass
class Place:
    """A queue and the bell that rings when something comes in."""

    queue: Queue
    bell: asyncio.Event = field(default_factory=asyncio.Event)


class SqsEndpoint:
    """Serves the JSON protocol for one account. Signatures are not verified, but must be there."""

    def __init__(self, datacenter: Datacenter) -> None:
        self._datacenter = datacenter
        regions = {zone.region for zone in datacenter.market.zones.values() if zone.provider == "aws"}
        self._places = {(region, EVENTS): Place(Queue(EVENTS)) for region in regions}
        self._regions = regions
        datacenter.listeners.append(self._note)
        self._actions: dict[str, tuple[type[Request], Callable[..., Any]]] = {
            "CreateQueue": (CreateQueue, self._create),
            "GetQueueUrl": (GetQueueUrl, self._url),
            "SendMessage": (SendMessage, self._send),
            "DeleteMessage": (DeleteMessage, self._delete),
            "DeleteMessageBatch": (DeleteMessageBatch, self._delete_batch),
        }

    @staticmethod
    def is_meant(request: web.Request) -> bool:
        """Whether a request is SQS' and not EC2's."""
        return request.headers.get("X-Amz-Target", "").startswith(TARGET)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        action = request.headers["X-Amz-Target"].removeprefix(TARGET)
        try:
            reply = await self._answer(action, request)
        except SqsError as error:
            body = {"__type": f"com.amazonaws.sqs#{error.shape}", "message": error.message}
            side = "Sender" if error.status < 500 else "Receiver"
            headers = {"x-amzn-query-error": f"{error.code};{side}"}
            return web.json_response(body, status=error.status, headers=headers, content_type="application/x-amz-json-1.0")
        except HungUpError:
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=500)
        return web.json_response(reply, content_type="application/x-amz-json-1.0")

    async def _answer(self, action: str, request: web.Request) -> dict[str, Any]:
        scope = _SCOPE.search(request.headers.get("Authorization", ""))
        if scope is None or scope[1] not in self._regions:
            raise SqsError("MissingAuthenticationToken", "MissingAuthenticationToken", "The request is not signed for SQS here.", 403)
        fault = self._datacenter.faults.api_fault(action)
        try:
            if fault is not None and not fault.after:
                await suffer(fault)
            reply = await self._perform(action, scope[1], request)
            if fault is not None and fault.after:
                await suffer(fault)
        except Ec2Error as error:
            raise SqsError(error.code, error.code, error.message, error.status) from None
        return reply

    async def _perform(self, action: str, region: str, request: web.Request) -> dict[str, Any]:
        body = await request.read()
        base = f"{request.scheme}://{request.host}/{OWNER}/"
        try:
            if action == "ReceiveMessage":
                return await self._receive(region, ReceiveMessage.model_validate_json(body))
            if action not in self._actions:
                raise SqsError("InvalidAction", "UnsupportedOperation", f"The action {action[:80]} is not valid for this endpoint.")
            model, act = self._actions[action]
            reply: dict[str, Any] = act(region, model.model_validate_json(body), base)
        except ValidationError as error:
            where = error.errors()[0]
            raise SqsError("InvalidParameterValue", "InvalidParameterValue", f"{where['loc']}: {where['msg']}") from None
        return reply

    def _note(self, what: str, machine: Machine) -> None:
        body = envelope(what, machine, self._datacenter.now())
        if body is not None:
            self._put(self._places[(machine.region, EVENTS)], body)

    def _put(self, place: Place, body: str) -> Message:
        message = place.queue.send(body, self._datacenter.now())
        place.bell.set()
        return message

    def _place(self, region: str, url: str) -> Place:
        place = self._places.get((region, url.rpartition("/")[2]))
        if place is None or f"/{OWNER}/" not in url:
            raise SqsError(*_NO_QUEUE)
        return place

    def _create(self, region: str, wanted: CreateQueue, base: str) -> dict[str, Any]:
        visibility = wanted.Attributes.get("VisibilityTimeout", "30")
        if not (visibility.isascii() and visibility.isdigit() and int(visibility) <= 43_200):
            raise SqsError("InvalidAttributeValue", "InvalidAttributeValue", "Invalid value for the parameter VisibilityTimeout.")
        self._places.setdefault((region, wanted.QueueName), Place(Queue(wanted.QueueName, float(visibility))))
        return {"QueueUrl": base + wanted.QueueName}

    def _url(self, region: str, wanted: GetQueueUrl, base: str) -> dict[str, Any]:
        if (region, wanted.QueueName) not in self._places:
            raise SqsError(*_NO_QUEUE)
        return {"QueueUrl": base + wanted.QueueName}

    def _send(self, region: str, wanted: SendMessage, _: str) -> dict[str, Any]:
        message = self._put(self._place(region, wanted.QueueUrl), wanted.MessageBody)
        return {"MessageId": message.message_id, "MD5OfMessageBody": digest(message.body)}

    async def _receive(self, region: str, wanted: ReceiveMessage) -> dict[str, Any]:
        """What there is, or what comes within the wait."""
        place, loop = self._place(region, wanted.QueueUrl), asyncio.get_running_loop()
        end = loop.time() + wanted.WaitTimeSeconds
        while True:
            now = self._datacenter.now()
            place.bell.clear()
            messages = place.queue.receive(wanted.MaxNumberOfMessages, now, wanted.VisibilityTimeout)
            left = end - loop.time()
            if messages or left <= 0:
                return {"Messages": [message.wire() for message in messages]} if messages else {}
            back = place.queue.next_shown(now)
            try:
                await asyncio.wait_for(place.bell.wait(), left if back is None else max(0.001, min(left, back - now)))
            except TimeoutError:
                continue

    def _delete(self, region: str, wanted: DeleteMessage, _: str) -> dict[str, Any]:
        if not self._place(region, wanted.QueueUrl).queue.delete(wanted.ReceiptHandle):
            raise SqsError("ReceiptHandleIsInvalid", "ReceiptHandleIsInvalid", "The input receipt handle is invalid.", 404)
        return {}

    def _delete_batch(self, region: str, wanted: DeleteMessageBatch, _: str) -> dict[str, Any]:
        queue = self._place(region, wanted.QueueUrl).queue
        done: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        for entry in wanted.Entries:
            if queue.delete(entry.ReceiptHandle):
                done.append({"Id": entry.Id})
            else:
                failed.append({"Id": entry.Id, "SenderFault": True, "Code": "ReceiptHandleIsInvalid"})
        return {"Successful": done, "Failed": failed}
