"""A Slurm in memory, with the behaviour that was measured on 22.05.8, for tests and the simulator. Its time is a `Clock`.

Simplified: a job takes whole nodes, or half of each (`shared`), priority is the order of submission (or age) less Nice, and there is no
QOS and no preemption.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Self

from holdfast_common.clock import Clock
from holdfast_common.errors import HoldfastError, InputError, SlurmRefused, SlurmUnavailable
from holdfast_common.views import JobView, NodeView

from holdfast_slurm.fake_engine import Engine
from holdfast_slurm.fake_model import ENDED, FakeJob, FakeNode, FakeSettings, Gate, Hook, by_age
from holdfast_slurm.nodeset import check_name
from holdfast_slurm.parse import check_key
from holdfast_slurm.turns import Turns

__all__ = ["FakeJob", "FakeNode", "FakeSettings", "FakeSlurm"]


SILENT_SHARE = 0.6
"""Of SlurmdTimeout, until a dead node reads NOT_RESPONDING (measured with 30 s: after 24; pings are sent every third of it)."""


class FakeSlurm:
    """Implements `holdfast_slurm.client.Slurm`, and methods for tests: submit, finish, node_booted, node_dies, fail_next.

    Use it as an asynchronous context manager, or call `close`, so that its timers end.
    """

    def __init__(
        self,
        clock: Clock,
        nodes: Sequence[str] | Mapping[str, Sequence[str]],
        settings: FakeSettings | None = None,
        *,
        on_resume: Hook | None = None,
        on_suspend: Hook | None = None,
        on_resume_fail: Hook | None = None,
        on_gate: Gate | None = None,
    ) -> None:
        self.settings = settings or FakeSettings()
        self.engine = Engine(clock, self.settings)
        partitions: Mapping[str, Sequence[str]] = nodes if isinstance(nodes, Mapping) else {name: ("spot",) for name in nodes}
        for name, belongs in partitions.items():
            self.engine.fleet[check_name(name)] = FakeNode(name, tuple(belongs))
        self.engine.on_resume, self.engine.on_suspend, self.engine.on_resume_fail = on_resume, on_suspend, on_resume_fail
        self.engine.on_gate = on_gate
        self.unavailable = False
        """While set, every call raises `SlurmUnavailable`."""
        self.slow_s = 0.0
        """Every call takes this long."""
        self.calls: list[tuple[float, str, tuple[object, ...]]] = []
        """Every call of the protocol: time, method, arguments."""
        self._clock = clock
        self._turns = Turns(self.settings.max_commands)
        self._faults: dict[str, list[HoldfastError]] = {}
        self._next_id = 1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End everything under way."""
        await self.engine.close()

    # --- for tests

    def submit(  # noqa: PLR0913 -- what a test wants to say of a job
        self,
        num_nodes: int = 1,
        *,
        partition: str = "spot",
        comment: str = "",
        requeue: bool = True,
        batch: bool = True,
        duration_s: float | None = None,
        stop_s: float | None = None,
        nice: int = 0,
        time_limit_s: float | None = None,
        shared: bool = False,
        array_tasks: Sequence[int] = (),
        on_signal: Callable[[FakeJob, str], None] | None = None,
    ) -> str:
        """Queue a job and return its key; for an array the plain id, whose tasks are `ID_TASK`."""
        array_id, now = self._next_id, self._clock.now()
        for task in array_tasks or (None,):
            job = FakeJob(self._next_id, str(array_id) if task is None else f"{array_id}_{task}", num_nodes, partition, now, now)
            job.comment, job.requeue, job.batch, job.nice, job.time_limit_s = comment, requeue, batch, nice, time_limit_s
            job.duration_s, job.stop_s, job.on_signal, job.shared = duration_s, stop_s, on_signal, shared
            job.priority = by_age(now) if self.settings.age else 4_294_901_760 - job.job_id
            self.engine.queue[job.key] = job
            self._next_id += 1
        self.engine.look()
        return str(array_id)

    def fake_job(self, key: str) -> FakeJob:
        """Return the record behind a job."""
        return self.engine.queue[key]

    def fake_node(self, name: str) -> FakeNode:
        """Return the record behind a node."""
        return self.engine.fleet[name]

    def finish(self, key: str, exit_code: int = 0) -> None:
        """Let the job's batch script exit."""
        job = self.engine.queue[key]
        attempt = job.restarts
        self._tell(lambda: self.engine.finish_run(job, attempt, exit_code))

    def restart(self, away_s: float, *, kill: bool = False) -> None:
        """End slurmctld, and start it again in `away_s`. It forgets nothing: as where it was killed long enough after the last change."""
        self.engine.stop()

        async def again() -> None:
            await self._clock.sleep(away_s)
            self.engine.start_again(was_killed=kill)

        self.engine.start(again())

    def _tell(self, word: Callable[[], None]) -> None:
        """A slurmd has something to say: at once, or when slurmctld is there again."""
        if self.engine.away:
            self.engine.later(0.0, word)
        else:
            word()

    def cancel(self, key: str) -> None:
        """`scancel` by the user."""
        job = self.engine.queue[key]
        if job.state not in ENDED:
            self.engine.end(job, "CANCELLED", "", 0)

    def node_booted(self, name: str) -> None:
        """Let a machine's slurmd register, as `slurmd -b` does."""
        self._tell(lambda: self._booted(self.engine.fleet[name]))

    def _booted(self, node: FakeNode) -> None:
        name = node.name
        if node.power in {"suspending", "on_requested"}:
            return  # slurmctld takes it for the old machine on its way out
        died = node.power == "on" and not node.machine
        node.machine, node.responding, node.power, node.boot_time = True, True, "on", self._clock.now()
        node.power_epoch += 1
        self.engine.note("registered", name)
        self.engine.kill_again(node)
        if died:
            self.engine.drop_jobs(node, frees_dead=True)  # it was booted anew, and tells slurmctld that none of them is there
        for job in [self.engine.queue[key] for key in node.jobs if key in self.engine.queue]:
            if job.state == "CONFIGURING" and self.settings.gate and self.engine.on_gate is None:
                self.engine.later(self.settings.gate_s, lambda job=job, attempt=job.restarts: self.engine.start_if_up(job, attempt))  # type: ignore[misc]
        self.engine.look()

    def node_dies(self, name: str) -> None:
        """Take the machine away. Slurm notices after SlurmdTimeout."""
        node = self.engine.fleet[name]
        node.machine = False
        self.engine.note("machine gone", name)
        epoch = node.power_epoch

        def notice() -> None:
            if not node.machine and node.power == "on" and node.power_epoch == epoch:
                node.responding = False
                self.engine.set_down(node, "Not responding")

        def silent() -> None:
            if not node.machine and node.power == "on" and node.power_epoch == epoch:
                node.responding = False

        self.engine.later(self.settings.slurmd_timeout_s * SILENT_SHARE, silent)
        self.engine.later(self.settings.slurmd_timeout_s, notice)

    def fail_next(self, method: str, error: HoldfastError, times: int = 1) -> None:
        """Let the next `times` calls of `method` raise `error` instead."""
        self._faults.setdefault(method, []).extend([error] * times)

    # --- the protocol

    def together(self) -> AbstractAsyncContextManager[None]:
        """Wait in line once for several commands."""
        return self._turns.together()

    async def ping(self) -> bool:
        """Return whether it answers."""
        return not self.unavailable and not self.engine.away

    async def version(self) -> tuple[int, int]:
        """Return the release that it behaves like."""
        await self._enter("version")
        return self.settings.version

    async def reconfigure(self) -> None:
        """Measured: on 22.05 nothing changes, gates wait on; 24.11 kills them and runs them again."""
        await self._enter("reconfigure")
        if self.settings.version >= (23, 2):
            self.engine.gates_again()

    async def nodes(self, names: Sequence[str] | None = None) -> tuple[NodeView, ...]:
        """Return all nodes, or those of `names` that exist."""
        await self._enter("nodes", names)
        wanted = None if names is None else set(names)
        return tuple(node.view() for node in self.engine.fleet.values() if wanted is None or node.name in wanted)

    async def jobs(self, node: str = "") -> tuple[JobView, ...]:
        """Return every job that is remembered, or those on a node."""
        await self._enter("jobs", *([check_name(node)] if node else []))
        views = (job.view() for job in self.engine.queue.values())
        return tuple(view for view in views if not node or node in view.nodes)

    async def job(self, key: str) -> JobView | None:
        """Return one job or None."""
        await self._enter("job", check_key(key))
        jobs = self.engine.queue
        found = jobs.get(key) or next((job for job in jobs.values() if str(job.job_id) == key), None)
        return found.view() if found else None

    async def drain(self, names: Sequence[str], reason: str) -> None:
        """Set DRAIN."""
        for node in await self._nodes("drain", names, _reason(reason)):
            node.drain, node.reason = True, reason

    async def resume(self, names: Sequence[str]) -> None:
        """Clear DRAIN and DOWN, or end POWERING_DOWN at once."""
        nodes = await self._nodes("resume", names)
        if not all(node.drain or node.down or node.power == "suspending" for node in nodes):
            raise SlurmRefused("slurm_update error: Invalid node state specified")
        for node in nodes:
            self.engine.resumed(node)

    async def down(self, names: Sequence[str], reason: str) -> None:
        """Set DOWN and get the jobs off."""
        for node in await self._nodes("down", names, _reason(reason)):
            self.engine.set_down(node, reason)

    async def power_down(self, names: Sequence[str], reason: str) -> None:
        """POWER_DOWN_FORCE."""
        for node in await self._nodes("power_down", names, _reason(reason)):
            node.reason = reason
            self.engine.power_down(node)

    async def power_up(self, names: Sequence[str]) -> None:
        """POWER_UP: only for nodes that are off."""
        self.engine.power_up([node.name for node in await self._nodes("power_up", names)])

    async def set_addresses(self, addresses: Mapping[str, str]) -> None:
        """Set where nodes are reached."""
        for node in await self._nodes("set_addresses", list(addresses), tuple(addresses.values())):
            node.address = addresses[node.name]

    async def requeue(self, key: str, *, ended: bool = False) -> None:
        """Requeue; with `ended` also a job that has completed."""
        tasks = [job for name, job in self.engine.queue.items() if name.startswith(f"{key}_")]
        if tasks:
            await self._enter("requeue", check_key(key), ended)
            for task in tasks:
                if task.state != "PENDING" and not task.completing:
                    self.engine.requeue(task)  # measured: the plain id of an array requeues every task, finished ones too
            return
        job = await self._job("requeue", key, ended)
        if not job.batch:
            raise SlurmRefused(f"Only batch jobs are accepted or processed for job {key}")
        if not job.requeue:
            raise SlurmRefused(f"Requested operation is presently disabled for job {key}")
        if not ended and (job.state in {"PENDING", "COMPLETED"} or job.completing):
            return  # measured: success, and nothing happens
        if job.state == "PENDING":
            raise SlurmRefused(f"Job is pending execution for job {key}")
        if job.completing:
            raise SlurmRefused(f"Job can not be altered now, try again later for job {key}")
        self.engine.requeue(job)

    async def start_after(self, key: str, delay_s: int) -> None:
        """Set StartTime; overwritten if the job still completes."""
        job = await self._job("start_after", key, delay_s)
        self._alive(job)
        if job.state != "PENDING":
            raise SlurmRefused(f"Job is no longer pending execution for job {key}")
        self.engine.put_off(job, delay_s)

    async def update_job(self, key: str, *, admin_comment: str | None = None, nice: int | None = None, priority: int | None = None) -> None:
        """Set what is not None."""
        job = await self._job("update_job", key, admin_comment, nice, priority)
        self._alive(job)
        job.admin_comment = job.admin_comment if admin_comment is None else admin_comment
        job.nice = job.nice if nice is None else nice
        job.fixed_priority = job.fixed_priority if priority is None else priority
        self.engine.look()

    async def hold(self, key: str) -> None:
        """Hold."""
        job = await self._job("hold", key)
        self._alive(job)
        job.held, job.reason = True, "JobHeldAdmin"

    async def release(self, key: str) -> None:
        """Release, with Slurm's own priority."""
        job = await self._job("release", key)
        self._alive(job)
        job.held, job.fixed_priority, job.reason = False, None, ""
        self.engine.look()

    async def reserve(self, name: str, nodes: Sequence[str], user: str) -> None:
        """Keep the nodes for the jobs that use the reservation."""
        found = await self._nodes("reserve", nodes, name, user)
        if any(node.reservation not in {"", name} for node in found):
            raise SlurmRefused("Error creating the reservation: Requested reservation overlaps with another reservation")
        self.engine.reserve(name, found)

    async def use_reservation(self, key: str, name: str) -> None:
        """Let the job use the reservation, or none."""
        job = await self._job("use_reservation", key, name)
        self._alive(job)
        if name and not any(node.reservation == name for node in self.engine.fleet.values()):
            raise SlurmRefused(f"Requested reservation is invalid for job {key}")
        job.reservation = name
        self.engine.look()

    async def unreserve(self, name: str) -> None:
        """End the reservation."""
        await self._enter("unreserve", name)
        if self.engine.uses(name):
            raise SlurmRefused(f"delete_reservation ReservationName={name}: Requested reservation is in use")
        self.engine.unreserve(name)

    async def signal(self, key: str, signal: str, *, batch: bool = False) -> None:
        """Send a signal to the job's processes, that is to its `on_signal`."""
        job = await self._job("signal", key, signal, batch)
        if job.state != "RUNNING":
            raise SlurmRefused(f"scancel: error: Kill job error on job id {key}: Invalid job id specified")
        if self.engine.fleet[job.nodes[0]].machine:
            job.signals.append((self._clock.now(), signal, batch))
            if job.on_signal is not None:
                job.on_signal(job, signal)

    # --- helpers

    async def _enter(self, method: str, *arguments: object) -> None:
        async with self._turns.together():
            self.calls.append((self._clock.now(), method, arguments))
            if self.slow_s:
                await self._clock.sleep(self.slow_s)
        if self.unavailable or self.engine.away:
            raise SlurmUnavailable("Unable to contact slurm controller (connect failure)")
        faults = self._faults.get(method)
        if faults:
            raise faults.pop(0)

    async def _nodes(self, method: str, names: Sequence[str], *arguments: object) -> list[FakeNode]:
        await self._enter(method, tuple(names), *arguments)
        if any(check_name(name) not in self.engine.fleet for name in names):
            raise SlurmRefused("slurm_update error: Invalid node name specified")
        return [self.engine.fleet[name] for name in names]

    async def _job(self, method: str, key: str, *arguments: object) -> FakeJob:
        await self._enter(method, check_key(key), *arguments)
        job = self.engine.queue.get(key)
        if job is None:
            raise SlurmRefused(f"Invalid job id specified for job {key}")
        return job

    def _alive(self, job: FakeJob) -> None:
        if job.state in ENDED:
            raise SlurmRefused(f"Job has already finished for job {job.key}")


def _reason(text: str) -> str:
    if not text.startswith("holdfast:"):
        raise InputError(f"a reason that we write begins with 'holdfast:', not {text[:40]!r}")
    return text
