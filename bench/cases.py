"""Interruptions on a sandbox with all of Holdfast: one- and two-node jobs, with an idle node free and with a fresh one to be bought."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.cluster_config import SandboxConfig
from holdfast_sandbox.defaults import default_controller
from holdfast_sandbox.layout import PARTITION
from holdfast_sandbox.record import read_record

from bench.evidence import Interruption, Records, read_journal, read_slurmctld_log
from bench.jobs import Job, Start

NODES = 12
NOTICE_S = 60.0
POLL_S = 0.1
LONGEST_S = 90.0
BEFORE_KILL_S = 1.5
"""A job that writes no notes of its own is left to run for so long."""
GOLDEN = 0.618034
"""Its multiples spread evenly over a second: notices come at ever other places within Slurm's rounds, so that no one phase is measured."""


@dataclass(frozen=True, slots=True)
class Case:
    """One situation in which a notice comes."""

    name: str
    nodes: int
    fresh: bool
    lost: bool = False
    """The machine goes without a notice."""
    step: bool = True
    """Of two nodes: whether a step of srun runs on both."""
    host: bool = False
    """Of two nodes: whether the one that goes is the batch script's."""


CASES = (
    Case("1 node, an idle node free", 1, False),
    Case("1 node, fresh node", 1, True),
    Case("2 nodes, survivor + idle", 2, False),
    Case("2 nodes, survivor + fresh", 2, True),
)
LOSSES = (
    Case("1 node lost, an idle node free", 1, False, lost=True),
    Case("1 node lost, fresh node", 1, True, lost=True),
    Case("2 nodes, srun step, one lost", 2, False, lost=True),
    Case("2 nodes, srun step, batch host lost", 2, False, lost=True, host=True),
    Case("2 nodes, no step, batch host lost", 2, False, lost=True, step=False, host=True),
)
"""Without a notice."""


@dataclass(frozen=True, slots=True)
class FirstStart:
    """A job's first start, on nodes that were bought for it."""

    job_id: int
    submitted: float
    start: Start


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, and what was written down about it."""

    interruptions: tuple[Interruption, ...]
    first_starts: tuple[FirstStart, ...]
    records: Records


def config(boot_delay_s: float) -> SandboxConfig:
    """Return the sandbox: the settings of `holdfast slurm-conf`, unchanged."""
    return SandboxConfig(nodes=NODES, boot_delay_s=boot_delay_s, zones=2, controller=default_controller())


def plan(count: int) -> list[Case]:
    """Return `count` cases: as many of each as of any other (the first ones more), those of one job together."""
    share = [CASES[number % len(CASES)] for number in (0, 2, 1, 3)]
    chosen = [share[number % len(share)] for number in range(count)]
    return [case for nodes in (1, 2) for case in chosen if case.nodes == nodes]


def plan_losses(count: int) -> list[Case]:
    """Return `count` losses: six in ten of a single-node job, those of one job together."""
    order = (0, 1, 2, 0, 1, 4, 0, 1, 3, 4)
    chosen = [LOSSES[order[number % len(order)]] for number in range(count)]
    return sorted(chosen, key=lambda case: (case.nodes, not case.step))


class Bed:
    """A sandbox in which interruptions are made."""

    def __init__(self, sandbox: Sandbox, folder: Path, say: Callable[[str], None]) -> None:
        self._sandbox = sandbox
        self._folder = folder
        self._say = say
        self._first: list[FirstStart] = []

    def run(self, cases: list[Case], cold_starts: int) -> Outcome:
        """Interrupt, and measure `cold_starts` further first starts. Raises TimeoutError, CalledProcessError, CloudControlError."""
        made: list[Interruption] = []
        for kind in dict.fromkeys((case.nodes, case.step) for case in cases):
            job = Job(self._folder / f"job-{kind[0]}{'' if kind[1] else '-bare'}", kind[0])
            job_id = self._start(job, registers=kind[1])
            for number, case in enumerate(case for case in cases if (case.nodes, case.step) == kind):
                made.append(self._interrupt(case, job, job_id, number))
            self._end(job_id)
        for number in range(cold_starts):
            self._cold_start(number)
        return Outcome(tuple(made), tuple(self._first), self._records())

    def _start(self, job: Job, *, registers: bool) -> int:
        script = job.write_script(self._sandbox.site.python) if registers else job.write_plain_script("sleep 100000")
        return self._submit(job, script, "--exclusive", f"--nodes={job.nodes}")

    def _submit(self, job: Job, script: Path, *arguments: str) -> int:
        submitted = time.time()
        job_id = self._sandbox.slurm.submit("-p", PARTITION, *arguments, "-o", str(job.folder / "out.txt"), str(script))
        start = self._await_start(job, 0)
        self._first.append(FirstStart(job_id, submitted, start))
        return job_id

    def _end(self, job_id: int) -> None:
        """End the job, and give its nodes back, so that the next one starts on nodes of its own."""
        self._sandbox.run(["scancel", str(job_id)])
        self._sandbox.slurm.await_job(job_id, {"CANCELLED"}, 30)
        self._give_back(self._idle_nodes())

    def _cold_start(self, number: int) -> None:
        job = Job(self._folder / f"cold-{number}", 1 + number % 2)
        job_id = self._submit(job, job.write_plain_script("sleep 60"), "--exclusive", f"--nodes={job.nodes}")
        self._end(job_id)

    def _interrupt(self, case: Case, job: Job, job_id: int, number: int) -> Interruption:
        attempt = job.starts()[-1].attempt
        if case.step:
            _wait(lambda: job.training(attempt), f"attempt {attempt} of job {job_id} to train")
        else:
            time.sleep(BEFORE_KILL_S)
        self._set_idle(0 if case.fresh else 1)
        time.sleep(0.5 + (number * GOLDEN - time.time()) % 1.0)
        before = job.starts()[-1].nodes
        doomed = before[0 if case.host else -1] if case.lost else before[number // 2 % len(before)]
        instance_id = self._sandbox.instances.instance_of(doomed)
        killed_at = time.time() if case.lost else None
        if case.lost:
            self._sandbox.cloud.kill(instance_id)
        else:
            self._sandbox.cloud.reclaim(instance_id, notice_s=NOTICE_S)
        start = self._await_start(job, attempt + 1)
        made = Interruption(case.name, job, job_id, attempt, doomed, instance_id, before, start.nodes, start.at, case.fresh, killed_at)
        self._say(f"{case.name}: {doomed} of {', '.join(before)} went away, attempt {start.attempt} runs on {', '.join(start.nodes)}")
        return made

    def _await_start(self, job: Job, attempt: int) -> Start:
        _wait(lambda: any(start.attempt == attempt for start in job.starts()), f"attempt {attempt} of the job in {job.folder}")
        return next(start for start in job.starts() if start.attempt == attempt)

    def _set_idle(self, count: int) -> None:
        """Have exactly so many nodes up and idle."""
        idle = self._idle_nodes()
        self._give_back(idle[count:])
        for name in self._free_names()[: count - len(idle)]:
            self._sandbox.run(["scontrol", "update", f"nodename={name}", "state=POWER_UP"])
        _wait(lambda: len(self._idle_nodes()) == count, f"{count} idle nodes")

    def _give_back(self, names: list[str]) -> None:
        if names:
            self._sandbox.run(["scontrol", "update", f"nodename={','.join(names)}", "state=POWER_DOWN"])
            _wait(lambda: not set(names) & set(self._idle_nodes()), "nodes to be given back")

    def _idle_nodes(self) -> list[str]:
        return [name for name, state in self._states() if state == "idle"]

    def _free_names(self) -> list[str]:
        return [name for name, state in self._states() if state == "idle~"]

    def _states(self) -> Iterator[tuple[str, str]]:
        """Yield each node and its state as sinfo abbreviates it: `idle` is up, `idle~` is powered down."""
        done = self._sandbox.run(["sinfo", "-h", "-N", "-p", PARTITION, "-o", "%N %t"])
        for line in done.stdout.splitlines():
            name, _, state = line.partition(" ")
            yield name, state.strip()

    def _records(self) -> Records:
        layout = self._sandbox.layout
        return Records(
            cloud=read_record(layout.cloud / "cloud.jsonl"),
            journal=read_journal(layout.controller_state / "journal.sqlite"),
            slurmctld=read_slurmctld_log(layout.log / "slurmctld.log"),
        )


def _wait(holds: Callable[[], bool], what: str, timeout_s: float = LONGEST_S) -> None:
    ends = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > ends:
            raise TimeoutError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(POLL_S)
