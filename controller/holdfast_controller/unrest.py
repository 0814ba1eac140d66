"""When Slurm and the clouds should be asked often: while something is about to change."""

from collections.abc import Iterable

from holdfast_controller.records import JobRecord, Node

SETTLES_S = 60.0
"""So long after a word of it, a change or a requeue, and so near to a start or a deadline, something is about to happen."""


def busy(nodes: Iterable[Node], jobs: Iterable[JobRecord], now: float) -> bool:
    """Return whether something is under way that Slurm should be asked about often."""
    return any(_changes(node, now) for node in nodes) or any(_unsettled(job, now) for job in jobs)


def _changes(node: Node, now: float) -> bool:
    """Whether the node is awaited, or goes away soon."""
    doom = node.doom
    if node.wanted_since is not None or doom is None:
        return node.wanted_since is not None
    under_way = doom.dead or node.power_down_at is not None
    return under_way or _pressing(max(doom.notice.deadline, doom.keep_until), max(node.changed_at, doom.notice.received), now)


def _unsettled(job: JobRecord, now: float) -> bool:
    """Whether the job is about to change: it leaves its nodes, or is to start again within a minute."""
    evacuation, view = job.evacuation, job.view
    if job.not_before is not None and view.state == "PENDING":
        return abs(now - job.not_before) < SETTLES_S
    if evacuation is None:
        return False
    if view.restarts == evacuation.attempt:
        said = max((report.at for report in job.reports.values()), default=0.0)
        deadline = min(evacuation.doomed.values(), default=now)
        return view.active and (view.completing or _pressing(deadline, max(said, job.changed_at, evacuation.began), now))
    recent = evacuation.requeued_at is None or now < evacuation.requeued_at + SETTLES_S
    return view.completing or (recent and view.state in {"PENDING", "CONFIGURING"} and view.restarts == evacuation.attempt + 1)


def _pressing(deadline: float, heard: float, now: float) -> bool:
    """Whether a deadline is near, or something was heard lately: one that is an hour ahead, in silence, needs no haste."""
    return now >= deadline - SETTLES_S or now < heard + SETTLES_S
