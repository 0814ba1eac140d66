"""Which waiting jobs get which nodes in the fake Slurm: slurmctld's order, its main scheduler and its backfill. Pure.

As on 22.05: jobs in reservations come first, then by priority, then by job id. A job that is not eligible yet is passed over, and so
holds nothing against the next in line. The main scheduler lets nobody of a partition pass a job that waits for nodes. The backfill
scheduler lets those pass who do not put off the moment for which it could plan that job; and whoever fits where it can plan none, because
nodes that the job needs are drained, silent or on their way out (measured: so a rival takes a survivor that is NOT_RESPONDING).
"""

from collections.abc import Iterable, Iterator, Mapping

from holdfast_slurm.fake_model import FakeJob, FakeNode

UNLIMITED_S = 365 * 86_400.0
Start = tuple[FakeJob, tuple[str, ...]]


def line(jobs: Iterable[FakeJob]) -> list[FakeJob]:
    """Return the jobs that wait and are not held, in the order in which they are looked at."""
    waiting = (job for job in jobs if job.state == "PENDING" and not job.completing and not job.held)
    return sorted(waiting, key=lambda job: (not job.reservation, -job.current_priority(), job.job_id))


def main(jobs: Iterable[FakeJob], nodes: Mapping[str, FakeNode], now: float) -> Iterator[Start]:
    """Yield who starts where; each must be allocated before the next is asked for. The others get their reason."""
    starved: set[str] = set()
    for job in line(jobs):
        if job.eligible_time > now:
            job.reason = "BeginTime"
            continue
        chosen = _choose(job, nodes, _free(job, nodes))
        if chosen and (job.reservation or job.partition not in starved):
            yield job, chosen
        else:
            job.reason = "Priority" if job.partition in starved else "Resources"
            if not job.reservation:
                starved.add(job.partition)


def backfill(jobs: Iterable[FakeJob], nodes: Mapping[str, FakeNode], ends: Mapping[str, float], now: float) -> Iterator[Start]:
    """Yield who starts out of turn. `ends` tells when each node that is in use will be free at the latest."""
    plans: list[tuple[float, set[str]]] = []
    used = dict(ends)
    for job in line(jobs):
        if job.eligible_time > now:
            continue
        limit_s = UNLIMITED_S if job.time_limit_s is None else job.time_limit_s
        over = now + limit_s
        promised = {name for start, names in plans if over > start for name in names}
        chosen = _choose(job, nodes, [node for node in _free(job, nodes) if node.name not in promised])
        if chosen:
            yield job, chosen
            continue
        usable = [node.name for node in nodes.values() if node.in_service and _may_use(job, node)]
        usable.sort(key=lambda name: used.get(name, now))
        if len(usable) >= job.num_nodes:
            mine = usable[: job.num_nodes]
            start = used.get(mine[-1], now)
            plans.append((start, set(mine)))
            used.update(dict.fromkeys(mine, start + limit_s))


def _may_use(job: FakeJob, node: FakeNode) -> bool:
    return job.partition in node.partitions and node.reservation in {"", job.reservation}


def _free(job: FakeJob, nodes: Mapping[str, FakeNode]) -> list[FakeNode]:
    return [node for node in nodes.values() if node.has_room(job) and _may_use(job, node)]


def _choose(job: FakeJob, nodes: Mapping[str, FakeNode], free: list[FakeNode]) -> tuple[str, ...]:
    # Measured: nodes that are up, then names that never had a machine, then booting ones; else in the order of the configuration.
    free.sort(key=lambda node: (not node.jobs, node.power != "on", node.boot_time is not None, node.power == "off"))
    names = {node.name for node in free[: job.num_nodes]}
    return tuple(name for name in nodes if name in names) if len(names) == job.num_nodes else ()
