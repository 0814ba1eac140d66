"""One scrape of the controller: what the fleet is now, and what was counted."""

from collections import Counter
from collections.abc import Iterable, Iterator

from holdfast_common.exposition import Families
from holdfast_common.health.model import worst

from holdfast_controller import __version__, capacity
from holdfast_controller.describe import job_phase, node_phase
from holdfast_controller.fleet import Fleet
from holdfast_controller.metrics.counts import Counts
from holdfast_controller.metrics.tally import Tally, reason_class
from holdfast_controller.plan import Plans
from holdfast_controller.providers.base import Market, Pool
from holdfast_controller.records import Node

NODE_PHASES = ("off", "launching", "booting", "up", "doomed", "leaving", "down", "unknown")
JOB_PHASES = ("queued", "waiting", "starting", "running", "told", "saving", "parked", "requeueing")
"""The others are Slurm's own words for how a job has ended."""


def families(fleet: Fleet, plans: Plans, counts: Counts, tally: Tally, *, deciding: bool, now: float) -> Families:
    """Return the series of one scrape at `now` (Unix seconds)."""
    made = Families()
    made.add("controller_build_info", 1, {"version": __version__})
    made.add("controller_reconciled", deciding and fleet.cloud_listed)
    made.add("controller_last_look_timestamp_seconds", fleet.looked_at)
    _phases(made, "nodes", NODE_PHASES, (node_phase(fleet, node) for node in fleet.nodes.values()))
    _phases(made, "jobs", JOB_PHASES, (job_phase(job) for job in fleet.jobs.values()))
    gone = tally.down_on_purpose(now)
    for node in fleet.nodes.values():
        _node(made, fleet, node, gone)
    for pool in _pools(plans):
        _pool(made, fleet, plans, pool, now)
    counts.write(made)
    return made


def _phases(made: Families, name: str, known: Iterable[str], seen: Iterable[str]) -> None:
    """Count them; a phase that nothing is in has a 0."""
    counts = Counter(dict.fromkeys(known, 0))
    counts.update(seen)
    for phase, count in sorted(counts.items()):
        made.add(name, count, {"phase": phase})


def _node(made: Families, fleet: Fleet, node: Node, gone: frozenset[str]) -> None:
    name, record, view = {"node": node.name}, fleet.instance_of(node), node.view
    if node.doom is not None or node.power_down_at is not None or (node.name in gone and (record is None or not record.connected)):
        made.add("node_intentional_down", 1, name)
    if node.doom is not None and not node.doom.dead:
        made.add("preemption_deadline_timestamp_seconds", node.doom.notice.deadline, name)
    if view is not None and "DRAIN" in view.flags:
        sort, owner = reason_class(view.reason)
        if owner == "holdfast" and node.doom is not None:
            sort = str(node.doom.notice.kind)  # a later step's reason has taken the place of the drain's
        made.add("node_drain_info", 1, {**name, "reason_class": sort, "owner": owner})
    if record is not None and record.alive:
        gravest = worst(node.findings)
        made.add("node_agent_connected", record.connected, name)
        made.add("node_health_action", gravest.action.rank + 1 if gravest is not None else 0, name)


def _pools(plans: Plans) -> Iterator[Pool]:
    used = {id(plan): plan for plan in plans.by_node.values()}.values()  # thousands of nodes share a few
    yield from {pool.name: pool for plan in used for pool in plan.pools}.values()


def _pool(made: Families, fleet: Fleet, plans: Plans, pool: Pool, now: float) -> None:
    name = {"pool": pool.name}
    named = {**name, "market": pool.market.value}
    quote, memory = plans.quotes.get(pool.name), fleet.pools.get(pool.name)
    made.add("pool_instances", fleet.living[pool.name], named)
    made.add("pool_doubt_ratio", capacity.doubt(memory, now, 1) if memory is not None else 0.0, name)
    if pool.market is Market.SPOT:
        made.add("pool_hazard_per_hour", capacity.hazard_per_h(memory, quote, now, 1, fleet.living[pool.name]), name)
    if quote is not None and quote.price_usd_h is not None:
        made.add("pool_price_usd_per_hour", quote.price_usd_h, named)
    if quote is not None and quote.on_demand_usd_h is not None:
        made.add("pool_on_demand_usd_per_hour", quote.on_demand_usd_h, name)
