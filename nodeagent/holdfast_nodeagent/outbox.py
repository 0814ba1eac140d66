"""What the agent has to say and has not been acknowledged yet: bounded, the latest word per subject wins. Pure but for the ids."""

import uuid
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from holdfast_protos.v1 import agent_pb2 as pb

MAX_ENTRIES = 2048


@dataclass
class Entry:
    """One message that waits."""

    message: pb.AgentMessage
    slot: str
    first_sent: float | None = None
    """When it was handed to the stream that is open now; None: not yet."""


class Outbox:
    """Messages by slot (`notice:ID`, `job:12.0`): a newer message takes the place of an unacknowledged older one."""

    def __init__(self, limit: int = MAX_ENTRIES) -> None:
        self._limit = limit
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, slot: str, message: pb.AgentMessage, now: float) -> None:
        """Queue a message, with an id of its own. When full, the oldest status of a job goes first: the next one makes up for it."""
        message.id = uuid.uuid4().hex
        message.sent_at = now
        self._entries.pop(slot, None)
        while len(self._entries) >= self._limit:
            victim = next((name for name in self._entries if name.startswith("job:")), next(iter(self._entries)))
            del self._entries[victim]
        self._entries[slot] = Entry(message, slot)

    def drop(self, slot: str) -> None:
        """Forget what waits in a slot."""
        self._entries.pop(slot, None)

    def waiting(self, slot: str) -> bool:
        """Whether a message waits in the slot, sent or not."""
        return slot in self._entries

    def acknowledge(self, message_id: str) -> None:
        """The controller has this message; an id of a message that was replaced meanwhile changes nothing."""
        for slot, entry in self._entries.items():
            if entry.message.id == message_id:
                del self._entries[slot]
                return

    def unsent(self) -> Iterator[Entry]:
        """Return what the open stream has not carried yet, oldest first."""
        return iter([entry for entry in self._entries.values() if entry.first_sent is None])

    def reopened(self) -> None:
        """A new stream is open: everything that was not acknowledged goes again."""
        for entry in self._entries.values():
            entry.first_sent = None

    def oldest_sent(self) -> float | None:
        """When the oldest message that waits for its Ack was sent."""
        return min((entry.first_sent for entry in self._entries.values() if entry.first_sent is not None), default=None)
