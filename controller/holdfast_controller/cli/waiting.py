"""What became of the jobs of a node that was interrupted: read off the stream of events. Pure."""

from collections.abc import Mapping
from typing import Any

GOOD_ENDS = frozenset({"COMPLETED"})
BAD_ENDS = frozenset({"FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"})
ENDED_S = 5.0
"""A job that ended on the notice is requeued within this time, or it is over."""


class Progress:
    """The jobs of the node, until each runs again or is over."""

    def __init__(self, node: str, attempts: Mapping[int, int]) -> None:
        """Wait for the jobs in `attempts`: id → the attempt that was interrupted."""
        self._node = node
        self._attempts = dict(attempts)
        self._ended: dict[int, tuple[float, str]] = {}
        self.outcomes: dict[int, dict[str, Any]] = {}
        """Job id → `{"state", "nodes", "attempt", "at"}` once it runs again or is over."""

    def concerns(self, body: Mapping[str, Any]) -> bool:
        """Whether an event is about the node or one of the jobs."""
        inner = [body, *(body[key] for key in ("view", "command") if isinstance(body.get(key), dict))]
        for part in inner:
            jobs = [part.get("job_id"), *_listed(part.get("job_ids"))]
            nodes = [part.get("node"), *_listed(part.get("nodes")), part.get("name")]
            if self._node in nodes or any(job in self._attempts for job in jobs):
                return True
        return False

    def see(self, kind: str, body: Mapping[str, Any], at: float) -> None:
        """Take an event in."""
        view = body.get("view")
        if kind == "JobForgotten" and body.get("job_id") in self._attempts:
            job_id = body["job_id"]
            self._done(job_id, self._ended.get(job_id, (at, "UNKNOWN"))[1], at)
        elif kind == "JobChanged" and isinstance(view, dict) and view.get("job_id") in self._attempts:
            self._job(view["job_id"], view, at)

    def _job(self, job_id: int, view: Mapping[str, Any], at: float) -> None:
        state, restarts = str(view.get("state")), int(view.get("restarts") or 0)
        self._ended.pop(job_id, None)
        if state == "RUNNING" and restarts > self._attempts[job_id] and not view.get("completing"):
            self._done(job_id, state, at, _listed(view.get("nodes")), restarts)
        elif state in GOOD_ENDS | BAD_ENDS and not view.get("completing"):
            self._ended[job_id] = (at, state)

    def tick(self, now: float) -> None:
        """Let time pass: a job that has ended and was not requeued is over."""
        for job_id, (at, state) in list(self._ended.items()):
            if now >= at + ENDED_S:
                self._done(job_id, state, at)

    def _done(self, job_id: int, state: str, at: float, nodes: list[Any] | None = None, attempt: int | None = None) -> None:
        self._ended.pop(job_id, None)
        outcome = {"state": state, "nodes": nodes or [], "attempt": attempt, "at": at}
        self.outcomes.setdefault(job_id, outcome)

    @property
    def finished(self) -> bool:
        """Whether every job runs again or is over."""
        return self.outcomes.keys() >= self._attempts.keys()

    @property
    def well(self) -> bool:
        """Whether no job was lost."""
        return all(outcome["state"] not in BAD_ENDS for outcome in self.outcomes.values())


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []
