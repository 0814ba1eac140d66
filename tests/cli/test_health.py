"""`holdfast health` and its calls: agents' words, orders to agents, and the rules, over real sockets."""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from holdfast_common.clock import SystemClock
from holdfast_common.errors import ConfigError
from holdfast_common.health.model import Action, Finding
from holdfast_common.health.rules import default_rules, default_toml
from holdfast_controller import events as e
from holdfast_controller.agents import AgentHub
from holdfast_controller.fakes import FakeAgent
from holdfast_controller.health_rules import HealthRulesStore
from holdfast_controller.plan import Health, Plan, Shape
from holdfast_controller.providers.base import Offer
from holdfast_controller.tokens import make_token
from holdfast_protos.v1 import admin_pb2 as pb
from holdfast_protos.v1 import agent_pb2

pytestmark = pytest.mark.timeout(120)  # each test starts several processes, on what may be a busy machine
RULES = """version = 1
[[event]]
name = "fallen"
kind = "xid"
codes = [79]
action = "replace"
advice = "NVIDIA"
next = "look at the cable"
"""
OTHER = RULES.replace('"replace"', '"drain"')
WRONG = RULES.replace('"replace"', '"explode"')
FALLEN = agent_pb2.HealthFinding(
    rule="fallen", gpu="GPU-1", action="drain", since=1_700_000_000.0, text="fell off\x1b[2J", advice="NVIDIA", strikes=2, job_ids=[7]
)
READINGS = [
    agent_pb2.HealthReading(name="up", gpu="GPU-1", state="ok", value=1.0),
    agent_pb2.HealthReading(name="row_remap_pending", gpu="GPU-1", state="unsupported"),
    agent_pb2.HealthReading(name="ecc_sram", gpu="GPU-1", state="failed", value=math.nan, detail="ERROR_UNKNOWN"),
]


class Agent(FakeAgent):
    """An agent that keeps what it is told of health, and answers orders with what it finds."""

    def __init__(self, hub: AgentHub, instance_id: str, launch_id: str) -> None:
        super().__init__(
            instance_id,
            make_token(b"secret", launch_id),
            "10.0.0.1",
            SystemClock(),
            on_welcome=lambda node: None,
            on_prepare=lambda jobs, notice, cancelled: None,
            boot_id="b",
        )
        self._hub = hub
        self.tables: list[tuple[str, str]] = []
        self.ordered: list[agent_pb2.HealthOrder] = []
        self.welcome = agent_pb2.Welcome()
        self.dumb = False
        self.finds: list[agent_pb2.HealthFinding] = []

    def _take(self, message: agent_pb2.ControllerMessage, queue: Any) -> None:
        super()._take(message, queue)
        kind = message.WhichOneof("body")
        if kind == "health_rules":
            self.tables.append((message.health_rules.toml, message.health_rules.revision))
        elif kind == "welcome":
            self.welcome = message.welcome
        elif kind == "health_order" and not self.dumb:
            self.ordered.append(message.health_order)
            if message.health_order.resolve_rule:
                self.finds = []
            self.say(*self.finds)

    def say(self, *findings: agent_pb2.HealthFinding) -> None:
        self.finds = list(findings)
        health = agent_pb2.Health(ready=True, findings=findings, gpus_visible=8, driver="550.90", quick_check="passed", readings=READINGS)
        self.put("health", health=health)


@contextlib.asynccontextmanager
async def agent_on(stage: Any, name: str = "spot-1") -> AsyncIterator[Agent]:
    await stage.up(name, f"i-{name}")
    agent = Agent(stage.hub, f"i-{name}", f"launch-{name}")
    session = asyncio.create_task(agent.session(stage.hub))
    await until(lambda: stage.hub.connected(f"i-{name}") and agent.tables)
    await stage.hub.welcome(f"i-{name}", name)
    try:
        yield agent
    finally:
        session.cancel()
        await asyncio.gather(session, return_exceptions=True)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it may be anything
            await asyncio.sleep(0.01)


async def said(stage: Any, agent: Agent, *findings: agent_pb2.HealthFinding) -> None:
    agent.say(*findings)
    await until(lambda: not agent.owes("health"))


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


def with_rules_file(stage: Any) -> Any:
    path = stage.directory / "rules.toml"
    path.write_text(RULES)
    stage.hub.rules = HealthRulesStore(str(path))
    return path


# -- nodes ------------------------------------------------------------------------------------------------------------------------


async def test_nodes_are_listed_with_the_gravest_finding(stage: Any) -> None:
    await stage.node("spot-3", "IDLE", "CLOUD", "POWERED_DOWN")
    async with agent_on(stage, "spot-1") as sick, agent_on(stage, "spot-2"):
        await said(stage, sick, agent_pb2.HealthFinding(rule="warm", action="note", strikes=1), FALLEN)
        reply = await stage.stub.ListHealth(pb.ListHealthRequest())
        assert [(node.node, node.state, node.agent_connected) for node in reply.nodes] == [
            ("spot-1", "drain", True),
            ("spot-2", "unknown", True),
        ], "those that have a machine"
        done = await stage.cli("health", "nodes")
        assert done.code == 0
        first = done.out.splitlines()[1]
        assert first.split()[:3] == ["spot-1", "drain", "8"]
        assert "fallen on GPU-1" in first
        assert "the health rule fallen on GPU-1: fell off[2J; it takes no new job" in first
        named = await stage.cli("health", "nodes", "spot-[2-3]", "--json")
        assert [(node["name"], node["state"], node["sick"]) for node in named.document["nodes"]] == [
            ("spot-2", "unknown", False),
            ("spot-3", "unknown", False),
        ]


async def test_a_node_is_shown_whole_and_ends_1_where_it_is_sick(stage: Any) -> None:
    with_rules_file(stage)
    async with agent_on(stage) as agent:
        await said(stage, agent)
        assert (await stage.cli("health", "node", "spot-1")).code == 0
        await said(stage, agent, FALLEN)
        done = await stage.cli("health", "node", "spot-1")
        assert done.code == 1
        assert "\x1b" not in done.out
        for part in (
            "spot-1: drain; its agent is here.",
            "8 GPU(s) visible, driver 550.90",
            "Quick check: passed. Deep check: none.",
            "fallen on GPU-1: drain, since 2023-11-14 22:13:20",
            "2 strike(s), job 7",
            "advice: NVIDIA",
            "next:   look at the cable",
        ):
            assert part in done.out, part
        table = [line.split() for line in done.out.splitlines()[-3:]]
        assert table == [["up", "GPU-1", "ok", "1", "-"], ["row_remap_pending", "GPU-1", "unsupported", "-", "-"],
                         ["ecc_sram", "GPU-1", "failed", "-", "ERROR_UNKNOWN"]]  # fmt: skip
        document = (await stage.cli("health", "node", "spot-1", "--json")).document
        assert (document["state"], document["next_steps"]) == ("drain", {"fallen": "look at the cable"})
        assert [reading["value"] for reading in document["readings"]] == [1.0, None, None], "NaN is no JSON"


async def test_a_note_and_a_dry_run_make_no_node_sick(stage: Any) -> None:
    async with agent_on(stage) as agent:
        note = agent_pb2.HealthFinding(rule="warm", action="note", strikes=1)
        dry = agent_pb2.HealthFinding(rule="fallen", action="replace", dry_run=True, strikes=1)
        await said(stage, agent, note, dry)
        done = await stage.cli("health", "node", "spot-1")
        assert done.code == 0
        assert "spot-1: note" in done.out
        assert "fallen (dry run): replace" in done.out


async def test_a_node_without_an_agents_word(stage: Any) -> None:
    await stage.up("spot-1", "i-1")
    done = await stage.cli("health", "node", "spot-1")
    assert (done.code, "has said nothing of its health" in done.out) == (0, True)
    unknown = await stage.cli("health", "node", "nosuch")
    assert (unknown.code, "does not manage node nosuch" in unknown.err) == (1, True)


async def test_explain_tells_of_findings(stage: Any) -> None:
    async with agent_on(stage) as agent:
        await said(stage, agent, FALLEN)
        done = await stage.cli("explain", "node", "spot-1")
        assert "the health rule fallen on GPU-1" in done.out.splitlines()[0]
        assert "health reported" in done.out


# -- orders -----------------------------------------------------------------------------------------------------------------------


async def test_a_check_waits_for_the_agents_answer(stage: Any) -> None:
    async with agent_on(stage) as agent:
        agent.finds = [FALLEN]
        sick = await stage.cli("health", "check", "spot-1")
        assert (sick.code, "fallen on GPU-1" in sick.out) == (1, True)
        assert agent.ordered[0].check_now
        assert not agent.ordered[0].resolve_rule
        agent.finds = []
        assert (await stage.cli("health", "check", "spot-1", "--json")).document["state"] == "healthy"


async def test_what_still_stands_after_a_resolve_is_said(stage: Any) -> None:
    async with agent_on(stage) as agent:
        await said(stage, agent, FALLEN)
        done = await stage.cli("health", "resolve", "spot-1", "--rule", "fallen", "--gpu", "GPU-1")
        assert (done.code, done.out) == (0, "spot-1: resolved; nothing stands.\n")
        assert (agent.ordered[0].resolve_rule, agent.ordered[0].resolve_gpu) == ("fallen", "GPU-1")
        await said(stage, agent, FALLEN)
        agent.dumb = True
        asked = asyncio.create_task(stage.cli("health", "resolve", "spot-1", "--json"))
        await until(lambda: stage.hub.health._changed)
        await said(stage, agent, FALLEN)
        assert (await asked).document["still_standing"] == ["fallen on GPU-1"]


async def test_every_rule_is_resolved_where_none_is_named(stage: Any) -> None:
    async with agent_on(stage) as agent:
        await stage.stub.ResolveHealth(pb.ResolveHealthRequest(node="spot-1"))
        assert [(order.resolve_rule, order.check_now) for order in agent.ordered] == [("*", False), ("", True)], "read only afterwards"


async def test_an_agent_that_is_away_or_says_nothing_is_a_failure_and_not_an_absent_controller(stage: Any) -> None:
    await stage.up("spot-2", "i-2")
    away = await stage.cli("health", "check", "spot-2")
    assert (away.code, "the agent of instance i-2 is not connected" in away.err) == (1, True)
    off = await refused(stage.stub.CheckHealth(pb.CheckHealthRequest(node="spot-3")))
    assert off[0] is grpc.StatusCode.FAILED_PRECONDITION
    async with agent_on(stage) as agent:
        agent.dumb = True
        silent = await stage.cli("health", "check", "spot-1", "--wait", "1")
        assert (silent.code, "has not said how its node is" in silent.err) == (1, True)
    unknown = await refused(stage.stub.ResolveHealth(pb.ResolveHealthRequest(node="nosuch")))
    assert unknown == (grpc.StatusCode.NOT_FOUND, "Holdfast does not manage node nosuch")


@pytest.mark.parametrize("wait_s", [math.nan, -1.0, 1e9])
async def test_no_call_waits_without_end(stage: Any, wait_s: float, monkeypatch: Any) -> None:
    monkeypatch.setattr("holdfast_controller.health_admin.WAIT_S", 0.2)
    async with agent_on(stage) as agent:
        agent.dumb = True
        code, _ = await refused(stage.stub.CheckHealth(pb.CheckHealthRequest(node="spot-1", wait_s=wait_s)))
        assert code is grpc.StatusCode.FAILED_PRECONDITION


# -- rules ------------------------------------------------------------------------------------------------------------------------


async def test_an_agent_is_told_the_rules_when_it_comes_and_when_they_change(stage: Any) -> None:
    path = with_rules_file(stage)
    first = stage.hub.rules.revision
    async with agent_on(stage) as agent:
        assert agent.tables == [(RULES, first)]
        (stage.directory / "new.toml").write_text(OTHER)
        done = await stage.cli("health", "rules", "--set", str(stage.directory / "new.toml"), "--yes")
        assert done.code == 0
        assert '-action = "replace"' in done.out
        assert done.out.endswith(f"health rules {stage.hub.rules.revision} are in force.\n")
        await until(lambda: len(agent.tables) == 2)
        assert agent.tables[1] == (OTHER, stage.hub.rules.revision)
    assert path.read_text() == OTHER
    again = await stage.cli("health", "rules", "--set", str(path), "--json")
    assert again.document == {"changed": False, "revision": stage.hub.rules.revision, "diff": "", "faults": []}
    events = (await stage.cli("events", "--last", "20")).out
    assert f"health rules {stage.hub.rules.revision} are in force" in events


async def test_faulty_rules_are_refused_and_change_nothing(stage: Any) -> None:
    path = with_rules_file(stage)
    (stage.directory / "new.toml").write_text(WRONG)
    done = await stage.cli("health", "rules", "--set", str(stage.directory / "new.toml"), "--yes")
    assert (done.code, "explode" in done.err) == (1, True)
    reply = await stage.stub.SetHealthRules(pb.SetHealthRulesRequest(toml=WRONG))
    assert (len(reply.faults), reply.revision) == (1, stage.hub.rules.revision)
    long = await stage.stub.SetHealthRules(pb.SetHealthRulesRequest(toml="#" * 262_145))
    assert long.faults == ["longer than 262144 bytes"]
    assert path.read_text() == RULES


async def test_rules_that_another_set_meanwhile_are_not_overwritten(stage: Any) -> None:
    path = with_rules_file(stage)
    code, why = await refused(stage.stub.SetHealthRules(pb.SetHealthRulesRequest(toml=OTHER, expected_revision="0123456789ab")))
    assert code is grpc.StatusCode.ABORTED
    assert stage.hub.rules.revision in why
    checked = await stage.stub.SetHealthRules(pb.SetHealthRulesRequest(toml=OTHER, check_only=True))
    assert (checked.faults, checked.revision != stage.hub.rules.revision) == ([], True)
    assert path.read_text() == RULES


async def test_without_a_file_none_can_be_set_and_it_is_said_how(stage: Any) -> None:
    (stage.directory / "new.toml").write_text(OTHER)
    done = await stage.cli("health", "rules", "--set", str(stage.directory / "new.toml"), "--yes")
    assert (done.code, 'add health_rules = "' in done.err) == (1, True)
    assert stage.hub.rules.revision == default_rules().revision


async def test_a_file_that_cannot_be_written_is_said(stage: Any) -> None:
    with_rules_file(stage)
    stage.hub.rules._path = stage.directory / "absent" / "rules.toml"
    code, why = await refused(stage.stub.SetHealthRules(pb.SetHealthRulesRequest(toml=OTHER)))
    assert (code, "cannot be written" in why) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    assert stage.hub.rules.text == RULES


async def test_without_a_terminal_and_without_yes_no_rules_are_set(stage: Any) -> None:
    path = with_rules_file(stage)
    done = await stage.cli("health", "rules", "--set", "-", text=OTHER)
    assert (done.code, "--yes" in done.err, path.read_text() == RULES) == (2, True, True)


async def test_the_rules_are_shown_as_a_table_as_they_are_written_and_as_json(stage: Any) -> None:
    with_rules_file(stage)
    table = await stage.cli("health", "rules")
    assert table.out.splitlines()[1].split() == ["fallen", "xid", "79", "replace", "NVIDIA"]
    assert (await stage.cli("health", "rules", "--toml")).out == RULES
    document = (await stage.cli("health", "rules", "--json")).document
    assert (document["revision"], [rule["name"] for rule in document["rules"]]) == (stage.hub.rules.revision, ["fallen"])


async def test_without_a_controller_the_built_in_rules_are_shown_and_a_table_is_checked(stage: Any) -> None:
    absent = str(stage.directory / "absent.sock")
    shown = await stage.cli("health", "rules", "--toml", "--socket", absent)
    assert (shown.code, shown.out) == (0, default_toml())
    assert "These are the rules that Holdfast brings" in shown.err
    fine = await stage.cli("health", "rules", "--check", "-", "--socket", absent, text=RULES)
    assert (fine.code, "is fine: revision" in fine.out) == (0, True)
    wrong = await stage.cli("health", "rules", "--check", "-", "--json", "--socket", absent, text=WRONG)
    assert wrong.code == 1
    assert json.loads(wrong.out)["ok"] is False
    both = await stage.cli("health", "rules", "--toml", "--check", "-", text=RULES)
    assert both.code == 2


def test_a_table_on_disk_that_is_faulty_or_absent_keeps_the_controller_from_starting(tmp_path: Any) -> None:
    for text in (None, WRONG):
        if text is not None:
            (tmp_path / "rules.toml").write_text(text)
        with pytest.raises(ConfigError):
            HealthRulesStore(str(tmp_path / "rules.toml"))


# -- what an agent is told when it comes, and whose word counts -------------------------------------------------------------------


async def test_an_agent_is_told_the_gpus_that_its_node_should_have(stage: Any) -> None:
    shape = Shape(gpus=8, gpu_model="h100")
    plan = Plan("spot", "gpu", (), shape=shape, health=Health(deep_check_level=2))
    stage.hub.plan = {"spot-1": plan}.get
    async with agent_on(stage) as agent:
        await until(lambda: agent.welcome.node)
        assert (agent.welcome.gpus, agent.welcome.gpu_model, agent.welcome.deep_check_level) == (8, "h100", 2)
    async with agent_on(stage, "spot-2") as other:
        await until(lambda: other.welcome.node)
        assert (other.welcome.gpus, other.welcome.deep_check_level) == (0, 0)


@pytest.mark.parametrize(("model", "gpus", "told"), [("H100", 8, (8, "h100")), ("A100", 4, (4, "")), ("H100", 4, (4, ""))])
async def test_what_the_cloud_says_of_a_machine_counts_before_a_policy_that_has_changed(
    stage: Any, model: str, gpus: int, told: tuple[int, str]
) -> None:
    stage.hub.plan = {"spot-1": Plan("spot", "gpu", (), shape=Shape(gpus=8, gpu_model="h100"))}.get
    stage.hub.offer = {"i-spot-1": Offer("aws", "r", "p5", ("a",), model, gpus, 0, 8, 1)}.get
    async with agent_on(stage) as agent:
        await until(lambda: agent.welcome.node)
        assert (agent.welcome.gpus, agent.welcome.gpu_model) == told


async def test_an_agent_that_has_no_name_speaks_for_no_node(stage: Any) -> None:
    async with agent_on(stage) as agent:
        stage.fleet.nodes["spot-1"].instance_id = "i-other"
        await said(stage, agent, FALLEN)
        assert stage.fleet.nodes["spot-1"].findings == ()
        assert stage.hub.health.get("i-spot-1") is None


async def test_a_hostile_word_ends_no_stream(stage: Any) -> None:
    async with agent_on(stage) as agent:
        await said(stage, agent, agent_pb2.HealthFinding(rule="x y", action="drain"))
        assert stage.fleet.nodes["spot-1"].findings == ()
        await said(stage, agent, FALLEN)
        assert [finding.rule for finding in stage.fleet.nodes["spot-1"].findings] == ["fallen"]


async def test_after_a_restart_what_was_found_is_known_though_the_agent_is_away(stage: Any) -> None:
    async with agent_on(stage):
        pass
    finding = Finding("fallen", Action.EVACUATE, stage.now, "GPU-1", "fell off")
    await stage.record(e.HealthReported(stage.now, "spot-1", "i-spot-1", (finding,)))
    reply = await stage.stub.ListHealth(pb.ListHealthRequest(nodes=["spot-1"]))
    assert (reply.nodes[0].state, reply.nodes[0].HasField("health")) == ("evacuate", False)
    done = await stage.cli("health", "node", "spot-1")
    assert (done.code, "the health rule fallen on GPU-1" in done.out) == (1, True)
