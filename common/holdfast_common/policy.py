"""A cluster's policy: which pools fill which nodes, in which order, at what price, and how jobs are treated. Data, written in TOML.

One versioned model; unknown keys are refused, so that nothing that was written is silently without effect, and only what is implemented
is accepted.
"""

import hashlib
import json
import signal as signals
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from holdfast_common.errors import InputError
from holdfast_common.nodeset import expand
from holdfast_common.policy_checks import WHEN_REFUSED, cross_faults, pool_name
from holdfast_common.settings import Name, Seconds, Section, Texts, did_you_mean, parse_toml, validated, worded

__all__ = ["Checkpoint", "Health", "Launch", "NodeGroup", "Partition", "Policy", "PoolPolicy", "Requeue", "parse_policy", "pool_name"]

Template = Annotated[
    str, worded(r"[A-Za-z0-9()./_:-]{0,160}", "write a launch template's name or id, with `:version` behind it if need be")
]
GpuModel = Annotated[str, worded(r"[A-Za-z0-9_.-]{0,64}", "write letters, digits and . _ -")]


class PoolPolicy(Section):
    """A capacity pool, under a short name of the admin's choice."""

    provider: Literal["aws", "gcp", "azure", "fake"]
    """`fake` is the cloud in memory that simulations use; a controller refuses pools of clouds that its settings do not have."""
    region: Name
    zone: Name
    instance_type: Name
    market: Literal["spot", "on_demand"]
    template: Template = ""
    """The provider's launch template; empty: the provider's own setting."""
    price_cap_usd_h: Annotated[float, Field(gt=0, le=100_000)] | None = None
    """Highest price to pay, US dollars per instance-hour; without it, up to the on-demand price."""

    @property
    def name(self) -> str:
        """The pool's name everywhere else: `aws/us-east-1/us-east-1a/p5.48xlarge/spot`."""
        return pool_name(self.provider, self.region, self.zone, self.instance_type, self.market)


def _node_list(text: str) -> str:
    try:
        if not expand(text):
            raise ValueError("names no node")
    except InputError as error:
        raise ValueError(f"is not allowed: {error}") from error
    return text


class NodeGroup(Section):
    """CLOUD nodes of one shape, that several pools can fill. What is left out of the shape is left to slurm.conf."""

    nodes: Annotated[str, AfterValidator(_node_list)]
    """A Slurm node list: `spot-[1-8]`."""
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    gpu_model: GpuModel = ""
    cpus: Annotated[int, Field(ge=1, le=65_536)] | None = None
    memory_mb: Annotated[int, Field(ge=1, le=2**31)] | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The nodes' names, one by one."""
        return expand(self.nodes)


def _signal(text: str) -> str:
    name = text.removeprefix("B:").removeprefix("SIG")
    known = sorted(found.name.removeprefix("SIG") for found in signals.Signals)
    if text and name not in known:
        raise ValueError(f"is no signal such as 'USR1' or 'B:USR1'{did_you_mean(name, known)}")
    if name in {"KILL", "STOP"}:
        raise ValueError("cannot be caught by a job")
    return text


class Checkpoint(Section):
    """How a job is told to save, and when it is requeued."""

    signal: Annotated[str, AfterValidator(_signal)] = ""
    """Sent to jobs that opted in without naming one, `B:` for the batch shell only; empty: none. No other job is ever signalled."""
    margin_s: Annotated[float, Field(ge=0, le=600)] = 2.0
    """Seconds before the deadline at which a registered job is requeued, saved or not: what a requeue takes."""
    kill_wait_s: Annotated[float, Field(ge=0, le=600)] = 5.0
    """Seconds between TERM and KILL: what slurm.conf says (KillWait). Jobs that registered nothing are requeued earlier by this."""


class Requeue(Section):
    """When a job is not tried again."""

    max_attempts: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Attempts whose batch step began; then the job is held, with the reason."""
    crash_loop_s: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    """An attempt that ends within so many seconds of its start counts as a crash …"""
    crash_loop_count: Annotated[int, Field(ge=1, le=1000)] = 5
    """… and after so many in a row the job is held, with the reason."""
    never_launched_s: Annotated[float, Field(ge=0, le=86_400)] = 300.0
    """A job that Slurm has RUNNING for so long, and of which none of its nodes ever saw a process, is requeued; 0: it is not."""
    keep_nodes_s: Annotated[float, Field(ge=0, le=86_400)] = 300.0
    """For how long its surviving nodes and its replacement are kept for a requeued job, where others wait for nodes; 0: they are not."""


class Launch(Section):
    """How patient a purchase is."""

    registration_timeout_s: Seconds = 300.0
    """From launch until the node must be up in Slurm; then it is replaced."""
    refusal_backoff_s: Seconds = 30.0
    """A pool that refused is left alone for so long, twice as long with each further refusal …"""
    refusal_memory_s: Seconds = 1800.0
    """… up to this: zones recover over about half an hour."""
    probe_s: Seconds = 120.0
    """Where every pool has refused lately, each is asked again after this at the latest."""
    orphan_grace_s: Seconds = 300.0
    """An instance that belongs to nothing is terminated after this."""
    gang: Literal["zone", "any"] = "zone"
    """Where the nodes of one job stand: all in one zone, or wherever there are some."""
    combine: bool = False
    """Name all pools of a region that will do in one call, where the cloud takes several (AWS CreateFleet, Google bulkInsert), and have it
    choose; else one pool after the other is asked."""
    setback_s: Seconds = 300.0
    """What a reclaim costs a job (save, boot, start), for `order = "scored"`."""


class Health(Section):
    """What is done about machines that the health rules find sick."""

    act: bool = True
    """False: what the rules find is recorded and exported, and nothing is done about it."""
    evacuate_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """How long jobs may take to save and leave a sick machine: nobody takes it away meanwhile."""
    keep_sick_s: Annotated[float, Field(ge=0, le=604_800)] = 0.0
    """For how long a machine is kept, drained, that a rule had drained or evacuated: to be looked at. `replace` never keeps one."""
    avoid_pool_s: Annotated[float, Field(ge=0, le=604_800)] = 600.0
    """For how long the pool that gave a sick machine comes after the others: the next one may be the same host."""
    brake_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    """A finding on whole nodes (not on a GPU) that was acted on for so many of the partition's machines within an hour, and for three at
    least, is acted on no more: a wrong rule, clock or driver must not take them all. 1: no such bound."""
    deep_check_level: Annotated[int, Field(ge=0, le=4)] = 0
    """Before a new machine takes jobs, `dcgmi diag -r LEVEL` is run, where it is installed; 0: only the quick check."""


def _ondemand(text: str) -> str:
    if text != "never" and not WHEN_REFUSED.fullmatch(text):
        raise ValueError("is not allowed: 'never' or 'when_refused(SECONDS)'")
    return text


class Partition(Section):
    """A Slurm partition of node groups that Holdfast buys."""

    node_groups: Annotated[Texts, Field(min_length=1)]
    pools: Annotated[Texts, Field(min_length=1)]
    """Short names of pools."""
    order: Literal["listed", "price", "scored"] = "listed"
    """In the order of `pools`; or the cheapest known price first; or `scored`: the cheapest hour that is of use, by price, by how often a
    pool takes instances back and by what it refused lately. In each, pools that refused lately come after those that did not."""
    ondemand: Annotated[str, AfterValidator(_ondemand)] = "never"
    """When pools of the on-demand market are used: `never`, or `when_refused(300)`: once a request has waited 300 seconds."""
    checkpoint: Checkpoint = Checkpoint()
    requeue: Requeue = Requeue()
    launch: Launch = Launch()
    health: Health = Health()

    @property
    def ondemand_after_s(self) -> float | None:
        """Seconds that a request waits before on-demand pools are used; None: never."""
        found = WHEN_REFUSED.fullmatch(self.ondemand)
        return float(found.group(1)) if found else None


class Policy(Section):
    """The whole policy. Look-ups return nothing for what is not managed."""

    version: Literal[1]
    pools: Annotated[Mapping[Name, PoolPolicy], Field(min_length=1)]
    node_groups: Annotated[Mapping[Name, NodeGroup], Field(min_length=1)]
    partitions: Annotated[Mapping[Name, Partition], Field(min_length=1)]

    @cached_property
    def revision(self) -> str:
        """12 hexadecimal digits of what the policy means: comments, spaces and the order of tables do not change it."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @cached_property
    def _group_by_node(self) -> dict[str, str]:
        return {node: name for name, group in self.node_groups.items() for node in group.names}

    @cached_property
    def _partition_by_group(self) -> dict[str, str]:
        return {group: name for name, partition in self.partitions.items() for group in partition.node_groups}

    @property
    def nodes(self) -> tuple[str, ...]:
        """Every node that a partition manages."""
        return tuple(node for node, group in self._group_by_node.items() if group in self._partition_by_group)

    def group_of(self, node: str) -> str | None:
        """Return the name of the node's group."""
        return self._group_by_node.get(node)

    def partition_of(self, node: str) -> str | None:
        """Return the partition that manages the node."""
        return self._partition_by_group.get(self._group_by_node.get(node, ""))

    def partition_pools(self, partition: str) -> tuple[PoolPolicy, ...]:
        """Return a partition's pools in its order of preference as listed."""
        found = self.partitions.get(partition)
        return tuple(self.pools[name] for name in found.pools) if found else ()

    def pools_for_node(self, node: str) -> tuple[PoolPolicy, ...]:
        """Return the pools that may fill a node, as its partition lists them."""
        return self.partition_pools(self.partition_of(node) or "")


def parse_policy(text: str, where: str = "policy") -> Policy:
    """Return the policy. Raises ConfigError with every fault at once, each with its TOML path."""
    return validated(Policy, parse_toml(text, where), where, cross_faults)
