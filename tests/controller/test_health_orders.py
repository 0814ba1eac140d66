"""An admin's orders to an agent, its answers, and the rules that agents judge by: over the real hub, reactor and journal."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from holdfast_common.clock import SystemClock
from holdfast_common.health.rules import default_rules, default_toml
from holdfast_common.views import NodeView
from holdfast_controller import events as e
from holdfast_controller.agents import AgentHub
from holdfast_controller.commands import BindInstance, Command
from holdfast_controller.fakes import FakeAgent
from holdfast_controller.health_admin import HealthCalls
from holdfast_controller.health_rules import HealthRulesStore
from holdfast_controller.journal import Journal
from holdfast_controller.policies import PolicyStore
from holdfast_controller.providers.base import Instance
from holdfast_controller.reactor import Reactor
from holdfast_controller.tokens import make_token
from holdfast_protos.v1 import admin_pb2, agent_pb2

SECRET = b"s" * 32
POOL = "fake/r1/a/g1/spot"
POLICY = """
version = 1
[pools.a]
provider = "fake"
region = "r1"
zone = "a"
instance_type = "g1"
market = "spot"
[node_groups.gpu]
nodes = "n[1-2]"
gpus = 8
gpu_model = "H100"
[partitions.spot]
node_groups = ["gpu"]
pools = ["a"]
health = { deep_check_level = 2 }
"""


class DoneAtOnce:
    async def run(self, command: Command, *, resumed: bool) -> tuple[e.Event, ...]:
        return (e.CommandFinished(SystemClock().now(), 0, command.key),)


class RefusedError(Exception):
    """What `abort` does."""


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 10 s")


class Context:
    async def abort(self, code: grpc.StatusCode, text: str) -> None:
        raise RefusedError(code.name, text)


class Stage(HealthCalls):
    """The health half of the controller, and an agent on n1."""

    def __init__(self, directory: Path) -> None:
        self.directory, self._clock = directory, SystemClock()
        (directory / "policy.toml").write_text(POLICY)
        self.rules_file = directory / "rules.toml"
        self.rules_file.write_text(default_toml())

    async def start(self) -> None:
        self._journal = Journal(self.directory / "journal")
        self.fleet = await self._journal.open()
        self._policies = PolicyStore(self.directory / "policy.toml")
        self._policies.manage(self.fleet)
        self._reactor = Reactor(self._journal, self.fleet, self._policies.plans, DoneAtOnce(), self._clock)
        self._hub = AgentHub(self._reactor, SECRET, "lab", self._clock, lost_s=20.0, on_lost=lambda: None, on_left=lambda: None)
        self._hub.plan = lambda node: self._policies.plans().by_node.get(node)  # noqa: PLW0108 - the plans change with the policy
        self._hub.rules = HealthRulesStore(str(self.rules_file))
        self._tasks = [asyncio.create_task(self._reactor.run())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._journal.close()

    async def agent(self, said: Callable[[agent_pb2.HealthOrder], None]) -> FakeAgent:
        """Have the agent of n1 come, which does what it is told by calling `said`."""
        now, instance = self._clock.now(), Instance("i-1", "l-1", POOL, "running", "10.0.0.1")
        await self._reactor.record(e.InstanceChanged(now, instance))
        welcomed = asyncio.Event()
        self.welcomes = 0

        def welcome(_: str) -> None:
            self.welcomes += 1
            welcomed.set()

        agent = FakeAgent(
            "i-1", make_token(SECRET, "l-1"), "10.0.0.1", self._clock,
            on_welcome=welcome, on_prepare=lambda *_: None,
        )  # fmt: skip
        agent.on_health_order = said
        self._tasks.append(asyncio.create_task(agent.session(self._hub)))
        await until(lambda: self._hub.connected("i-1"))
        await self._reactor.record(e.CommandIssued(now, 1, BindInstance("bind", "", "n1", "i-1", "10.0.0.1")))
        await self._reactor.record(e.NodeChanged(now, NodeView("n1", "IDLE", frozenset({"CLOUD"}))))
        await self._hub.welcome("i-1", "n1")
        await welcomed.wait()
        return agent


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    await stage.start()
    yield stage
    await stage.stop()


def word(*rules: str, ready: bool = True) -> agent_pb2.Health:
    findings = [agent_pb2.HealthFinding(rule=rule, action="replace", since=1.0, text="seen", strikes=1) for rule in rules]
    return agent_pb2.Health(ready=ready, findings=findings, gpus_visible=8)


async def check(stage: Stage, **more: Any) -> admin_pb2.NodeHealth:
    return (await stage.CheckHealth(admin_pb2.CheckHealthRequest(node="n1", **more), Context())).nodes[0]


async def test_a_check_waits_for_the_answer_and_not_for_a_word_that_was_under_way(stage: Stage) -> None:
    async def answer() -> None:
        await asyncio.sleep(0.05)
        agent.put("health", health=word("xid-79"))

    def ordered(order: agent_pb2.HealthOrder) -> None:
        orders.append(order)
        answers.append(asyncio.create_task(answer()))

    orders: list[agent_pb2.HealthOrder] = []
    answers: list[asyncio.Task[None]] = []
    agent = await stage.agent(ordered)
    agent.put("health", health=word())
    found = await check(stage)
    assert orders == [agent_pb2.HealthOrder(check_now=True)]
    assert (found.state, [each.rule for each in found.health.findings]) == ("replace", ["xid-79"])


async def test_what_still_holds_after_a_resolution_is_what_the_next_reading_says(stage: Stage) -> None:
    """The agent forgets both, and says so; then it reads again, and one comes back."""

    def ordered(order: agent_pb2.HealthOrder) -> None:
        orders.append(order)
        agent.put("health", health=word("ecc") if order.check_now else word())

    orders: list[agent_pb2.HealthOrder] = []
    agent = await stage.agent(ordered)
    agent.put("health", health=word("ecc", "xid-79"))
    reply = await stage.ResolveHealth(admin_pb2.ResolveHealthRequest(node="n1"), Context())
    assert [each.rule for each in reply.nodes[0].health.findings] == ["ecc"]
    assert [each.rule for each in stage.fleet.nodes["n1"].findings] == ["ecc"], "what follows from it is decided on that, too"
    assert orders == [agent_pb2.HealthOrder(resolve_rule="*"), agent_pb2.HealthOrder(check_now=True)]
    await stage.ResolveHealth(admin_pb2.ResolveHealthRequest(node="n1", rule="ecc", gpu="GPU-1"), Context())
    assert orders[2] == agent_pb2.HealthOrder(resolve_rule="ecc", resolve_gpu="GPU-1")


async def test_an_agent_that_says_nothing_or_is_not_here_is_told_so(stage: Stage) -> None:
    with pytest.raises(RefusedError, match="not connected"):
        await check(stage)
    await stage.agent(lambda _: None)
    with pytest.raises(RefusedError, match="has not said how its node is"):
        await check(stage, wait_s=0.05)
    with pytest.raises(RefusedError, match="does not manage node n7"):
        await stage.CheckHealth(admin_pb2.CheckHealthRequest(node="n7"), Context())


async def test_a_node_that_has_not_been_read_whole_is_unknown(stage: Stage) -> None:
    agent = await stage.agent(lambda order: agent.put("health", health=word(ready=len(answers) > 0)))
    answers: list[str] = []
    before = await check(stage)
    answers.append("read")
    assert (before.state, (await check(stage)).state) == ("unknown", "healthy")


async def test_a_list_of_all_nodes_fits_into_one_reply(stage: Stage) -> None:
    agent = await stage.agent(lambda order: None)
    health = word("xid-79")
    health.readings.add(name="temperature", state="ok", value=50.0)
    agent.put("health", health=health)
    await until(lambda: stage._hub.health.get("i-1") is not None)
    (listed,) = (await stage.ListHealth(admin_pb2.ListHealthRequest(), Context())).nodes
    assert (len(listed.health.findings), len(listed.health.readings)) == (1, 0), "1,000 nodes' readings are 15 MB"
    (named,) = (await stage.ListHealth(admin_pb2.ListHealthRequest(nodes=["n1"]), Context())).nodes
    assert len(named.health.readings) == 1


async def test_a_machine_that_is_gone_takes_no_memory(stage: Stage) -> None:
    agent = await stage.agent(lambda order: None)
    agent.put("health", health=word("xid-79"))
    await until(lambda: stage._hub.health.get("i-1") is not None)
    stage._tasks.append(asyncio.create_task(stage._hub.watch()))
    stage._hub._lost_s = 0.04
    await asyncio.sleep(0.1)
    assert stage._hub.health.get("i-1") is not None
    await stage._reactor.record(e.InstanceChanged(stage._clock.now(), Instance("i-1", "l-1", POOL, "gone")))
    await until(lambda: stage._hub.health.get("i-1") is None)


async def test_an_agent_is_told_what_its_node_should_have(stage: Stage) -> None:
    agent = await stage.agent(lambda _: None)
    assert (agent.welcome.gpus, agent.welcome.gpu_model, agent.welcome.deep_check_level) == (8, "H100", 2)


async def test_another_policy_is_told_to_agents_whose_nodes_it_concerns(stage: Stage) -> None:
    """One that waits for what a wrong policy said it should have, or for what an admin has switched off, goes on."""
    agent = await stage.agent(lambda _: None)
    stage._policies.set(POLICY + "\n# the same", stage.fleet)
    stage._hub.tell_policy()
    changed = POLICY.replace("H100", "H200").replace("deep_check_level = 2", "act = false")
    stage._policies.set(changed, stage.fleet)
    stage._hub.tell_policy()
    await until(lambda: agent.welcome.gpu_model == "H200")
    said = agent.welcome
    assert stage.welcomes == 2, "at its arrival, and now"
    assert (said.node, said.gpu_model, said.deep_check_level, said.health_noted) == ("n1", "H200", 0, True)


async def test_agents_are_told_the_rules_when_they_come_and_when_others_are_set(stage: Stage) -> None:
    agent = await stage.agent(lambda _: None)
    first = default_rules().revision
    assert agent.rules == [first]
    changed = default_toml().replace('name = "xid-79"', 'name = "xid-79"\ndry_run = true')
    request = admin_pb2.SetHealthRulesRequest(toml=changed, check_only=True)
    checked = await stage.SetHealthRules(request, Context())
    assert (checked.revision != first, stage.rules_file.read_text()) == (True, default_toml())
    faulty = await stage.SetHealthRules(admin_pb2.SetHealthRulesRequest(toml="version = 2"), Context())
    assert faulty.faults
    with pytest.raises(RefusedError, match="ABORTED"):
        await stage.SetHealthRules(admin_pb2.SetHealthRulesRequest(toml=changed, expected_revision="other"), Context())
    done = await stage.SetHealthRules(admin_pb2.SetHealthRulesRequest(toml=changed, expected_revision=first), Context())
    assert done.revision == checked.revision
    assert stage.rules_file.read_text() == changed
    await until(lambda: agent.rules == [first, done.revision])
    kinds = [entry.kind for entry in await stage._journal.read(newest=50)]
    assert kinds.count("HealthRulesSet") == 1
    again = HealthRulesStore(str(stage.rules_file))
    assert again.revision == done.revision, "they hold after a restart"
