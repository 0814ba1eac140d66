"""The health half of `AdminService`: what is known of nodes' health, orders to their agents, and the rules."""

import asyncio
from typing import Any

import grpc
from holdfast_common.clock import Clock
from holdfast_common.errors import ConfigError, Temporary
from holdfast_common.health.model import worst
from holdfast_protos.v1 import admin_pb2, admin_pb2_grpc, agent_pb2

from holdfast_controller.agents import AgentHub
from holdfast_controller.describe import node_sentence
from holdfast_controller.events import HealthRulesSet
from holdfast_controller.health_rules import HealthRulesStore
from holdfast_controller.policies import PolicyStore
from holdfast_controller.reactor import Reactor
from holdfast_controller.records import Node

MAX_RULES_BYTES = 262_144
MAX_WHOLE = 100
"""Nodes whose readings fit into one reply: 8 GPUs have 15 kB of them."""
MAX_WAIT_S = 60.0
WAIT_S = 25.0
"""An agent answers once everything has been read, and waits for a driver that hangs for 20 s (its `quick_check_s`)."""


class HealthCalls(admin_pb2_grpc.AdminServiceServicer):
    """A part of AdminService."""

    _reactor: Reactor
    _hub: AgentHub
    _policies: PolicyStore
    _clock: Clock

    @property
    def _rules(self) -> HealthRulesStore:
        return self._hub.rules

    async def ListHealth(self, request: admin_pb2.ListHealthRequest, context: Any) -> admin_pb2.ListHealthReply:  # noqa: N802
        """List how nodes are: those that were asked for, or all that have a machine. Readings are told of up to `MAX_WHOLE` named ones."""
        nodes = self._reactor.fleet.nodes
        wanted = set(request.nodes)
        unknown = sorted(wanted - nodes.keys())
        if unknown:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Holdfast does not manage node {unknown[0][:200]}")
        found = [node for node in nodes.values() if (node.name in wanted if wanted else node.instance_id)]
        whole = 0 < len(wanted) <= MAX_WHOLE
        return admin_pb2.ListHealthReply(nodes=[self._node_health(node, whole=whole) for node in found])

    async def CheckHealth(self, request: admin_pb2.CheckHealthRequest, context: Any) -> admin_pb2.ListHealthReply:  # noqa: N802
        """Have a node's agent read everything now, and return what it says then."""
        node = await self._ordered(request.node, agent_pb2.HealthOrder(check_now=True), request.wait_s or WAIT_S, context)
        return admin_pb2.ListHealthReply(nodes=[self._node_health(node)])

    async def ResolveHealth(self, request: admin_pb2.ResolveHealthRequest, context: Any) -> admin_pb2.ListHealthReply:  # noqa: N802
        """Have a node's agent forget what rules found, and then read everything: what still holds has come back by then."""
        order = agent_pb2.HealthOrder(resolve_rule=request.rule[:64] or "*", resolve_gpu=request.gpu[:96])
        await self._ordered(request.node, order, WAIT_S, context)
        node = await self._ordered(request.node, agent_pb2.HealthOrder(check_now=True), WAIT_S, context)
        return admin_pb2.ListHealthReply(nodes=[self._node_health(node)])

    async def GetHealthRules(self, request: admin_pb2.GetHealthRulesRequest, context: Any) -> admin_pb2.HealthRulesReply:  # noqa: N802
        """Return the rules in force."""
        return admin_pb2.HealthRulesReply(toml=self._rules.text, revision=self._rules.revision)

    async def SetHealthRules(self, request: admin_pb2.SetHealthRulesRequest, context: Any) -> admin_pb2.HealthRulesReply:  # noqa: N802
        """Check rules, or put them in force and tell every agent. Faults come back in the reply, and then nothing has changed.

        Aborts with ABORTED where the rules in force are not those that were read.
        """
        current = self._rules.revision
        if len(request.toml) > MAX_RULES_BYTES:
            return admin_pb2.HealthRulesReply(revision=current, faults=[f"longer than {MAX_RULES_BYTES} bytes"])
        if request.expected_revision and request.expected_revision != current:
            fault = f"the rules changed meanwhile: they are at revision {current}, not {request.expected_revision[:40]}"
            await context.abort(grpc.StatusCode.ABORTED, fault)
        try:
            revision = self._rules.check(request.toml).revision
            if not request.check_only:
                self._rules.set(request.toml)
                self._hub.tell_health_rules()  # before the first await: a caller that goes away keeps them from no agent
                await self._reactor.record(HealthRulesSet(self._clock.now(), revision))
        except ConfigError as error:
            return admin_pb2.HealthRulesReply(toml=request.toml, revision=current, faults=error.faults)
        except OSError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"the rules' file cannot be written: {error}")
            raise
        return admin_pb2.HealthRulesReply(toml=request.toml, revision=revision)

    async def _ordered(self, name: str, order: agent_pb2.HealthOrder, wait_s: float, context: Any) -> Node:
        """Send an order to a node's agent; of one to check, wait for what it says then."""
        node = self._reactor.fleet.nodes.get(name)
        if node is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Holdfast does not manage node {name[:200]}")
            raise AssertionError
        try:
            heard = await self._hub.order_health(node.instance_id, order)
            async with asyncio.timeout(wait_s if 0 < wait_s <= MAX_WAIT_S else WAIT_S):
                if order.check_now:
                    await self._hub.health.after(node.instance_id, heard)
        except Temporary as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{name}: {error}")
        except TimeoutError:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"the agent of {name} has not said how its node is")
        return node

    def _node_health(self, node: Node, *, whole: bool = True) -> admin_pb2.NodeHealth:
        fleet = self._reactor.fleet
        record = fleet.instance_of(node)
        sample = self._hub.health.get(node.instance_id) if node.instance_id else None
        gravest = worst(node.findings)
        told = node.health_heard and (sample is None or sample.health.ready)
        state = str(gravest.action) if gravest is not None else "healthy" if told else "unknown"
        made = admin_pb2.NodeHealth(
            node=node.name,
            instance_id=node.instance_id,
            agent_connected=record is not None and record.connected,
            state=state,
            heard_at=sample.heard_at if sample is not None else node.health_heard,
            health=sample.health if sample is not None else None,
            doing=node_sentence(fleet, self._policies.plans(), node, self._clock.now()),
        )
        if not whole and made.HasField("health"):
            del made.health.readings[:]
        return made
