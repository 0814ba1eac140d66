"""All that a run tells others: its node (rank and status file), its timeline, and the user on stderr."""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast import process
from holdfast.clock import Clock
from holdfast.jobdir import JobDirectory, Notice
from holdfast.process import Job, Place
from holdfast.reports import Report, numbers
from holdfast.timeline import NAME as TIMELINE
from holdfast.timeline import Timeline

if TYPE_CHECKING:
    from holdfast.saver import Saved


def say(text: str) -> None:
    """One line for the user. A log that cannot be written (a full disk) must not end the training."""
    with contextlib.suppress(OSError, ValueError):
        print(f"holdfast: {text}", file=sys.stderr, flush=True)


class Board:
    """One rank's announcements; rank 0 speaks for the run in status.json."""

    def __init__(self, jobdir: JobDirectory | None, place: Place, job: Job, clock: Clock) -> None:
        self._reports = None if jobdir is None else jobdir.reports
        self._clock = clock
        self._job = job
        self._place = place
        self.timeline = Timeline(clock, self.warn)
        self._notice_id: str | None = None
        self._rank = self._rank_report()
        self._status = self._status_report()

    def _rank_report(self) -> Report:
        path = None if self._reports is None else self._reports / f"rank.{self._place.rank}.json"
        content: dict[str, Any] = {"pid": os.getpid(), "started": process.started(), "rank": self._place.rank}
        content |= {"world_size": self._place.world_size, "wake_signal": None, "state": "ready"}
        content |= {"notice_id": self._notice_id, "step": 0, "step_s": None, "saved_step": None, "save_expected_s": None}
        return Report(path, self._clock, say, **content)

    def _status_report(self) -> Report:
        path = None if self._reports is None or self._place.rank != 0 else self._reports / "status.json"
        content: dict[str, Any] = {"state": "ready", "notice_id": self._notice_id, "step": 0, "total_steps": None}
        content |= {"saved_step": None, "saving_step": None, "saved_tier": None, "bytes": None, "checkpoint": None}
        content |= {"attempt": self._job.attempt or 0, "stopped_on_notice": False, "steps_lost": 0, "message": None, "metrics": {}}
        return Report(path, self._clock, say, **content)

    def register(self, wake_signal: int | None) -> None:
        """Tell the node that this process can be told and woken."""
        self._rank.now(wake_signal=wake_signal)
        self._status.now()

    def enter(self, place: Place, wake_signal: int | None) -> None:
        """The rank is certain now; one that was announced otherwise before is moved."""
        if place == self._place:
            return
        self._withdraw()
        self._place = place
        self._rank, self._status = self._rank_report(), self._status_report()
        self.register(wake_signal)

    def _withdraw(self) -> None:
        if self._reports is None:
            return
        path = self._reports / f"rank.{self._place.rank}.json"
        try:
            if json.loads(path.read_bytes()).get("pid") == os.getpid():
                path.unlink()
        except (OSError, ValueError, AttributeError):
            return

    def open(self, checkpoints: Path, attempt: int) -> None:
        """The attempt's number and directory are known: write the timeline from here on."""
        rank = self._place.rank
        local = None if self._reports is None else self._reports / f"timeline.rank{rank}.jsonl"
        identity = {"job_id": self._job.job_id, "attempt": attempt, "rank": rank, "node": self._job.node}
        durable = checkpoints / TIMELINE if rank == 0 else None
        self.timeline.open(local, durable, **identity, pid=os.getpid())
        self._status.now(attempt=attempt)

    def warn(self, text: str) -> None:
        """Tell the user, and whoever reads status.json."""
        say(text)
        self._status.now(message=text[:1000])

    def unusable(self, checkpoint: str, file: str, reason: str) -> None:
        """Record a checkpoint that cannot be resumed from."""
        self.timeline.event("checkpoint_unusable", checkpoint=checkpoint, file=file, reason=reason)

    def tell(self, text: str) -> None:
        """Like `warn`, from rank 0 only: something that concerns the whole run."""
        if self._place.rank == 0:
            say(text)
        self._status.now(message=text[:1000])

    def state(self, state: str, *, rank: dict[str, Any] | None = None, **status: Any) -> None:
        """A new state, at once: `rank` goes into the rank file, `status` into status.json, `notice_id` into both.

        A parked rank may be ended as soon as its file says so. So status.json, which then stays as it is, says it before the file
        does, and until after the file has ceased to.
        """
        both = {key: status[key] for key in ("notice_id", "step", "saved_step") if key in status}
        if state == "parked":
            self._status.now(state=state, **status)
        self._rank.now(state=state, **both, **(rank or {}))
        if state != "parked":
            self._status.now(state=state, **status)

    def saved(self, state: str | None, saved: "Saved", expected_s: float) -> None:
        """A checkpoint is complete; `state` None: training has gone on meanwhile, and the state stays what it is."""
        keys: dict[str, Any] = {"saved_step": saved.step} | ({} if state is None else {"state": state, "step": saved.step})
        self._rank.now(**keys, save_expected_s=expected_s)
        self._status.now(**keys, saving_step=None, **_where(saved))

    def saving(self, step: int | None, reached: int) -> None:
        """A checkpoint of that step is being written, after `reached` steps; None: no longer, and it has failed."""
        self._status.now(saving_step=step, step=reached)

    def resumed(self, saved: "Saved") -> None:
        """What this attempt goes on from."""
        self._status.now(step=saved.step, saved_step=saved.step, **_where(saved))
        self._rank.now(step=saved.step, saved_step=saved.step)

    def seen(self, notice: Notice, t: float) -> None:
        """A notice was seen on this node (called from any thread)."""
        self.note(notice.id)
        self.followed(notice, t)

    def note(self, notice_id: str) -> None:
        """The notice that all reports refer to from now on."""
        self._notice_id = notice_id
        self._status.now(notice_id=notice_id)
        self._rank.now(notice_id=notice_id)  # last: a parked rank that answers a notice may be ended

    def followed(self, notice: Notice, t: float, **identity: Any) -> None:
        """Record a notice; `identity` names the rank and node that saw it where it was another."""
        keys = {"id": notice.id, "kind": notice.kind, "action": notice.action, "deadline": notice.deadline}
        self.timeline.event("notice_seen", t=t, **keys, received=notice.received, **identity)

    def due(self, now: float) -> bool:
        """Whether `progress` would write at that time of the monotonic clock."""
        return self._rank.due(now)

    def progress(self, step: int, step_s: float, metrics: dict[str, Any]) -> None:
        """How far training is; `metrics` are read, which may wait for a GPU."""
        self._rank.now(step=step, step_s=step_s)
        if self._place.rank == 0:
            self._status.now(step=step, metrics=numbers(metrics))


def _where(saved: "Saved") -> dict[str, Any]:
    return {"saved_tier": saved.tier, "bytes": saved.size_bytes, "checkpoint": saved.name}
