"""One SQS queue: a message that is received hides for a while, and comes back unless it is deleted. Pure: time is an argument."""

import hashlib
import uuid
from dataclasses import dataclass, field

MOST_MESSAGES = 10_000
"""Where nobody reads, the oldest go: a sandbox's memory has an end before SQS' fourteen days do."""


@dataclass
class Message:
    """A message, and until when it hides (Unix seconds)."""

    body: str
    sent: float
    message_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    hidden_until: float = 0.0
    receives: int = 0
    receipt: str = ""

    def wire(self) -> dict[str, object]:
        """The message as ReceiveMessage gives it."""
        return {
            "MessageId": self.message_id,
            "ReceiptHandle": self.receipt,
            "MD5OfBody": digest(self.body),
            "Body": self.body,
        }


def digest(body: str) -> str:
    """The checksum of a body that SQS sends along."""
    return hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()


class Queue:
    """A standard queue: at least once, in no promised order (here: oldest first)."""

    def __init__(self, name: str, visibility_s: float = 30.0) -> None:
        self.name = name
        self.visibility_s = visibility_s
        self._messages: dict[str, Message] = {}

    def send(self, body: str, now: float) -> Message:
        """Put a message in."""
        message = Message(body, now)
        self._messages[message.message_id] = message
        if len(self._messages) > MOST_MESSAGES:
            del self._messages[next(iter(self._messages))]
        return message

    def receive(self, most: int, now: float, visibility_s: float | None = None) -> list[Message]:
        """Up to `most` messages, which now hide; a new receipt each time."""
        shown = [message for message in self._messages.values() if message.hidden_until <= now][:most]
        for message in shown:
            message.hidden_until = now + (self.visibility_s if visibility_s is None else visibility_s)
            message.receives += 1
            message.receipt = f"{message.message_id}#{message.receives}"
        return shown

    def delete(self, receipt: str) -> bool:
        """Delete what was received under this receipt, again as often as one likes; False where it is none of ours."""
        message_id, mark, _ = receipt.partition("#")
        self._messages.pop(message_id, None)
        return bool(mark)

    def next_shown(self, now: float) -> float | None:
        """When the next message that hides comes back, or None."""
        return min((message.hidden_until for message in self._messages.values() if message.hidden_until > now), default=None)

    def __len__(self) -> int:
        """How many there are, hidden ones among them."""
        return len(self._messages)
