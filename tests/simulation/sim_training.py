"""Training jobs that save when they are told to, park, and go on from their newest save in the next attempt."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import sim_health
import sim_promises as promises
from holdfast_nodeagent.claims import Report
from holdfast_nodeagent.jobdirs import JobKey
from holdfast_protos.v1 import agent_pb2 as pb
from sim_kinds import EXIT_CODE, KINDS, Kind
from sim_machines import SimMachine

if TYPE_CHECKING:
    from holdfast_slurm.fake import FakeJob
    from sim_world import World

STEP_S = 0.5
LOAD_S = 1.0
PARK_LIMIT_S = 60.0
"""A parked job that still lives so long after its deadline goes on (a reclaim was cancelled)."""
STOP_S = 0.05


@dataclass
class Attempt:
    """One run of the batch script."""

    number: int
    nodes: tuple[str, ...]
    machines: list[SimMachine]
    began: float
    began_at_step: float
    state: str = ""
    notice_id: str = ""
    step: float = 0.0
    ended: float | None = None
    leaving: bool = False
    """It saves, and then exits by itself."""
    parked_at: float | None = None
    lingers_until: float = 0.0
    """Its processes take so long to end."""
    boots: list[int] = field(default_factory=list)
    """Which boot of each machine it runs under."""

    def __post_init__(self) -> None:
        """Note the boots."""
        self.boots = [machine.boots for machine in self.machines]

    def lives_on(self, machine: SimMachine) -> bool:
        """Whether its processes are on the machine: not since a reboot."""
        return any(each is machine and each.boots == boots for each, boots in zip(self.machines, self.boots, strict=True))

    @property
    def well(self) -> bool:
        """Whether all its machines run, and its processes on them."""
        return len(self.machines) == len(self.nodes) and all(machine.well and self.lives_on(machine) for machine in self.machines)


@dataclass
class SimJob:
    """A job over all its attempts. Steps are seconds of training."""

    key: str
    num_nodes: int
    work: float
    save_s: float = 1.0
    every_s: float = 20.0
    kind: str = "library"
    """One of `KINDS`."""
    job_id: int = 0
    saved: float = 0.0
    done_at: float | None = None
    lost: float = 0.0
    """Steps that were trained and not saved when an attempt ended."""
    attempts: list[Attempt] = field(default_factory=list)
    crashed_at: float | None = None
    """When its program failed last because of a sick machine."""
    unsure: bool = False
    """It has failed for good, unless the agent's last word, of which nobody knows whether it came, has it run again."""
    over: bool = False
    """Cancelled by its user, or lost where it could not be requeued."""

    @property
    def registers(self) -> bool:
        """Whether its processes register with the agent."""
        return self.how.registers

    @property
    def how(self) -> Kind:
        """What jobs of its kind do."""
        return KINDS[self.kind]

    @property
    def finished(self) -> bool:
        """Whether nothing more is to come of it."""
        return self.done_at is not None or self.over

    @property
    def running(self) -> Attempt | None:
        """The attempt that runs."""
        last = self.attempts[-1] if self.attempts else None
        return last if last is not None and last.ended is None else None


class Training:
    """All jobs; hears from the fake Slurm when a batch script begins and when it is ended."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.jobs: dict[str, SimJob] = {}

    def began(self, fake: "FakeJob") -> None:
        """The batch script begins."""
        job = self.jobs[fake.key]
        if job.unsure:
            job.over = job.unsure = False
        if job.finished:
            self.world.wrong(f"job {job.key} runs again (attempt {fake.restarts}) although it had finished")
        if job.running is not None:
            self.world.wrong(f"job {job.key}: attempt {fake.restarts} begins while attempt {job.running.number} runs")
        promises.two_live_attempts(self.world, job)
        holders = [self.world.room.holder(name) for name in fake.nodes]
        machines = [machine for machine in holders if machine is not None]
        attempt = Attempt(fake.restarts, fake.nodes, machines, self.world.clock.now(), job.saved, step=job.saved)
        job.attempts.append(attempt)
        sim_health.begins(self.world, job, attempt)
        self.world.spawn(self._run(job, attempt))

    def ended(self, key: str) -> None:
        """Slurm ends the run (TERM: a parked process exits at once)."""
        job = self.jobs.get(key)
        attempt = job.running if job is not None else None
        if job is not None and attempt is not None:
            attempt.ended = self.world.clock.now()
            stop_s = self.world.slurm.fake_job(key).stop_s
            attempt.lingers_until = attempt.ended + (STOP_S if stop_s is None else stop_s)
            if not job.finished:
                promises.steps_lost(self.world, job, attempt)
                promises.requeued_in_time(self.world, job, attempt)
            job.lost += attempt.step - job.saved if job.done_at is None else 0.0
            self.world.spawn(self._leave(job, attempt))

    def signalled(self, fake: "FakeJob") -> None:
        """USR1 has come: save, and exit so that the controller knows why."""
        job = self.jobs[fake.key]
        attempt = job.running
        if attempt is not None and not attempt.leaving:
            attempt.leaving = True
            self.world.spawn(self._save_and_exit(job, attempt))

    async def _save_and_exit(self, job: SimJob, attempt: Attempt) -> None:
        await self.world.clock.sleep(job.save_s)
        while self.world.slurm.engine.away:
            await self.world.clock.sleep(STEP_S)
        if not self._lives(job, attempt):
            return
        job.saved = attempt.step
        if job.how.leaves == "requeue":
            self.world.slurm.engine.requeue(self.world.slurm.fake_job(job.key))
            return
        # With 0, and with 1, it is done: a job that ends by itself is run again only where it said that it wants that.
        job.over = job.how.leaves != "declared"
        self.world.slurm.finish(job.key, {"declared": EXIT_CODE, "failed": 1}.get(job.how.leaves, 0))

    def _lives(self, job: SimJob, attempt: Attempt) -> bool:
        fake = self.world.slurm.engine.queue.get(job.key)
        here = fake is not None and fake.state == "RUNNING" and fake.restarts == attempt.number
        # A job that ends while slurmctld is away, and whose machine dies before it is back, has not ended for anybody.
        return here and attempt.ended is None and attempt.well and not self.world.slurm.engine.away

    async def _leave(self, job: SimJob, attempt: Attempt) -> None:
        await self.world.clock.sleep(attempt.lingers_until - self.world.clock.now())
        for machine in attempt.machines:
            machine.prepared.pop(job.job_id, None)
            machine.agent.put(f"job:{job.key}.{attempt.number}", job_gone=pb.JobGone(job_id=job.job_id, attempt=attempt.number))

    async def _run(self, job: SimJob, attempt: Attempt) -> None:
        clock = self.world.clock
        self._report(job, attempt)
        await clock.sleep(LOAD_S)
        attempt.state = "running"
        self._report(job, attempt)
        since_save = 0.0
        while attempt.ended is None:
            notices = [notice for machine in attempt.machines for notice in machine.notices(job.job_id)]
            if attempt.leaving or not attempt.well:
                await clock.sleep(STEP_S)  # a save, or a collective operation that hangs: nothing goes on until Slurm ends the attempt
            elif job.registers and notices and clock.now() < max(notice.deadline for notice in notices) + PARK_LIMIT_S:
                await self._park(job, attempt, notices[0].id)
            else:
                if attempt.state != "running":
                    attempt.state, attempt.notice_id, attempt.parked_at = "running", "", None
                    self._report(job, attempt)
                await clock.sleep(STEP_S)
                attempt.step += STEP_S
                since_save += STEP_S
                if since_save >= job.every_s:
                    since_save = 0.0
                    job.saved = attempt.step if job.how.saves else job.saved
                if attempt.step >= job.work and attempt.ended is None:
                    self._finish(job, attempt)

    def _finish(self, job: SimJob, attempt: Attempt) -> None:
        if self._lives(job, attempt):
            job.done_at = self.world.clock.now()
            job.saved = attempt.step
            self.world.slurm.finish(job.key)

    async def _park(self, job: SimJob, attempt: Attempt, notice_id: str) -> None:
        if attempt.state != "parked":
            attempt.state, attempt.notice_id = "saving", notice_id
            self._report(job, attempt)
            await self.world.clock.sleep(job.save_s)
            if attempt.ended is not None or not attempt.well:
                return
            job.saved = attempt.step
            attempt.state, attempt.parked_at = "parked", self.world.clock.now()
            self._report(job, attempt)
        elif attempt.notice_id not in {notice.id for machine in attempt.machines for notice in machine.notices(job.job_id)}:
            attempt.notice_id = notice_id  # as the library does: who is parked answers the notice that stands
        await self.world.clock.sleep(STEP_S)
        self._report(job, attempt)

    def reports(self, machine: SimMachine) -> dict[JobKey, Report]:
        """What the agent of a machine knows of the jobs there."""
        found = {}
        for job, attempt in self._here(machine):
            status = self._status(job, attempt, machine)
            key = JobKey(job.job_id, attempt.number)
            found[key] = Report(
                key,
                attempt.began,
                status.state,
                status.notice_id,
                status.step,
                status.saved_step if status.ranks else -1,
                all_ranks_parked=status.all_ranks_parked,
                ranks=status.ranks,
            )
        return found

    def steps(self, machine: SimMachine) -> list[int]:
        """The jobs that have a process of Slurm's on a machine: on each for a job that registers, on the first for any other."""
        return [job.job_id for job, attempt in self._here(machine) if job.registers or machine is attempt.machines[0]]

    def began_at(self, machine: SimMachine, job_id: int) -> float | None:
        """When the attempt of the job began that runs on a machine; None: none does."""
        return next((attempt.began for job, attempt in self._here(machine) if job.job_id == job_id), None)

    def occupied(self, machine: SimMachine) -> bool:
        """Whether a job's process is left on a machine."""
        return bool(self._here(machine))

    def _here(self, machine: SimMachine) -> list[tuple[SimJob, Attempt]]:
        running = ((job, job.running) for job in self.jobs.values())
        return [(job, attempt) for job, attempt in running if attempt is not None and attempt.lives_on(machine)]

    def resend(self, machine: SimMachine) -> None:
        """Say again what holds on a machine."""
        for job, attempt in self._here(machine):
            self._say(job, attempt, machine)

    def _report(self, job: SimJob, attempt: Attempt) -> None:
        for machine in attempt.machines:
            if machine.alive and attempt.ended is None and attempt.lives_on(machine):
                self._say(job, attempt, machine)

    def _say(self, job: SimJob, attempt: Attempt, machine: SimMachine) -> None:
        machine.agent.put(f"job:{job.key}.{attempt.number}", job_status=self._status(job, attempt, machine))

    def _status(self, job: SimJob, attempt: Attempt, machine: SimMachine) -> pb.JobStatus:
        known = {notice.id for notice in machine.notices(job.job_id)}
        status = pb.JobStatus(job_id=job.job_id, attempt=attempt.number, started=attempt.began)
        if job.registers and attempt.state:
            status.state, status.notice_id, status.ranks = attempt.state, attempt.notice_id, 1
            status.step, status.saved_step = int(attempt.step), int(job.saved) if job.saved else -1
            status.all_ranks_parked = attempt.state == "parked" and attempt.notice_id in known
        return status


def running(job: SimJob, attempt: int = 0) -> Callable[[], bool]:
    """Return whether this attempt of the job trains."""
    return lambda: job.running is not None and job.running.number == attempt and job.running.state == "running"
