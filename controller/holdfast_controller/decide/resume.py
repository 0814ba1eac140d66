"""Nodes that Slurm waits for are bought: per job, all or nothing, in one pool; refused, in the next; and given up when none is left."""

import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator

from holdfast_controller.commands import Command, GiveUp, PowerDownNode, RedirectLaunch
from holdfast_controller.decide.orders import Order, Orders
from holdfast_controller.decide.placement import Want, domain, passing, rank, soonest, why_not
from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plan, Plans
from holdfast_controller.records import LaunchRecord, Node

ABANDONED_S = 2.0
ACTS_S = 5.0
"""So long slurmctld may take to act on a POWER_UP."""
LOOK_S = 1.0
"""So long a launch waits for a look that is newer than its request: hooks have one made at once."""
MOVE_S = 1.0
"""A job that goes to another zone as a whole is tried again so soon."""
MAX_SILENT_LAUNCHES = 2
"""Launches for one want whose instances never registered, before it is given up."""


def decide(fleet: Fleet, plans: Plans, now: float) -> Iterator[Command]:
    """Yield launches, or the end of trying, for each gang that waits for nodes."""
    if fleet.fresh and not fleet.cloud_listed:
        return  # what the nodes wait for may be bought already: the clouds' lists will say
    yield from _abandoned(fleet, now)
    yield from (node.let_go for node in fleet.nodes.values() if node.let_go is not None)
    gangs: dict[tuple[int, str], list[Node]] = defaultdict(list)
    for node in fleet.nodes.values():
        if node.wanted_since is not None and node.name in plans.by_node:
            gangs[(node.wanted_by, "" if node.wanted_by else f"for {node.meant_for}" if node.meant_for else node.name)].append(node)
    if not gangs:
        return
    orders, taken = Orders(fleet, plans, now), covered(fleet)
    for (job_id, _), nodes in gangs.items():
        for redirect in _redirected(fleet, plans, job_id, [node for node in nodes if node.name not in taken], taken):
            taken.add(redirect.to)
            yield redirect
        yield from _gang(fleet, plans, job_id, sorted(nodes, key=lambda node: node.name), taken, orders, now)
    yield from orders.launches()


def _abandoned(fleet: Fleet, now: float) -> Iterator[Command]:
    """Yield the power-down of names that were given up and that Slurm still powers up: the first word may not have reached it."""
    for node in fleet.nodes.values():
        given_up, view = node.power_down_at, node.view
        if given_up is None or node.wanted_since is not None or view is None or node.viewed_at < given_up + ABANDONED_S:
            continue
        if view.flags & {"POWERING_UP", "POWER_UP"} and not view.flags & {"POWERING_DOWN", "POWER_DOWN"}:
            yield PowerDownNode(f"abandon:{node.name}:{given_up:.3f}", f"{node.name} was given up", node.name)


def covered(fleet: Fleet) -> set[str]:
    """Return the node names that need no launch: an instance holds them, or a launch is under way or has instances to spare for them."""
    names = {node.name for node in fleet.nodes.values() if node.instance_id}
    for launch in fleet.launches.values():
        if launch.void:
            continue
        records = [record for iid in launch.instances if (record := fleet.instances.get(iid))]
        given = {record.node for record in records}
        free = [name for name in launch.nodes if name in fleet.nodes and name not in given]
        spare = sum(record.alive and not record.node for record in records)
        if launch.ended:
            # In a call for several jobs, what came for one that is gone serves the others.
            free = [name for name in free if not launch.shared or awaits(fleet.nodes[name])][:spare]
        names.update(free)
    return names


def awaits(node: Node) -> bool:
    """Whether the node waits for a machine."""
    return node.wanted_since is not None and not node.instance_id


def _redirected(fleet: Fleet, plans: Plans, job_id: int, missing: list[Node], taken: set[str]) -> Iterator[RedirectLaunch]:
    """What was bought ahead for the job under a name that Slurm then passed over serves the name that it chose instead.

    Measured on 22.05.8: in the second until slurmctld acts on POWER_UP it gives the node to no job, and takes another that is off.
    """
    if not job_id or not missing:
        return
    ahead = [node for node in fleet.nodes.values() if node.meant_for == job_id and node.name in taken and passed_over(fleet, node)]
    for node, old in zip(missing, ahead, strict=False):
        launch = _launch_for(fleet, old.name)
        if launch is not None and _may_serve(plans, launch, old, node):
            why = f"Slurm gave job {job_id} {node.name} and not {old.name}, for which a machine is being bought: it serves {node.name}"
            yield RedirectLaunch(f"redirect:{launch.launch_id}:{old.name}:{node.name}", why, old.name, launch.launch_id, node.name, job_id)


def _launch_for(fleet: Fleet, name: str) -> LaunchRecord | None:
    """Return the launch that is to bring the name its machine: not one of the name's earlier lives."""
    for launch in reversed(fleet.launches.values()):
        if not launch.void and name in launch.nodes:
            records = (fleet.instances.get(iid) for iid in launch.instances)
            if not launch.ended or any(record is not None and record.alive and not record.node for record in records):
                return launch
    return None


def passed_over(fleet: Fleet, node: Node) -> bool:
    """Whether the node waits for a machine, and no job for the node."""
    return node.wanted_since is not None and not node.wanted_by and not node.instance_id and node.name not in fleet.held


def _may_serve(plans: Plans, launch: LaunchRecord, old: Node, new: Node) -> bool:
    before, after = plans.by_node.get(old.name), plans.by_node[new.name]
    same = before is not None and before.group == after.group
    return same and any(pool.name == launch.pool for pool in after.pools)


def _gang(fleet: Fleet, plans: Plans, job_id: int, nodes: list[Node], taken: set[str], orders: Orders, now: float) -> Iterator[Command]:
    missing = [node for node in nodes if node.name not in taken]
    if not missing or any(now < node.doubtful_until for node in missing):
        return
    plan = plans.by_node[missing[0].name]
    since = min(node.wanted_since or now for node in missing)
    if plan.one_domain and _company_unknown(fleet, job_id, nodes, since, now):
        return
    who = f"job {job_id}" if job_id else ", ".join(node.name for node in missing)
    company = _company(fleet, job_id, nodes)
    job = fleet.jobs.get(job_id or missing[0].meant_for)
    waiting = min(since, job.waits_since or since) if job is not None else since
    want = Want(len(missing), since, waiting, _domains(fleet, plan, company - {node.name for node in missing}))
    if max(node.launches for node in missing) >= MAX_SILENT_LAUNCHES:
        why = f"{who}: instances were started, but their nodes never registered"
        yield _give_up(job_id, nodes, want, soonest(fleet, plans, plan, want, now), plan, now, why)
        return
    ranked = rank(fleet, plans, plan, want, now)
    if ranked:
        orders.add(Order(job_id, tuple(node.name for node in missing), plan, want, ranked, who))
        return
    if passing(fleet, plans, plan, want, now) or (not job_id and any(_not_acted_on(node, now) for node in missing)):
        return
    whys = {pool.name: why_not(fleet, plans, plan, pool, want, now, plan.probe_s) for pool in plan.pools}
    lacks = "no capacity" if any(why.startswith(("refused", "quota")) for why in whys.values()) else "no pool may be asked"
    told = "; ".join(f"{name}: {why}" for name, why in whys.items())
    whole = Want(max(len(nodes), len(company)), since, waiting)
    leave = _leave(fleet, job_id, want) if want.domains and rank(fleet, plans, plan, whole, now) else ()
    retry_at = now + MOVE_S if leave else soonest(fleet, plans, plan, want, now)
    yield _give_up(job_id, nodes, want, retry_at, plan, now, f"{lacks} for {who} ({told})")
    yield from leave


def _not_acted_on(node: Node, now: float) -> bool:
    """Whether slurmctld has still to act on our POWER_UP: it keeps the flag over a power-down of that second, and asks for the node later
    all the same, for nobody (seen on 22.05.8).
    """
    since, view = node.wanted_since, node.view
    waits = view is None or node.viewed_at <= (since or 0.0) or ("POWER_UP" in view.flags and "POWERING_UP" not in view.flags)
    return since is not None and now < since + ACTS_S and waits


def _company_unknown(fleet: Fleet, job_id: int, nodes: list[Node], since: float, now: float) -> bool:
    """Whether the job may have nodes already of which only the next look at Slurm tells (before 23.02 its request does not).

    It is not waited for long, and only where some machine is there that the job could have.
    """
    if not job_id or any(node.alloc for node in nodes) or now >= since + LOOK_S or fleet.looked_at > since:
        return False
    job = fleet.jobs.get(job_id)
    if job is not None and (job.view.num_nodes <= len(nodes) or not {node.name for node in nodes}.isdisjoint(job.view.nodes)):
        return False
    return any(node.instance_id and node.wanted_since is None for node in fleet.nodes.values())


def _company(fleet: Fleet, job_id: int, nodes: list[Node]) -> set[str]:
    """Return the nodes with which the gang's missing ones will work: its job's, or those that the job keeps for which they are bought."""
    names = {node.name for node in nodes}.union(*(node.alloc for node in nodes))
    job = fleet.jobs.get(job_id or next((node.meant_for for node in nodes if node.meant_for), 0))
    if job is None:
        return names
    view, leaves = job.view, job.evacuation
    if job_id:
        names |= set(view.nodes) if view.active and not view.completing else set()
    elif leaves is not None and 0 <= view.restarts - leaves.attempt <= 1:
        names |= set(leaves.nodes) - leaves.doomed.keys()
    return {name for name in names if name not in fleet.nodes or not _leaving(fleet.nodes[name])}


def _leaving(node: Node) -> bool:
    view = node.view
    return node.doom is not None or (view is not None and bool(view.flags & {"POWERING_DOWN", "POWER_DOWN"}))


def _domains(fleet: Fleet, plan: Plan, others: Iterable[str]) -> frozenset[str]:
    """Return the placement domains in which the gang's other nodes have machines, or have them being bought."""
    if not plan.one_domain:
        return frozenset()
    pools = set()
    for name in others:
        node = fleet.nodes.get(name)
        record = fleet.instance_of(node) if node is not None else None
        launch = _launch_for(fleet, name) if record is None and node is not None else None
        if record is not None and record.alive:
            pools.add(record.instance.pool)
        elif launch is not None:
            given = (fleet.instances.get(iid) for iid in launch.instances)
            pools.add(next((one.instance.pool for one in given if one is not None), launch.pool))
    return frozenset(domain(pool) for pool in pools if pool)


def _leave(fleet: Fleet, job_id: int, want: Want) -> tuple[PowerDownNode, ...]:
    """A job whose zone has no more machines leaves it as a whole: what it has there is let go, or Slurm would choose that again.

    Only while it is being configured, and only if nobody else uses any of those nodes: nothing of it runs there. Else it stays.
    """
    job = fleet.jobs.get(job_id)
    if job is None or job.view.state != "CONFIGURING":
        return ()
    here = [node for name in job.view.nodes if (node := fleet.nodes.get(name)) is not None and node.instance_id]
    if any([other.view.job_id for other in fleet.jobs_on(node.name)] != [job_id] for node in here):
        return ()
    why = f"job {job_id} finds no more nodes in {', '.join(sorted(want.domains))}: it goes elsewhere as a whole"
    return tuple(PowerDownNode(f"leave:{node.name}:{want.since:.3f}", why, node.name, node.instance_id) for node in here)


def _give_up(job_id: int, nodes: list[Node], want: Want, retry_at: float, plan: Plan, now: float, why: str) -> GiveUp:
    # Jobs that were refused together do not come back together.
    jitter = (zlib.crc32(f"{job_id}:{want.since}".encode()) % 1000) / 1000.0
    until = min(retry_at, now + plan.refusal_memory_s) + jitter * 0.2 * max(1.0, retry_at - now)
    names = tuple(node.name for node in nodes)
    return GiveUp(f"give_up:{','.join(names)}:{want.since:.3f}", f"{why}; next try in {until - now:.0f} s", names, job_id, until)
