"""What `bench/launch` measures: one request for nodes, at one setting of the cloud, on one side."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast_sandbox.cluster import Sandbox

LONGEST_S = 240.0
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Setting:
    """How the simulated EC2 behaves."""

    name: str
    latency_s: float
    """Added to each call to EC2."""
    buckets: bool
    """Whether calls draw from token buckets of the sizes that EC2 publishes."""
    table_latency_s: float
    """Added to each call to DynamoDB, which ParallelCluster needs and we do not."""

    def __str__(self) -> str:
        """Return it in words."""
        buckets = ", with token buckets of the sizes that EC2 publishes" if self.buckets else ""
        return f"{self.name}: {self.latency_s:g} s a call, DynamoDB {self.table_latency_s:g} s{buckets}"

    def cloud(self) -> dict[str, object]:
        """Return it as keys of the cloud's configuration."""
        return {"api_latency_s": self.latency_s, "api_buckets": {} if self.buckets else None}


SETTINGS = (
    Setting("no latency", 0.0, False, 0.0),
    Setting("0.1 s a call", 0.1, False, 0.005),
    Setting("0.1 s a call, token buckets", 0.1, True, 0.005),
)


@dataclass(frozen=True, slots=True)
class Launch:
    """One request. Seconds from the start of ResumeProgram."""

    side: str
    setting: str
    nodes: int
    ids_s: float
    """Until the last instance's id is known, and on our side durable."""
    addresses_s: float
    """Until slurmctld knows the last node's address."""
    phases_s: Mapping[str, float] = field(default_factory=dict)
    """One after another."""
    throttled: int = 0


class JournalTail:
    """What comes into a controller's journal, and when it was first seen there: by then it is durable."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
        self._seq = 0
        self.rows: list[dict[str, Any]] = []

    def new(self) -> list[dict[str, Any]]:
        """Return what is new, oldest first, as kind, seen and the event's own keys. Raises sqlite3.Error."""
        now = time.time()
        query = "SELECT seq, kind, body FROM events WHERE seq > ? ORDER BY seq"
        found = list(self._db.execute(query, (self._seq,)))
        self._seq = found[-1][0] if found else self._seq
        rows = [{"kind": kind, "seen": now, **json.loads(body)} for _, kind, body in found]
        self.rows += rows
        return rows

    def of(self, kind: str) -> Iterator[dict[str, Any]]:
        """Yield what has been read of one kind."""
        return (row for row in self.rows if row["kind"] == kind)

    def close(self) -> None:
        """Close it."""
        self._db.close()


def hook_began(log: Path) -> float:
    """Wait for ResumeProgram to return (`requests.write_timed_hooks`), and return when it began. Raises TimeoutError."""
    await_(lambda: log.exists() and log.read_text(encoding="ascii").endswith("\n"), "ResumeProgram")
    return float(log.read_text(encoding="ascii").split(maxsplit=1)[0])


def check_addresses(sandbox: Sandbox, count: int) -> None:
    """See that slurmctld has so many nodes at addresses of the cloud, each at its own. Raises ValueError."""
    words = sandbox.run(["scontrol", "show", "nodes", "-a", "-o"]).stdout.split()
    found = [word for word in words if word.startswith("NodeAddr=127.77.")]
    if len(found) != count or len(set(found)) != count:
        raise ValueError(f"slurmctld has {len(found)} nodes at {len(set(found))} addresses of the cloud, not {count}")


def await_(holds: Callable[[], bool], what: str) -> None:
    """Wait until it holds. Raises TimeoutError."""
    ends = time.monotonic() + LONGEST_S
    while not holds():
        if time.monotonic() > ends:
            raise TimeoutError(f"waited {LONGEST_S:g} s in vain for {what}")
        time.sleep(POLL_S)
