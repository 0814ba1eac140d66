"""What goes on inside the fake Slurm by itself: scheduling, power, the start and the end of jobs."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context

from holdfast_common.clock import Clock

from holdfast_slurm import fake_schedule
from holdfast_slurm.fake_model import ENDED, FakeJob, FakeNode, FakeSettings, Gate, Hook, by_age

SCHED_INTERVAL_S = 60.0
"""slurm.conf's sched_interval: between looks of the main scheduler at which nothing has happened."""


class Engine:
    """State and time of the fake. Everything happens through timers on the clock, one task each, so that virtual time orders them."""

    def __init__(self, clock: Clock, settings: FakeSettings) -> None:
        self.clock = clock
        self.settings = settings
        self.fleet: dict[str, FakeNode] = {}
        self.queue: dict[str, FakeJob] = {}
        self.log: list[tuple[float, str, str]] = []
        """What happened: time, event, node or job."""
        self.on_resume: Hook | None = None
        self.on_suspend: Hook | None = None
        self.on_resume_fail: Hook | None = None
        self.on_gate: Gate | None = None
        self.observer: Callable[[str, str], None] | None = None
        """Called with each entry of the log at once: event, node or job."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._look_due = self._backfill_due = self._again_due = False
        self.swallow = 0
        """So many of the next launches of batch jobs never reach a node, though slurmctld has the job RUNNING (measured on 26.05)."""

        self.away = False
        """slurmctld does not run: jobs and machines go on, and what they have to say waits for it."""
        self._back = asyncio.Event()

    # --- slurmctld itself

    def stop(self) -> None:
        """SIGTERM: it has saved what it knows."""
        self.away = True
        self._back.clear()
        self.note("slurmctld ends", "")

    def start_again(self, *, was_killed: bool = False) -> None:
        """Begin anew. Measured: PrologSlurmctld runs again for jobs that configure, and ResumeProgram, too, if it had been killed."""
        self.away = False
        self._back.set()
        self.note("slurmctld starts", "")
        if was_killed:
            self.call(self.on_resume, "ResumeProgram", [node.name for node in self.fleet.values() if node.power == "resuming"])
        self.gates_again()
        self.look()

    def gates_again(self) -> None:
        """Run PrologSlurmctld for the jobs that wait for their nodes."""
        for job in self.queue.values():
            if job.state == "CONFIGURING" and any(self.fleet[name].power != "on" for name in job.nodes):
                self._gate(job)

    # --- timers

    def start(self, work: Awaitable[None]) -> None:
        """Run in the background until done or `close`."""

        async def run() -> None:
            await work

        task = asyncio.get_running_loop().create_task(run(), context=Context())  # slurmctld's own doing, not the caller's
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do `action` in `delay_s` seconds of the clock."""

        async def wait() -> None:
            await self.clock.sleep(delay_s)
            while self.away:
                await self._back.wait()
            action()

        self.start(wait())

    async def close(self) -> None:
        """Cancel everything under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def note(self, event: str, subject: str) -> None:
        """Add to the log."""
        self.log.append((self.clock.now(), event, subject))
        if self.observer is not None:
            self.observer(event, subject)

    # --- scheduling

    def look(self) -> None:
        """Have the scheduler look soon."""
        if not self._look_due:
            self._look_due = True
            self.later(self.settings.schedule_s, self._schedule)

    def _schedule(self) -> None:
        self._look_due = False
        for job, names in fake_schedule.main(self.queue.values(), self.fleet, self.clock.now()):
            self._allocate(job, names)
        self._look_again()
        waits = any(job.reason in {"Resources", "Priority"} for job in self.queue.values() if job.state == "PENDING")
        if waits and self.settings.backfill_s is not None and not self._backfill_due:
            self._backfill_due = True
            self.later(self.settings.backfill_s, self._backfill)

    def _look_again(self) -> None:
        """Slurm looks now and then, too: where its clock was set back, the moment at which a job was to be eligible comes later."""
        if self._again_due or not any(job.state == "PENDING" and job.reason == "BeginTime" for job in self.queue.values()):
            return
        self._again_due = True

        def again() -> None:
            self._again_due = False
            self.look()

        self.later(SCHED_INTERVAL_S, again)

    def _backfill(self) -> None:
        self._backfill_due = False
        now = self.clock.now()
        for job, names in fake_schedule.backfill(self.queue.values(), self.fleet, self._ends(now), now):
            self.note("backfill", job.key)
            self._allocate(job, names)

    def _ends(self, now: float) -> dict[str, float]:
        """Return until when each node in use may be in use."""
        ends: dict[str, float] = {}
        for job in self.queue.values():
            limit_s = fake_schedule.UNLIMITED_S if job.time_limit_s is None else job.time_limit_s
            until = now if job.completing else job.start_time + limit_s
            for name in job.nodes if job.state in {"RUNNING", "CONFIGURING"} else job.completing_on:
                ends[name] = max(now, until, ends.get(name, now))
        return ends

    def _allocate(self, job: FakeJob, names: tuple[str, ...]) -> None:
        job.nodes, job.reason, job.start_time, job.end_time = names, "", self.clock.now(), 0.0
        job.state = "CONFIGURING"
        self.note("allocate", job.key)
        for name in names:
            self.fleet[name].jobs[job.key] = False
            self.fleet[name].shared = job.shared
        off = [name for name in names if self.fleet[name].power == "off"]
        if off:
            self.power_up(off)
        if any(self.fleet[name].power != "on" for name in names):
            self._await_nodes(job)
        else:
            self._launch(job)

    def _await_nodes(self, job: FakeJob) -> None:
        self._gate(job)
        self._tick(job, job.restarts)

    def _gate(self, job: FakeJob) -> None:
        attempt = job.restarts
        if self.settings.gate and self.on_gate is not None:
            gate = self.on_gate

            async def wait() -> None:
                await gate(job)
                while self.away:
                    await self._back.wait()
                self.start_if_up(job, attempt)

            self.start(wait())

    def _tick(self, job: FakeJob, attempt: int) -> None:
        def again() -> None:
            if job.state == "CONFIGURING" and job.restarts == attempt:
                self.start_if_up(job, attempt)
                self._tick(job, attempt)

        self.later(self.settings.tick_s - self.clock.now() % self.settings.tick_s, again)

    def start_if_up(self, job: FakeJob, attempt: int) -> None:
        """Launch the attempt if it still waits for its nodes and all have registered."""
        if job.state == "CONFIGURING" and job.restarts == attempt and all(self.fleet[name].power == "on" for name in job.nodes):
            self._launch(job)

    def _launch(self, job: FakeJob) -> None:
        now = self.clock.now()
        if any(int(self.fleet[name].left_at.get(job.key, -1.0)) == int(now) for name in job.nodes):
            # Measured: launched on a node within the second in which its credential there was revoked.
            self.note("Job credential revoked", job.key)
            self.end(job, "FAILED", "NonZeroExitCode", 1)
            return
        job.state, job.start_time = "RUNNING", now
        if self.swallow > 0 and job.batch and job.requeue:
            self.swallow -= 1
            self.note("never launched", job.key)
        elif self.settings.prolog_s:
            job.reason, attempt = "Prolog", job.restarts
            self.later(self.settings.prolog_s, lambda: self._begin(job, attempt))
        else:
            self._begin(job, job.restarts)

    def _begin(self, job: FakeJob, attempt: int) -> None:
        """Let the batch script begin, if the attempt is still there."""
        if job.state != "RUNNING" or job.restarts != attempt:
            return
        job.reason = ""
        job.attempts += 1
        self.note("start", job.key)
        if job.duration_s is not None:
            self.later(job.duration_s, lambda: self.finish_run(job, attempt, 0))

    def finish_run(self, job: FakeJob, attempt: int, exit_code: int) -> None:
        """End the run by itself, if it is still that one and its machines live."""
        if job.state == "RUNNING" and job.restarts == attempt and self.fleet[job.nodes[0]].machine:
            self.end(job, "FAILED" if exit_code else "COMPLETED", "NonZeroExitCode" if exit_code else "", exit_code)

    # --- reservations

    def reserve(self, name: str, nodes: Sequence[FakeNode]) -> None:
        """Keep the nodes, and no others, for the jobs that use the reservation."""
        if not any(node.reservation == name for node in self.fleet.values()):
            self.later(self.settings.purge_s, lambda: self._purge(name))
        self.unreserve(name)
        for node in nodes:
            node.reservation = name

    def uses(self, name: str) -> bool:
        """Whether a job that has not ended uses the reservation."""
        return any(job.reservation == name and job.state not in ENDED for job in self.queue.values())

    def unreserve(self, name: str) -> None:
        """End the reservation."""
        for node in self.fleet.values():
            node.reservation = "" if node.reservation == name else node.reservation
        self.look()

    def _purge(self, name: str) -> None:
        if self.uses(name):
            self.later(self.settings.purge_s, lambda: self._purge(name))
        else:
            self.unreserve(name)

    # --- the end of a run

    def end(self, job: FakeJob, state: str, reason: str, exit_code: int) -> None:
        """Let the job end and its nodes complete."""
        now = self.clock.now()
        job.state, job.reason, job.exit_code, job.end_time, job.finished_at = state, reason, exit_code, now, now
        self.note(state, job.key)
        self._vacate(job, self.settings.epilog_s)
        self.later(self.settings.min_job_age_s, lambda: self._forget(job, now))

    def _forget(self, job: FakeJob, finished_at: float) -> None:
        if job.state in ENDED and job.finished_at == finished_at:
            self.queue.pop(job.key, None)

    def requeue(self, job: FakeJob) -> None:
        """End the run, or forget the end of one, and wait anew."""
        ran = job.state in {"RUNNING", "CONFIGURING"}
        job.restarts += 1
        job.state, job.reason, job.end_time = "PENDING", "", 0.0
        self.note("requeue", job.key)
        if ran:
            dead = any(not self.fleet[name].machine and self.fleet[name].power == "on" for name in job.nodes)
            stop_s = self.settings.epilog_s if job.stop_s is None else job.stop_s
            self._vacate(job, self.settings.message_timeout_s if dead else stop_s)
        else:
            self._wait_anew(job)

    def _vacate(self, job: FakeJob, delay_s: float) -> None:
        job.completing_on = set(job.nodes)
        for name in job.nodes:
            node = self.fleet[name]
            node.jobs[job.key] = True
            if node.power != "on":
                self.release(node, job.key, fresh=True)
            elif node.machine:
                self.later(delay_s, lambda node=node, epoch=node.power_epoch: self._epilog(node, job, epoch))  # type: ignore[misc]
        # A dead node answers nothing: it holds the job in COMPLETING until POWER_DOWN_FORCE or DOWN.

    def kill_again(self, node: FakeNode) -> None:
        """Let what completes on a node that has registered anew go, at slurmctld's next try."""
        for key in [key for key, completing in node.jobs.items() if completing and key in self.queue]:
            job, epoch = self.queue[key], node.power_epoch
            self.later(self.settings.rekill_s, lambda job=job, epoch=epoch: self._epilog(node, job, epoch))  # type: ignore[misc]

    def _epilog(self, node: FakeNode, job: FakeJob, epoch: int) -> None:
        if node.machine and node.jobs.get(job.key) and node.power_epoch == epoch:
            self.release(node, job.key, fresh=True)

    def release(self, node: FakeNode, key: str, *, fresh: bool) -> None:
        """Take the node out of the job that completes on it.

        Not `fresh`: an update took the last node from a job that was COMPLETING. Measured: Slurm then forgets to begin a requeued
        job anew, which keeps its submission and its begin, and so may start at once.
        """
        job = self.queue.get(key)
        node.jobs.pop(key, None)
        if job is not None and node.name in job.completing_on:
            node.left_at[job.key] = self.clock.now()
            job.completing_on.discard(node.name)
            if not job.completing and job.state == "PENDING":
                if fresh:
                    self._wait_anew(job)
                else:
                    job.nodes = ()
        self.look()

    def _wait_anew(self, job: FakeJob) -> None:
        """Slurm sets these only now, so a StartTime given while the job was COMPLETING is overwritten."""
        now = self.clock.now()
        job.nodes = ()
        job.submit_time = now
        if self.settings.age:
            job.priority = by_age(now + self.settings.requeue_delay_s)
        job.reason = "JobHeldAdmin" if job.held else "BeginTime"
        self.put_off(job, self.settings.requeue_delay_s)

    def put_off(self, job: FakeJob, delay_s: float) -> None:
        """Make the job eligible in `delay_s`."""
        job.eligible_time = job.start_time = self.clock.now() + delay_s
        self.later(delay_s, self.look)

    # --- power

    def power_up(self, names: Iterable[str]) -> None:
        """Ask for the nodes; ResumeProgram gets all of one moment in one call."""
        asked = [self.fleet[name] for name in names if self.fleet[name].power == "off"]
        for node in asked:
            node.power = "off_requested"
            node.power_epoch += 1
        self.later(self.settings.power_s, lambda: self._resume([node for node in asked if node.power == "off_requested"]))

    def _resume(self, nodes: Sequence[FakeNode]) -> None:
        for node in nodes:
            node.power, node.responding = "resuming", False
            node.power_epoch += 1
            epoch = node.power_epoch
            self.later(self.settings.resume_timeout_s, lambda node=node, epoch=epoch: self._resume_failed(node, epoch))  # type: ignore[misc]
        self.call(self.on_resume, "ResumeProgram", [node.name for node in nodes])

    def _resume_failed(self, node: FakeNode, epoch: int) -> None:
        if node.power != "resuming" or node.power_epoch != epoch:
            return
        node.power, node.down, node.reason = "off", True, "ResumeTimeout reached"
        node.power_epoch += 1
        self.drop_jobs(node, frees_dead=True)
        self.call(self.on_resume_fail, "ResumeFailProgram", [node.name])

    def power_down(self, node: FakeNode) -> None:
        """POWER_DOWN_FORCE. Ignored while the node is POWERING_DOWN."""
        if node.power == "suspending":
            return
        self.drop_jobs(node)
        node.power = "on_requested"
        node.power_epoch += 1
        epoch = node.power_epoch
        self.later(self.settings.power_s, lambda: self._suspend(node, epoch))

    def _suspend(self, node: FakeNode, epoch: int) -> None:
        if node.power != "on_requested" or node.power_epoch != epoch:
            return
        # idle_on_node_suspend: our own drain goes with it.
        node.power, node.drain, node.down = "suspending", False, False
        self.call(self.on_suspend, "SuspendProgram", [node.name])
        self.later(self.settings.suspend_timeout_s, lambda: self.powered_down(node, epoch))

    def powered_down(self, node: FakeNode, epoch: int | None = None) -> None:
        """End POWERING_DOWN: the name is free again."""
        if node.power != "suspending" or (epoch is not None and node.power_epoch != epoch):
            return
        node.power, node.responding = "off", True
        node.power_epoch += 1
        self.note("powered down", node.name)
        self.look()

    def drop_jobs(self, node: FakeNode, *, frees_dead: bool = False) -> None:
        """Get the jobs on the node off it: what slurmctld does on POWER_DOWN_FORCE, and on DOWN, which also frees a dead node."""
        died = node.power == "on" and not node.machine
        for key, completing in list(node.jobs.items()):
            job = self.queue.get(key)
            if completing or job is None:
                self.release(node, key, fresh=False)
                continue
            if job.requeue and job.batch:
                self.requeue(job)
            else:
                self.end(job, "NODE_FAIL", "NodeDown", 0)
            # Measured: POWER_DOWN_FORCE of a dead node requeues the job that runs there, and only the next one frees the node.
            if node.jobs.get(key) and (frees_dead or not died):
                self.release(node, key, fresh=True)

    def resumed(self, node: FakeNode) -> None:
        """RESUME. Measured: a node that is up then reads NOT_RESPONDING, and gets no job, until it has answered a ping."""
        self.powered_down(node)
        node.drain, node.down, node.reason = False, False, ""
        node.responding = node.power == "off"
        epoch = node.power_epoch

        def answers() -> None:
            if node.machine and node.power_epoch == epoch and not node.down:
                node.responding = True
                self.look()

        if not node.responding:
            self.later(self.settings.ping_s, answers)
        self.look()

    def set_down(self, node: FakeNode, reason: str) -> None:
        """DOWN. A live machine that ran a job answers the kill, and ReturnToService=2 takes it back then; an idle one stays DOWN."""
        node.down, node.reason = True, reason
        answers = bool(node.jobs) and self.settings.return_to_service
        self.drop_jobs(node, frees_dead=True)

        def registers() -> None:
            if node.down and node.machine and node.power == "on":
                node.down, node.responding, node.reason = False, True, ""
                self.look()

        if answers:
            self.later(self.settings.register_s, registers)

    def call(self, hook: Hook | None, name: str, nodes: Sequence[str]) -> None:
        """Call a hook, in the background as slurmctld does."""
        if nodes:
            self.note(name, ",".join(nodes))
            if hook is not None:
                self.start(hook(tuple(nodes)))
