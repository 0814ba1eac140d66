"""A whole cluster in virtual time: the real controller over a Slurm and a cloud in memory, agents, and jobs that train.

The controller is the real one but for the clients at its edges; its journal writes in the loop's own thread.
"""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from pathlib import Path
from typing import Any, TypeVar

from holdfast_controller import app
from holdfast_controller.config import ControllerConfig, Timing
from holdfast_controller.fleet import Fleet
from holdfast_controller.hooks import HookService
from holdfast_controller.planning import Bounds
from holdfast_controller.policies import PolicyStore
from holdfast_controller.providers import fake_machines
from holdfast_controller.providers.base import Pool
from holdfast_controller.providers.fake import FakePool
from holdfast_controller.reactor import Reactor
from holdfast_slurm.fake import FakeJob, FakeSettings
from holdfast_slurm.fake_model import ENDED
from sim_edges import Mortal, SimJournal, SimProvider
from sim_hooks import Door, Hooks
from sim_kinds import KINDS
from sim_loop import LoopClock, VirtualLoop, controller_context
from sim_machines import Room, SimMachine
from sim_slurm import SimSlurm
from sim_training import SimJob, Training

T = TypeVar("T")
NOTICE_S, CALM_S, KNOWN_S, KEPT_S = 29.0, 15.0, 3.0, 290.0
SECRET = b"s" * 32
QUICK = Timing(watch_busy_s=0.2, watch_idle_s=2.0, cloud_poll_s=10.0, cloud_poll_busy_s=2.0)

POLICY = """
version = 1
[pools.a]
provider = "fake"
region = "r1"
zone = "a"
instance_type = "g1"
market = "spot"
[pools.b]
provider = "fake"
region = "r1"
zone = "b"
instance_type = "g1"
market = "spot"
[node_groups.gpu]
nodes = "n[1-NODES]"
[partitions.spot]
node_groups = ["gpu"]
pools = ["a", "b"]
requeue = { max_attempts = 1000, crash_loop_count = 1000, never_launched_s = 60 }
launch = { registration_timeout_s = 40, refusal_backoff_s = 5, refusal_memory_s = 30, orphan_grace_s = 40 }
"""
POOL_A, POOL_B = "fake/r1/a/g1/spot", "fake/r1/b/g1/spot"


class World:
    """The cluster. Tests act on it and let time pass; what must never happen is collected in `faults` when it does."""

    def __init__(
        self,
        path: Path,
        *,
        nodes: int = 4,
        policy: str = POLICY,
        timing: Timing = QUICK,
        slurm: FakeSettings | None = None,
        cloud: fake_machines.Timing | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        self.loop = VirtualLoop()
        self.clock = LoopClock(self.loop)
        self.host_clock = LoopClock(self.loop)
        """The controller's and slurmctld's: the same but for what it is set by."""
        self.faults: list[str] = []
        self.closed = False
        self._bounds = {"fake": bounds} if bounds is not None else {}
        self.names = [f"n{number}" for number in range(1, nodes + 1)]
        self._path = path
        self.journal_path = path / "journal.sqlite"
        self._policy = path / "policy.toml"
        self._policy.write_text(policy.replace("NODES", str(nodes)))
        self.config = ControllerConfig(cluster="test", state_dir=str(path), policy=str(self._policy), timing=timing)
        pools = [FakePool(pool, price_usd_h=1.0, on_demand_usd_h=3.0) for pool in _pools(PolicyStore(self._policy))]
        self.provider = SimProvider(self.clock, pools, timing=cloud or fake_machines.Timing(boot_s=5.0, shutdown_s=2.0))
        self.requests = self.provider.requests = {}
        self.room = Room(self, self._died)
        self.provider.on_change = self.room.changed
        settings = slurm or FakeSettings(
            suspend_timeout_s=20.0, resume_timeout_s=200.0, slurmd_timeout_s=100.0, min_job_age_s=150.0, age=True
        )
        self.hooks = Hooks(self)
        self.slurm = SimSlurm(
            self.host_clock, self.names, settings, on_resume=self.hooks.resume, on_suspend=self.hooks.suspend,
            on_resume_fail=self.hooks.resume_fail, on_gate=self.hooks.gate,
        )  # fmt: skip
        self.slurm.engine.observer = self._observe
        self.slurm.on_requeue = self._requeued
        self.training = Training(self)
        self.controller: app.Controller | None = None
        self._journal: SimJournal | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._background: set[asyncio.Task[Any]] = set()
        self._rising: asyncio.Task[None] | None = None
        self._thawing: asyncio.Task[None] | None = None
        self._dead: list[asyncio.Task[Any]] = []
        self.calm_since = 0.0
        """When the last disturbance of controller, Slurm or agents was."""
        self.judged: Counter[str] = Counter()
        """How often each promise about a job that leaves was held against what happened: most stories are never calm enough."""
        self.passed: list[str] = []
        """Points passed at which the controller can die."""
        self.die_at: int | None = None
        """Die at this point (index into `passed`)."""
        self.journal_lost_at = 0.0
        self.die_without_journal = False
        """The next death at a point takes the journal along."""
        self.deaths = 0
        self.kept: dict[str, tuple[float, set[str]]] = {}
        """Jobs that were made to leave: when, and their nodes that stay."""

    # -- running ----------------------------------------------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Let a coroutine run to its end, in virtual time."""
        return self.loop.run_until_complete(work)

    def wait(self, duration_s: float) -> None:
        """Let time pass."""
        self.run(asyncio.sleep(duration_s))

    def until(self, condition: Callable[[], Any], limit_s: float, step_s: float = 0.25) -> None:
        """Let time pass until something holds; fails where it does not within the limit."""
        end = self.clock.now() + limit_s
        while not condition():
            if self.clock.now() >= end:
                raise AssertionError(f"not within {limit_s:.0f} s\n{self.story()}")
            self.wait(step_s)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run in the background."""
        task = self.loop.create_task(work, context=Context())  # not the controller's, though it may have been the cause
        self._background.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: "asyncio.Task[None]") -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.wrong(f"a task of the world broke: {task.exception()!r}")

    def wrong(self, fault: str) -> None:
        """Note what must never happen."""
        self.faults.append(f"{self.clock.now() % 1e6:.2f}: {fault}")

    def close(self) -> None:
        """End everything."""
        self.closed = True
        self.die()

        async def end() -> None:
            await self.slurm.close()
            tasks = [*self._background, *self._dead]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.loop.shutdown_asyncgens()

        self.run(end())
        self.loop.close()

    # -- the controller ---------------------------------------------------------------------------------------------------------

    @property
    def hub(self) -> Any:
        """Where agents connect, while the controller lives."""
        return Door(self.controller.hub) if self.controller is not None else None

    @property
    def reactor(self) -> Reactor:
        """The loop of the controller, which must live."""
        assert self.controller is not None, "the controller is dead"
        return self.controller.reactor

    @property
    def fleet(self) -> Fleet:
        """What the controller knows."""
        return self.reactor.fleet

    def start(self) -> None:
        """Start the controller on whatever journal there is."""
        self.run(self._start())
        self.disturbed()

    def freeze(self, duration_s: float) -> None:
        """The controller does not take one step for so long, as in a paused virtual machine; then it goes on, its timers late."""
        self.disturbed()
        self.loop.freeze()

        async def thaw() -> None:
            await self.clock.sleep(duration_s)
            self.loop.thaw()
            self.disturbed()

        if self._thawing is not None:
            self._thawing.cancel()
        self._thawing = self.spawn(thaw())

    async def _start(self) -> None:
        assert self.controller is None, "one controller at a time"
        policies = PolicyStore(self._policy, bounds=self._bounds)
        self._journal = opened = SimJournal(self.journal_path, self)
        fleet = await opened.open(frozenset(policies.plans().by_node))
        policies.manage(fleet)
        wired = app.wire(self.config, self.host_clock, fleet, opened, policies, {"fake": self.provider}, self.slurm, SECRET)
        late: Any = wired.reactor._effects
        late.inner = Mortal(late.inner, self)
        self.controller = wired
        self.hooks.service = HookService(wired.reactor, wired.slurm, wired.clock)
        context = controller_context()
        self._loops = [self.loop.create_task(_loop(work), context=context) for work in wired.loops()]
        for task in self._loops:
            task.add_done_callback(self._loop_ended)

    def _loop_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled():
            self.wrong(f"a loop of the controller ended: {task.exception()!r}")

    def die(self) -> None:
        """Kill the controller at once: nothing of it does one more step, but what it has asked of others goes on."""
        if self.controller is None:
            return
        self.loop.thaw()
        wired, self.controller, self.hooks.service = self.controller, None, None
        self.deaths += 1
        self.disturbed()
        self._dead = [*(task for task in self._dead if not task.done()), *self._loops, *wired.reactor._tasks]
        for task in self._dead:
            task.cancel()
        assert self._journal is not None
        self._journal.drop()
        for machine in self.room.machines.values():
            machine.cut()

    def restart(self, *, away_s: float = 0.0, lose_journal: bool = False) -> None:
        """Kill the controller and start it again."""
        self.die()
        if self._rising is not None:
            self._rising.cancel()
        self.wait(away_s)
        if lose_journal:
            self._lose_journal()
        self.start()

    def _lose_journal(self) -> None:
        self.journal_lost_at = self.clock.now()
        for suffix in ("", "-wal", "-shm"):
            self._path.joinpath(f"journal.sqlite{suffix}").unlink(missing_ok=True)

    async def pass_point(self, name: str) -> None:
        """A point at which the controller can die; it does if it is the one that was chosen."""
        self.passed.append(name)
        if self.die_at is not None and len(self.passed) - 1 == self.die_at:
            self.die_at = None
            self.die()
            self._rising = self.spawn(self._rise())
            await asyncio.Event().wait()

    async def _rise(self) -> None:
        await self.clock.sleep(1.0)
        self._rising = None
        if self.die_without_journal:
            self._lose_journal()
        await self._start()
        self.disturbed()

    # -- what others do ---------------------------------------------------------------------------------------------------------

    def submit(self, num_nodes: int = 1, work: float = 30.0, **more: Any) -> SimJob:
        """Submit a training job of so many steps (one a second)."""
        return self.submit_array((), num_nodes, work, **more)[0]

    def submit_array(self, tasks: Sequence[int], num_nodes: int = 1, work: float = 30.0, **more: Any) -> list[SimJob]:
        """Submit an array of such jobs."""
        how = KINDS[more.get("kind", "library")]
        options = {"time_limit_s": more.pop("time_limit_s", None), "shared": more.pop("shared", False), **how.options}
        if how.leaves:
            options["on_signal"] = lambda fake, _: self.training.signalled(fake)
        key = self.slurm_call(lambda: self.slurm.submit(num_nodes, array_tasks=tasks, **options))
        made = []
        for each in [f"{key}_{task}" for task in tasks] or [key]:
            job = SimJob(each, num_nodes, work, job_id=self.slurm.fake_job(each).job_id, **more)
            self.training.jobs[each] = job
            made.append(job)
        return made

    def cancel(self, job: SimJob) -> None:
        """The user cancels a job; one that has failed, and may be run again, stays as it is."""
        fake = self.slurm.engine.queue.get(job.key)
        if fake is not None and fake.state in ENDED:
            return
        job.over = True
        self.slurm_call(lambda: self.slurm.cancel(job.key))

    def slurm_call(self, call: Callable[[], T]) -> T:
        """Call a method of the fake Slurm that is for tests: it makes timers, so the loop must run."""

        async def do() -> T:
            return call()

        return self.run(do())

    def reclaim(self, node: str, window_s: float, *, notice: bool = True) -> None:
        """Take a node's instance back in `window_s` seconds."""
        machine = self.room.holder(node)
        assert machine is not None, f"{node} has no machine"

        def do() -> None:
            self.provider.reclaim([machine.iid], window_s, announced=notice)
            if notice:
                machine.notice(window_s)

        self.slurm_call(do)

    def machine_of(self, node: str) -> SimMachine:
        """Return the node's machine."""
        machine = self.room.holder(node)
        assert machine is not None, f"{node} has no machine"
        return machine

    def disturbed(self) -> None:
        """Something else went wrong: until it is over, no more is promised than that nothing is lost for good."""
        self.calm_since = self.clock.now()

    def _died(self, machine: SimMachine) -> None:
        for job in self.training.jobs.values():
            attempt = job.running
            noticed = machine.noticed(lasting_s=NOTICE_S)
            if attempt is None or machine not in attempt.machines or noticed is None or job.how.lost_with_node or self.controller is None:
                continue
            if max(attempt.began, self.calm_since) <= noticed - CALM_S:
                self.wrong(f"job {job.key} still ran on {machine.registered} when it was taken, {NOTICE_S:.0f} s or more after the notice")
        if machine.registered:
            fake = self.slurm.fake_node(machine.registered)
            if self.room.holder(machine.registered) is None and fake.machine:
                self.slurm.node_dies(machine.registered)

    def registers(self, machine: SimMachine) -> None:
        """A machine's slurmd registers."""
        name = machine.name
        other = self.room.holder(name)
        if other is not None and other is not machine:
            self.wrong(f"{machine.iid} registers as {name} while {other.iid} lives under that name")
        machine.registered = name
        self.slurm.node_booted(name)

    def named(self, machine: SimMachine, node: str) -> None:
        """A machine was told its name."""
        if machine.name != node:
            self.wrong(f"{machine.iid}, which runs as {machine.name}, is told that it is {node}")
        for other in self.room.living():
            if other is not machine and other.name == node:
                self.wrong(f"{machine.iid} is named {node} while {other.iid} lives under that name")

    def terminating(self, machine: SimMachine) -> None:
        """The controller asks for a machine's end: never for one that is well and that Slurm counts on."""
        name, now = machine.registered, self.clock.now()
        if not name or not machine.alive or machine.cloud.terminated != now:
            return
        doomed = any(notice.deadline <= now for notice in machine.own.values())
        if self.slurm.fake_node(name).power == "on" and not doomed and self.slurm.fake_node(name).responding:
            self.wrong(f"{machine.iid} is terminated although it is well and {name} is up")

    def _requeued(self, fake: FakeJob) -> None:
        """The controller requeues a job: only one that is on a node which goes away, or has gone."""
        if fake.state in ENDED:
            return  # it ended by itself, on a notice
        attempts = self.training.jobs[fake.key].attempts
        if fake.state == "RUNNING" and not any(attempt.number == fake.restarts for attempt in attempts):
            return  # it never ran
        machines = [self.room.holder(name) for name in fake.nodes if self.slurm.fake_node(name).power == "on"]
        booting = len(machines) < len(fake.nodes)
        if (
            not any(machine is None or machine.cloud.terminated or machine.leaves or machine.cloud.reclaimed for machine in machines)
            and not booting
        ):
            self.wrong(f"job {fake.key} is requeued without cause, from {', '.join(fake.nodes)}")
        if self.training.jobs[fake.key].done_at is not None:
            self.wrong(f"job {fake.key} is requeued although it had finished")
        self._note_survivors(fake)

    def _takes_kept_nodes(self, rival: FakeJob) -> None:
        """A job that has waited for long gets a node that was kept for one which had to leave."""
        for key, (at, survivors) in self.kept.items():
            waits = self.slurm.engine.queue.get(key)
            taken = survivors & set(rival.nodes)
            if waits is None or waits.state != "PENDING" or self.clock.now() > at + KEPT_S or rival is waits or not taken:
                continue
            if max(rival.submit_time, rival.eligible_time) < at - KNOWN_S and self.calm_since < at - CALM_S:
                self.wrong(
                    f"job {rival.key} gets {', '.join(taken)}, which job {key} had left for a notice {self.clock.now() - at:.1f} s ago"
                )

    def _note_survivors(self, fake: FakeJob) -> None:
        """The controller has a job leave: the nodes that stay are kept for it, if the queue was known to be there."""
        machines = {name: self.room.holder(name) for name in fake.nodes}
        acted = any(machine is not None and machine.acted for machine in machines.values())
        if self.controller is None or acted or not fake.batch:
            return
        stay = {name for name, machine in machines.items() if machine is not None and not machine.leaves and machine.well}
        self.kept[fake.key] = (self.clock.now(), stay)

    def _observe(self, event: str, subject: str) -> None:
        if event == "allocate":
            self._takes_kept_nodes(self.slurm.fake_job(subject))
            self.kept.pop(subject, None)
        if event == "start":
            self.training.began(self.slurm.fake_job(subject))
        elif event == "requeue" or event in ENDED:
            self.training.ended(subject)
            job = self.training.jobs.get(subject)
            if job is not None and job.how.lost_with_node:
                job.over = True

    # -- telling ----------------------------------------------------------------------------------------------------------------

    def story(self, newest: int = 300) -> str:
        """Return what happened last: the journal, Slurm's own log, and how things stand."""
        lines = ["faults:", *self.faults, "journal:"]
        db = sqlite3.connect(self.journal_path)
        rows = db.execute("SELECT at, kind, text FROM events ORDER BY seq DESC LIMIT ?", (newest,)).fetchall()
        db.close()
        lines += [f"  {at % 1e6:9.2f} {kind}: {text}" for at, kind, text in rows[::-1]]
        lines += ["slurm:", *(f"  {at % 1e6:9.2f} {event} {subject}" for at, event, subject in self.slurm.engine.log[-newest:])]
        lines += [f"  {node.view()} jobs={node.jobs}" for node in self.slurm.engine.fleet.values()]
        lines += [f"  {job.view()}" for job in self.slurm.engine.queue.values()]
        lines += [f"  machine {m.iid} name={m.name} registered={m.registered} launch={m.cloud.launch_id}" for m in self.room.living()]
        return "\n".join(lines)


async def _loop(work: Any) -> None:
    await work


def _pools(policies: PolicyStore) -> list[Pool]:
    return list({pool.name: pool for plan in policies.plans().by_node.values() for pool in plan.pools}.values())
