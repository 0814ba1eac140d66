"""What a job's processes on this node add up to: pure."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from holdfast_common.jobfiles import RankFile, StatusFile

from holdfast_nodeagent.jobdirs import JobKey

_ORDER = {"ready": 0, "running": 1, "saving": 2, "saved": 3, "parked": 4, "done": 5}


@dataclass(frozen=True, slots=True)
class Rank:
    """One registered process."""

    file: RankFile
    alive: bool | None
    """None: it has never been found as it registered (another pid namespace, perhaps), so its absence says nothing."""

    @property
    def counts(self) -> bool:
        """Whether it must have parked before the job is safe."""
        return self.alive is not False and self.file.state != "done"

    def parked_for(self, notice_ids: Set[str]) -> bool:
        """Whether it says that it has saved and waits, because of one of these notices."""
        return self.file.state == "parked" and self.file.notice_id in notice_ids


@dataclass(frozen=True, slots=True)
class Report:
    """A job on this node, as it is told to the controller. All but key and started is the job's own claim."""

    key: JobKey
    started: float
    """Unix seconds of its first process that this node saw; 0: none yet."""
    state: str = ""
    notice_id: str = ""
    step: int = 0
    saved_step: int = -1
    save_expected_s: float = 0.0
    step_s: float = 0.0
    """What a step takes, lately; 0: not said."""
    all_ranks_parked: bool = False
    ranks: int = 0
    stopped_on_notice: bool = False

    def same_but_progress(self, other: "Report | None") -> bool:
        """Whether nothing has changed but the step and the estimates, which need no hurry."""
        return other is not None and self._without_progress() == other._without_progress()

    def _without_progress(self) -> "Report":
        return replace(self, step=0, save_expected_s=0.0, step_s=0.0)


def summarize(key: JobKey, started: float, ranks: Mapping[int, Rank], status: StatusFile | None, notice_ids: Set[str]) -> Report:
    """Return the report. `notice_ids` are the notices in force because of which the job must leave."""
    files = [rank.file for rank in ranks.values() if rank.counts] or [rank.file for rank in ranks.values()]
    if status is not None and status.attempt != key.attempt:
        status = None
    answered = {file.notice_id or "" for file in files}
    return Report(
        key=key,
        started=started,
        state=_state(files, status),
        notice_id=answered.pop() if len(answered) == 1 else "",
        step=status.step if status else min((file.step for file in files), default=0),
        saved_step=_saved(files, status),
        save_expected_s=max((file.save_expected_s or 0.0 for file in files), default=0.0),
        step_s=max((file.step_s or 0.0 for file in files), default=0.0),
        all_ranks_parked=_parked(list(ranks.values()), notice_ids),
        ranks=len(ranks),
        stopped_on_notice=bool(status and status.stopped_on_notice),
    )


def _parked(ranks: Sequence[Rank], notice_ids: Set[str]) -> bool:
    """At least one has parked, and every other has too, or is done or gone. All done is not parked: such a job is about to end well."""
    if not any(rank.parked_for(notice_ids) for rank in ranks):
        return False
    return all(rank.parked_for(notice_ids) for rank in ranks if rank.counts)


def _state(files: Sequence[RankFile], status: StatusFile | None) -> str:
    if files:
        return min((file.state for file in files), key=_ORDER.__getitem__)
    return status.state if status else ""


def _saved(files: Sequence[RankFile], status: StatusFile | None) -> int:
    if status and status.saved_step is not None:
        return status.saved_step
    steps = [-1 if file.saved_step is None else file.saved_step for file in files]
    return min(steps, default=-1)
