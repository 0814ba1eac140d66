"""A client of the control API, for the CLI, the demo, the benchmarks and the tests. Standard library only."""

import json
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any, cast
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

POLL_S = 0.05
_OPENER = build_opener(ProxyHandler({}))  # the cloud is on loopback: no proxy of the environment may come between


class CloudControlError(Exception):
    """The cloud refused a request (`status` is its HTTP status), or could not be reached (`status` is None)."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


class CloudControl:
    """Talks to one cloud. All times are Unix seconds; every method raises CloudControlError."""

    def __init__(self, endpoint_url: str, timeout_s: float = 10.0) -> None:
        self.endpoint_url = endpoint_url.rstrip("/")
        self._timeout_s = timeout_s

    @classmethod
    def from_ready_file(cls, path: Path) -> "CloudControl":
        """The cloud whose ready file this is; raises OSError where it is not ready."""
        return cls(json.loads(path.read_text())["endpoint_url"])

    def _call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.endpoint_url}/control/{path}", data, {"Content-Type": "application/json"})  # noqa: S310
        try:
            with _OPENER.open(request, timeout=self._timeout_s) as reply:
                return cast(dict[str, Any], json.load(reply))
        except HTTPError as error:
            with error:
                text = error.read().decode(errors="replace")
            raise CloudControlError(text, error.code) from error
        except (OSError, HTTPException, ValueError) as error:
            raise CloudControlError(f"the cloud at {self.endpoint_url} does not answer: {error}", None) from error

    @staticmethod
    def _target(instance_id: str | None, tag: tuple[str, str] | None) -> dict[str, Any]:
        target: dict[str, Any] = {} if instance_id is None else {"instance_id": instance_id}
        return target if tag is None else target | {"tag": {"key": tag[0], "value": tag[1]}}

    def state(self) -> dict[str, Any]:
        """Zones, pools and instances now: {now, record, zones, pools, instances}."""
        return self._call("state")

    def instances(self) -> list[dict[str, Any]]:
        """All instances that there ever were, oldest first."""
        return cast(list[dict[str, Any]], self.state()["instances"])

    def instance(self, instance_id: str) -> dict[str, Any]:
        """One instance; raises CloudControlError where there is none."""
        for instance in self.instances():
            if instance["instance_id"] == instance_id:
                return instance
        raise CloudControlError(f"no instance {instance_id}", 404)

    def wait_for(self, instance_id: str, condition: Callable[[dict[str, Any]], bool], timeout_s: float) -> dict[str, Any]:
        """Wait until an instance meets a condition; raises CloudControlError after `timeout_s`."""
        end = time.monotonic() + timeout_s
        while not condition(instance := self.instance(instance_id)):
            if time.monotonic() > end:
                raise CloudControlError(f"{instance_id} did not get there in {timeout_s} s: {instance}", None)
            time.sleep(POLL_S)
        return instance

    def set_zone(
        self,
        zone: str,
        *,
        capacity: int | None = None,
        price_usd_h: float | None = None,
        instance_type: str | None = None,
        lifecycle: str = "spot",
    ) -> None:
        """Change a zone's capacity or price from now on; where it shrinks, the newest instances get notice."""
        body = {"capacity": capacity, "price_usd_h": price_usd_h, "instance_type": instance_type, "lifecycle": lifecycle}
        self._call(f"zones/{zone}", body)

    def reclaim(
        self, instance_id: str | None = None, *, tag: tuple[str, str] | None = None, notice_s: float | None = None
    ) -> dict[str, Any]:
        """Give notice and take the instance back at its end; replies {instance_id, notice, deadline}."""
        return self._call("reclaim", self._target(instance_id, tag) | {"notice_s": notice_s})

    def cancel_reclaim(self, instance_id: str | None = None, *, tag: tuple[str, str] | None = None) -> None:
        """Withdraw a notice."""
        self._call("reclaim/cancel", self._target(instance_id, tag))

    def kill(
        self,
        instance_id: str | None = None,
        *,
        tag: tuple[str, str] | None = None,
        reason: str = "Server.SpotInstanceTermination",
    ) -> dict[str, Any]:
        """Take the instance away without notice; replies {instance_id, killed}."""
        return self._call("kill", self._target(instance_id, tag) | {"reason": reason})

    def rebalance(self, instance_id: str | None = None, *, tag: tuple[str, str] | None = None) -> dict[str, Any]:
        """Put a rebalance recommendation into the instance's metadata; replies {instance_id, notice}."""
        return self._call("rebalance", self._target(instance_id, tag))

    def maintenance(self, instance_id: str, events: list[dict[str, str]]) -> None:
        """Put scheduled events into the instance's metadata."""
        self._call("maintenance", {"instance_id": instance_id, "events": events})

    def maintenance_event(self, instance_id: str, event: str) -> None:
        """Set a Compute Engine VM's maintenance-event: NONE, MIGRATE_ON_HOST_MAINTENANCE or TERMINATE_ON_HOST_MAINTENANCE."""
        self._call("maintenance-event", {"instance_id": instance_id, "event": event})

    def scheduled_events(self, instance_id: str, events: list[dict[str, Any]]) -> list[str]:
        """Announce {type, due_s, resources?, duration_s?} to an Azure VM; returns the ids. An empty list withdraws them."""
        return cast(list[str], self._call("scheduled-events", {"instance_id": instance_id, "events": events})["event_ids"])

    def refuse(
        self,
        *,
        zone: str | None = None,
        instance_type: str | None = None,
        lifecycle: str | None = None,
        code: str = "InsufficientInstanceCapacity",
        count: int | None = None,
    ) -> None:
        """Refuse the next `count` launches there (None: until `clear`)."""
        body = {"zone": zone, "instance_type": instance_type, "lifecycle": lifecycle, "code": code, "count": count}
        self._call("refuse", body)

    def throttle(self, *, action: str | None = None, count: int | None = None) -> None:
        """Answer the next `count` calls with RequestLimitExceeded."""
        self._call("throttle", {"action": action, "count": count})

    def fail(
        self,
        *,
        action: str | None = None,
        mode: str = "500",
        code: str = "InternalError",
        seconds: float = 30.0,
        count: int | None = None,
        when: str = "before",
    ) -> None:
        """Make EC2 calls fail: mode 500, error (with `code`), hang or slow (for `seconds`), before or after taking effect."""
        body = {"action": action, "mode": mode, "code": code, "seconds": seconds, "count": count, "when": when}
        self._call("fail", body)

    def fail_metadata(
        self,
        *,
        instance_id: str | None = None,
        prefix: str = "",
        mode: str = "500",
        seconds: float = 30.0,
        count: int | None = None,
    ) -> None:
        """Make metadata reads go wrong: mode 500, malformed, hang or slow, below a path prefix."""
        body = {"instance_id": instance_id, "prefix": prefix, "mode": mode, "seconds": seconds, "count": count}
        self._call("fail/metadata", body)

    def fail_boot(self, *, zone: str | None = None, seconds: float | None = None, count: int | None = None) -> None:
        """Make boots take so much longer, or (None) leave the machine dead though EC2 says running."""
        self._call("fail/boot", {"zone": zone, "seconds": seconds, "count": count})

    def clear(self) -> None:
        """Let everything go right again: no more refusals, throttling or failures."""
        self._call("clear", {})
