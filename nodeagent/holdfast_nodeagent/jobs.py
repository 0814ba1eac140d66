"""The jobs of this node: tells them of notices, wakes them, follows what they say, and notices when they are gone.

Level-triggered: `tick` compares the disk and the process table with what has been told, and makes up for the difference; nothing is lost by
a restart between two ticks. It does small reads in a directory in memory and never blocks.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from holdfast_common.clock import Clock
from holdfast_common.errors import InputError
from holdfast_common.jobfiles import ContextFile, NoticeFile, RankFile, StatusFile, dump, parse
from holdfast_common.notice import Notice, NoticeKind

from holdfast_nodeagent.claims import Rank, Report, summarize
from holdfast_nodeagent.jobdirs import Claims, JobDirs, JobKey, rank_of
from holdfast_nodeagent.notices.base import strongest
from holdfast_nodeagent.processes import Process, Processes, wake_signal

REREAD_S = 5.0
"""A folder is read again after this time even if it looks unchanged (a job in another language may write in place)."""
PROGRESS_S = 2.0
"""Mere progress is told this often."""
GONE_HOLD_S = 1.0
"""A job whose directory still stands (its Epilog has not run) is gone after this long without a process."""
MAX_FAULT_LINES = 50
"""Of one attempt in the log: a job may write a new fault at each tick."""
BURST, REPORT_S = 30, 1.0
"""Changes of one attempt's state that are told at once, and how often one more is: each is durable at the controller, and a job may
change its word twenty times a second. An attempt that runs well changes it a few times a minute.
"""
FOREIGN_S = 1.0
"""A registered process that is not the job's is looked at again after this time: that may cost as much as reading its environment."""
CLOCKS_DIFFER_S = 1.0
"""Two nodes' clocks agree to this."""
MAX_PREPARED = 16
"""Notices from other nodes that are kept for one job."""

log = logging.getLogger(__name__)


@dataclass
class Job:
    """One attempt on this node."""

    key: JobKey
    seen_at: float
    prepared: dict[str, Notice] = field(default_factory=dict)
    """From other nodes of the job, by id."""
    told: NoticeFile | None = None
    """What stands in `node/notice.json`."""
    enriched: ContextFile | None = None
    stamp: tuple[int, int] | None = None
    read_at: float = 0.0
    uid: int = -1
    files: dict[int, RankFile] = field(default_factory=dict)
    status: StatusFile | None = None
    faults: dict[str, str] = field(default_factory=dict)
    fault_lines: int = 0
    verified: dict[tuple[int, float], int] = field(default_factory=dict)
    """Registered processes that are the job's, with the kernel's own word for their start."""
    foreign: dict[tuple[int, float], float] = field(default_factory=dict)
    """When a registered process was last found not to be the job's."""
    woken: set[tuple[int, str, str]] = field(default_factory=set)
    steps: list[Process] = field(default_factory=list)
    started: float = 0.0
    report: Report | None = None
    sent: Report | None = None
    sent_at: float = 0.0
    credit: float = BURST
    """Changes that may still be told at once."""
    credited_at: float = 0.0
    heard_out: bool = False
    """Its last words were read, where Epilog has set its directory aside."""
    empty_since: float | None = None
    gone: bool = False


class Jobs:
    """All attempts that have a directory on this node, or had one and still have processes."""

    def __init__(
        self,
        dirs: JobDirs,
        processes: Processes,
        clock: Clock,
        enrich: Callable[[ContextFile], ContextFile],
        on_report: Callable[[Report], None],
        on_gone: Callable[[JobKey], None],
    ) -> None:
        self._dirs = dirs
        self._processes = processes
        self._clock = clock
        self._enrich = enrich
        self._on_report = on_report
        self._on_gone = on_gone
        self._jobs: dict[JobKey, Job] = {}
        self._own: tuple[Notice, ...] = ()
        self._steps: dict[int, list[Process]] | None = None
        self._began = False

    @property
    def reports(self) -> Mapping[JobKey, Report]:
        """The last word of each attempt that is not gone."""
        return {key: job.report for key, job in self._jobs.items() if job.report is not None and not job.gone}

    @property
    def urgent(self) -> bool:
        """Whether a notice is in force, so that every tick counts."""
        return bool(self._own) or any(job.told for job in self._jobs.values())

    def set_own(self, notices: Iterable[Notice]) -> None:
        """Set the notices of this node; they hold for every job on it, also for those that come later."""
        self._own = tuple(notices)
        for job in self._jobs.values():
            for notice in self._own:  # told before a restart, and read back from the file as if from elsewhere
                job.prepared.pop(notice.id, None)

    def prepare(self, job_ids: Iterable[int], notice: Notice, *, cancelled: bool) -> None:
        """Tell (or stop telling) jobs of a notice for another of their nodes.

        A job that is not here is passed over, and so is an attempt that had not begun when the notice came: it is not on the doomed node
        any more (Epilog makes the next attempt's directory ahead), or is requeued before it begins.
        """
        wanted = set(job_ids)
        for job in self._jobs.values():
            if job.key.job_id not in wanted or job.gone:
                continue
            if cancelled:
                job.prepared.pop(notice.id, None)
            elif not 0 < job.started <= notice.received + CLOCKS_DIFFER_S:
                continue
            elif len(job.prepared) < MAX_PREPARED:
                job.prepared.setdefault(notice.id, notice)

    def disown(self, given_here: Callable[[Notice], bool]) -> None:
        """Stop telling jobs of notices which were for this node and are no longer among those that `set_own` got."""
        for job in self._jobs.values():
            for notice in [notice for notice in job.prepared.values() if given_here(notice)]:
                del job.prepared[notice.id]

    def occupied(self) -> bool:
        """Whether any job's process is left on this node, also of jobs without a directory of ours."""
        return bool(self._processes.steps()) or any(rank.alive for job in self._jobs.values() for rank in self._ranks(job).values())

    def any_left(self) -> bool:
        """Whether a job's process is left on this node, or may be: a slurmstepd that cannot be told apart counts."""
        return self.occupied() or self.steps() is None

    def steps(self) -> frozenset[int] | None:
        """Return the jobs that have a slurmstepd on this node, also those without a directory of ours; None where that is not clear."""
        return self._processes.step_jobs()

    def resend(self) -> None:
        """Report everything anew: the controller may have lost it."""
        for job in self._jobs.values():
            job.sent = None

    def tick(self) -> None:
        """Bring disk, processes and reports in line. Raises OSError where our own directories cannot be used."""
        self._steps = None
        present = self._dirs.keys()
        ended = frozenset() if self._began else self._dirs.keys(aside=True)  # while we were being restarted
        self._began = True
        for key in sorted((present | ended) - self._jobs.keys()):
            self._jobs[key] = self._adopt(key)
        for key, job in sorted(self._jobs.items()):
            try:
                self._attend(job, key in present)
            except (OSError, ValueError) as error:  # a full disk, or a word that fits no file, must not keep the other jobs from hearing
                self._fault(job, "node/", str(error)[:200])
        for key in [key for key, job in self._jobs.items() if job.gone and key not in present]:
            del self._jobs[key]

    def _attend(self, job: Job, here: bool) -> None:
        if here:
            self._tell(job)
            self._read(job)
        elif not job.heard_out:
            job.heard_out = True
            claims = self._dirs.claims(job.key, aside=True)
            if claims is not None:
                self._take(job, claims)
        self._look(job)
        self._wake(job)
        self._conclude(job, here)
        if here:
            self._add_context(job)

    def _adopt(self, key: JobKey) -> Job:
        """Take up a directory: a new job's, or one that stood here when we were started."""
        job = Job(key, self._clock.now())
        text = self._dirs.read_node(key, "notice.json")
        if text is not None:
            try:
                file = parse(NoticeFile, text)
            except InputError as error:
                log.warning("job %s: notice.json is void and is written anew: %s", key, error)
                self._dirs.remove_node(key, "notice.json")
            else:
                job.told = file
                if file.id not in {notice.id for notice in self._own}:
                    deadline = file.received if file.deadline is None else file.deadline
                    job.prepared[file.id] = Notice(file.id, NoticeKind(file.kind), deadline, file.received, file.reason)
        return job

    def _tell(self, job: Job) -> None:
        now = self._clock.now()
        notice = strongest((*self._own, *job.prepared.values()), now)
        file = None if notice is None else notice_file(notice, now)
        if file == job.told:
            return
        if file is None:
            self._dirs.remove_node(job.key, "notice.json")
            log.info("job %s: the notice is cancelled", job.key)
        elif self._dirs.write_node(job.key, "notice.json", dump(file)):
            log.info("job %s: told of %s (%s)", job.key, file.id, file.action)
        else:
            return
        job.told = file

    def _add_context(self, job: Job) -> None:
        """Add to `context.json` what the agent knows, once Prolog has written it, and again when that changes."""
        if job.enriched is not None and self._enrich(job.enriched) == job.enriched:
            return
        text = self._dirs.read_node(job.key, "context.json")
        if text is None:
            return
        try:
            context = parse(ContextFile, text)
        except InputError as error:
            self._fault(job, "node/context.json", f"void: {error}")
            return
        enriched = self._enrich(context)
        if enriched == context or self._dirs.write_node(job.key, "context.json", dump(enriched)):
            job.enriched = enriched

    def _read(self, job: Job) -> None:
        now, stamp = self._clock.monotonic(), self._dirs.stamp(job.key, "job")
        if stamp == job.stamp and now - job.read_at < REREAD_S:
            return
        claims = self._dirs.claims(job.key)
        if claims is None:
            return
        # The stamp is from before the reading: what is renamed in meanwhile changes it, and is read at the next tick.
        job.stamp, job.read_at = stamp, now
        self._take(job, claims)

    def _take(self, job: Job, claims: Claims) -> None:
        job.uid = claims.uid
        faults, files, status = dict(claims.faults), {}, None
        for name, text in claims.texts.items():
            try:
                rank = rank_of(name)
                if rank is None:
                    status = parse(StatusFile, text)
                else:
                    files[rank] = _registered(rank, text)
            except InputError as error:
                faults[name] = str(error)
        job.files, job.status = files, status
        known = {(file.pid, file.started) for file in files.values()}
        job.foreign = {identity: at for identity, at in job.foreign.items() if identity in known}
        for name, fault in faults.items():
            self._fault(job, f"job/{name}", f"void: {fault}")
        job.faults = {name: fault for name, fault in job.faults.items() if name.removeprefix("job/") in faults or name.startswith("node/")}

    def _fault(self, job: Job, name: str, fault: str) -> None:
        if job.faults.get(name) == fault:
            return
        job.faults[name] = fault
        job.fault_lines += 1
        if job.fault_lines <= MAX_FAULT_LINES:
            log.warning("job %s: %s: %s%s", job.key, name, fault, "" if job.fault_lines < MAX_FAULT_LINES else " (no more of this job)")

    def _ranks(self, job: Job) -> dict[int, Rank]:
        ranks = {}
        for number, file in job.files.items():
            identity = (file.pid, file.started)
            process = self._processes.alive(*identity, ticks=job.verified.get(identity))
            ours = process is not None and process.uid == job.uid
            if process is not None and ours and self._verified(job, process, identity):
                ranks[number] = Rank(file, alive=True)
            else:
                ranks[number] = Rank(file, alive=False if identity in job.verified else None)
        return ranks

    def _verified(self, job: Job, process: Process, identity: tuple[int, float]) -> bool:
        now = self._clock.monotonic()
        if identity not in job.verified and now - job.foreign.get(identity, -math.inf) >= FOREIGN_S:
            if self._processes.in_job(process, job.key.job_id):
                job.verified[identity] = process.ticks
            else:
                job.foreign[identity] = now
        return identity in job.verified

    def _look(self, job: Job) -> None:
        """Find the job's processes, and put together what it says."""
        job.steps = [step for step in job.steps if self._processes.alive(step.pid, step.started, ticks=step.ticks)]
        if not job.steps:
            if self._steps is None:
                self._steps = self._processes.steps()
            job.steps = self._steps.get(job.key.job_id, [])
        ranks = self._ranks(job)
        if not job.started:
            starts = [step.started for step in job.steps] + [rank.file.started for rank in ranks.values() if rank.alive]
            job.started = min(starts, default=0.0)
        alive = bool(job.steps) or any(rank.alive for rank in ranks.values())
        job.empty_since = None if alive else job.empty_since or self._clock.monotonic()
        if job.started or job.files:
            now = self._clock.now()
            leave = {notice.id for notice in (*self._own, *job.prepared.values()) if notice.evacuates(now)}
            job.report = summarize(job.key, job.started, ranks, job.status, leave)

    def _wake(self, job: Job) -> None:
        """Send each registered process its wake-up once per notice. The file is the truth: a signal that is not sent costs only time."""
        if job.told is None:
            return
        for file in job.files.values():
            mark = (file.pid, job.told.id, job.told.action)
            number = wake_signal(file.wake_signal)
            if mark in job.woken or file.state == "done":
                continue
            job.woken.add(mark)
            if number is None:
                continue
            ticks = job.verified.get((file.pid, file.started))
            fault = self._processes.wake(file.pid, file.started, job.uid, job.key.job_id, number, ticks=ticks)
            log.log(logging.WARNING if fault else logging.INFO, "job %s rank %d: %s", job.key, file.rank, fault or "woken")

    def _conclude(self, job: Job, here: bool) -> None:
        """Send what has changed up: a report, or that the job is gone."""
        now = self._clock.monotonic()
        seen = job.started or job.files
        if job.empty_since is None:
            job.gone = False
        elif not job.gone and (not here or (seen and now - job.empty_since >= GONE_HOLD_S)):
            job.gone = True
            if seen:
                self._report(job, now)
            self._on_gone(job.key)
            job.sent = job.report
        if not job.gone and seen:
            self._report(job, now)

    def _report(self, job: Job, now: float) -> None:
        report = job.report
        if report is None or report == job.sent:
            return
        if report.same_but_progress(job.sent) and now - job.sent_at < PROGRESS_S:
            return
        job.credit = min(BURST, job.credit + (now - job.credited_at) / REPORT_S)
        job.credited_at = now
        if job.credit < 1 and not job.gone:
            return
        job.credit -= 1
        job.sent, job.sent_at = report, now
        self._on_report(report)


def notice_file(notice: Notice, now: float) -> NoticeFile:
    """Return the notice as the job reads it at `now`: maintenance that comes near asks for more than it did."""
    deadline = None if notice.kind is NoticeKind.ADVISE else max(0.0, notice.deadline)
    return NoticeFile.model_validate(
        {
            "v": 1,
            "id": notice.id[:256],
            "kind": notice.kind.value,
            "deadline": deadline,
            "received": notice.received,
            "reason": notice.reason[:1024],
            "action": "save_and_park" if notice.evacuates(now) else "save",
        }
    )


def _registered(rank: int, text: bytes) -> RankFile:
    file = parse(RankFile, text)
    if file.rank != rank:
        raise InputError(f"says that it is rank {file.rank}")
    return file
