"""Builders for fleets and plans, for the tests of pure decisions."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from holdfast_common.notice import Notice, NoticeKind
from holdfast_common.views import JobView, NodeView
from holdfast_controller import events as e
from holdfast_controller.commands import Command, DrainNode
from holdfast_controller.decide import decide
from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plan, Plans
from holdfast_controller.providers.base import Fault, FaultKind, Instance, Market, Pool

sys.path.insert(0, str(Path(__file__).parent))  # importmode=importlib leaves it out
from counting import Counted

NOW = 1_700_000_000.0


def make_pool(zone: str, market: Market = Market.SPOT) -> Pool:
    return Pool(f"aws/r1/{zone}/g1/{market}", "aws", "r1", zone, "g1", market)


class World:
    """A fleet of nodes n1…n4 with two pools, and a clock that the test moves."""

    def __init__(self) -> None:
        self.now = NOW
        self.pools = (make_pool("a"), make_pool("b"))
        plan = Plan("spot", "gpu", self.pools, registration_timeout_s=60.0, orphan_grace_s=100.0)
        self.plans = Plans({f"n{i}": plan for i in range(1, 5)})
        self.fleet = Fleet(epoch="ep", cloud_listed=True)
        self.fleet.manage(frozenset(self.plans.by_node))
        self.fleet.looked(self.now, after_outage=True)
        self._ids = 0
        self.drains = True
        """Slurm drains a node as soon as it is told to."""
        for name in self.plans.by_node:
            self.node(name, "IDLE", "CLOUD", "POWERED_DOWN")

    def plan(self, **changes: object) -> None:
        plan = replace(self.plans.by_node["n1"], **changes)
        self.plans = replace(self.plans, by_node=dict.fromkeys(self.plans.by_node, plan))

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.fleet.looked(self.now, after_outage=False)

    def apply(self, *events: e.Event) -> None:
        for event in events:
            self.fleet.apply(event)

    def node(self, name: str, state: str, *flags: str, reason: str = "", address: str = "") -> None:
        self.apply(e.NodeChanged(self.now, NodeView(name, state, frozenset(flags), reason, address, ("spot",))))

    def job(self, job_id: int, state: str, *nodes: str, **more: object) -> None:
        view = JobView(job_id, str(job_id), state, nodes=nodes, num_nodes=max(1, len(nodes)), partition="spot", priority=1)
        self.apply(e.JobChanged(self.now, replace(view, **more)))  # type: ignore[arg-type]

    def want(self, job_id: int, *nodes: str) -> None:
        self.apply(e.NodesRequested(self.now, nodes, job_id))
        self.later(0.1)
        for name in nodes:
            self.node(name, "ALLOCATED", "CLOUD", "POWERING_UP")
        self.job(job_id, "CONFIGURING", *nodes)

    def due(self) -> list[Command]:
        """Decide, and record the commands as issued."""
        commands = decide(self.fleet, self.plans, self.now)
        for command in commands:
            self._ids += 1
            self.apply(e.CommandIssued(self.now, self._ids, command))
            if self.drains and isinstance(command, DrainNode):
                self.finish(command)
        return list(commands)

    def finish(self, command: Command, outcome: str = "ok") -> None:
        record = self.fleet.commands[command.key]
        self.apply(e.CommandFinished(self.now, record.command_id, command.key, outcome))

    def launched(self, command: Command, *ids: str, faults: tuple[Fault, ...] = ()) -> None:
        launch_id, pool = command.launch_id, command.pool  # type: ignore[attr-defined]
        instances = tuple(Instance(i, launch_id, pool, "running", f"10.0.0.{n}") for n, i in enumerate(ids))
        self.apply(e.LaunchEnded(self.now, launch_id, pool, instances, faults))
        self.finish(command)

    def refused(self, command: Command) -> None:
        self.launched(command, faults=(Fault(FaultKind.CAPACITY, "InsufficientInstanceCapacity", "none left"),))

    def arrive(self, instance_id: str, launch_id: str, node: str = "", boot: str = "b") -> None:
        self.apply(e.AgentArrived(self.now, instance_id, boot, launch_id, "10.0.0.9", node))

    def running(self, job_id: int, *nodes: str, instances: tuple[str, ...] = ()) -> None:
        """A job that runs on nodes of ours."""
        self.want(job_id, *nodes)
        launch = next(command for command in self.due() if type(command).__name__ == "Launch")
        ids = instances or tuple(f"i-{name}" for name in nodes)
        self.launched(launch, *ids)
        for iid in ids:
            self.arrive(iid, launch.launch_id)  # type: ignore[attr-defined]
        for command in self.due():
            self.finish(command)
        self.later(1)
        for name in nodes:
            self.node(name, "ALLOCATED", "CLOUD")
        self.job(job_id, "RUNNING", *nodes)
        for command in self.due():
            self.finish(command)
        self.later(1)

    def notice(self, node: str, window_s: float = 120.0, source: str = "agent") -> Notice:
        notice = Notice(f"notice-{node}", NoticeKind.PREEMPT, self.now + window_s, self.now, "spot interruption")
        self.apply(e.NoticeReceived(self.now, node, notice, source))
        return notice

    def parked(self, job_id: int, node: str, notice: Notice, step: int = 7, attempt: int = 0) -> None:
        report = e.JobReported(self.now, node, job_id, attempt, "parked", 1, notice.id, step, True, True)
        self.apply(report)

    def registered(self, job_id: int, node: str, attempt: int = 0) -> None:
        self.apply(e.JobReported(self.now, node, job_id, attempt, "running", 1, "", 3))


def kinds(commands: list[Command]) -> list[str]:
    return [type(command).__name__ for command in commands]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(name="kinds")
def kinds_fixture():  # type: ignore[no-untyped-def]
    return kinds


@pytest.fixture
def counted(world: World) -> Counted:
    """A world whose events are counted."""
    return Counted(world)
