"""EC2's interruption warnings out of EventBridge's events, and how long each stands. Pure: time is an argument.

What an event says is believed for what it is: the account's own queue, read with the account's own rights, but bounded and strict.
"""

import logging
from collections.abc import Set
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError

from holdfast_controller.providers.aws_wire import NOTICE_S
from holdfast_controller.providers.base import Reclaim

BODY_MAX = 262_144
"""Characters; EventBridge delivers no event of more bytes."""
WARNINGS_MAX = 20_000
"""Warnings kept, of instances of others in the account as well."""
OVER_S = 60.0
"""For so long past its deadline a warning still stands: the end may come late, and its going is no word that it was withdrawn."""
AHEAD_MAX_S = 600.0
"""How far an event's time may lie ahead of our clock."""
WARNING = "EC2 Spot Instance Interruption Warning"
STATE_CHANGE = "EC2 Instance State-change Notification"
REBALANCE = "EC2 Instance Rebalance Recommendation"
ENDING = frozenset({"shutting-down", "terminated", "stopping", "stopped"})
_log = logging.getLogger(__name__)


class Detail(BaseModel):
    """What an event says of an instance."""

    instance_id: str = Field(alias="instance-id", pattern=r"^i-[0-9a-f]{8,17}$")
    action: Annotated[str, Field(max_length=32)] = Field("", alias="instance-action")
    state: Annotated[str, Field(max_length=32)] = ""


class Event(BaseModel):
    """An EventBridge event of EC2's ("Events from AWS services", EventBridge User Guide); further members are its sender's."""

    kind: Annotated[str, Field(max_length=128)] = Field(alias="detail-type")
    source: Literal["aws.ec2"]
    time: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
    region: str = Field(max_length=64)
    detail: Detail


@dataclass(slots=True)
class Warned:
    """An instance that EC2 has said it takes back."""

    region: str
    action: str
    deadline: float
    marked: bool = False
    """EC2's list of spot requests has said so, too: when it says so no longer, the warning is over."""


class Warnings:
    """The warnings that stand.

    A restart forgets them, which loses nothing: EC2's list says the same until the end, as the node's own metadata does, and a message
    that was not deleted comes again.
    """

    def __init__(self) -> None:
        self.refused = 0
        """Messages that were no event that we know how to read."""
        self._warned: dict[str, Warned] = {}

    def take(self, body: str, now: float) -> None:
        """Take an event in. A repeated one changes nothing; one that cannot be read is counted, logged and forgotten.

        A rebalance recommendation is no reclaim: the node's agent reads it as well and asks the job for an early checkpoint, and where the
        agent is dead nobody could be asked. Of a change of state only an end matters: our listing tells the rest.
        """
        if len(body) > BODY_MAX:
            self._refuse(f"longer than {BODY_MAX} characters")
            return
        try:
            event = Event.model_validate_json(body)
            at = datetime.strptime(event.time, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
        except ValidationError as error:
            self._refuse("; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:3]))
            return
        except ValueError as error:
            self._refuse(str(error))
            return
        if event.kind == WARNING:
            self._warn(event, at, now)
        elif event.kind == STATE_CHANGE and event.detail.state in ENDING:
            self.end(event.detail.instance_id)
        elif event.kind not in (STATE_CHANGE, REBALANCE):
            self._refuse(f"an event of type {event.kind!r}")

    def compare(self, region: str, marked: Set[str]) -> None:
        """Take in which instances of a region EC2 lists as marked, all of them: who was, and is no longer, is spared or gone."""
        for instance_id, warned in list(self._warned.items()):
            if instance_id in marked:
                warned.marked = True
            elif warned.marked and warned.region == region:
                del self._warned[instance_id]

    def end(self, instance_id: str) -> None:
        """The instance is no more: nothing is left to be taken."""
        self._warned.pop(instance_id, None)

    def standing(self, now: float) -> tuple[Reclaim, ...]:
        """Return the reclaims that stand."""
        self._warned = {each: warned for each, warned in self._warned.items() if now < warned.deadline + OVER_S}
        return tuple(Reclaim(each, said.deadline, f"EC2 has warned of {said.action}") for each, said in self._warned.items())

    def _warn(self, event: Event, at: float, now: float) -> None:
        if at > now + AHEAD_MAX_S:
            self._refuse(f"its time is {at - now:.0f} s ahead of ours")
            return
        # hibernation begins with the warning ("Spot Instance interruption notices", EC2 User Guide)
        deadline = at if event.detail.action == "hibernate" else at + NOTICE_S
        known = self._warned.get(event.detail.instance_id)
        if now >= deadline + OVER_S or (known is not None and known.deadline <= deadline):
            return
        self._warned[event.detail.instance_id] = Warned(
            event.region, event.detail.action or "an interruption", deadline, known is not None and known.marked
        )
        if len(self._warned) > WARNINGS_MAX:
            del self._warned[next(iter(self._warned))]

    def _refuse(self, why: str) -> None:
        self.refused += 1
        _log.warning("a message in the queue of EC2's events is not one, and is dropped (%d so far): %s", self.refused, why[:300])
