"""Promises about the reclaims: each happened, in the state that its name claims."""

from collections.abc import Iterator

from holdfast_sandbox.demo.evidence import KINDS, TITLES, Evidence, Reclaim, ReclaimKind
from holdfast_sandbox.history.attempts import events, moment, saves
from holdfast_sandbox.history.machines import Machine, entries, holder, machines, nodes_of


def all_happened(evidence: Evidence) -> Iterator[str]:
    """One of each kind, on a machine on which its job ran, by the cloud's own record."""
    for kind in KINDS:
        if not _of(evidence, kind):
            yield f"none {TITLES[kind]}"
    for reclaim in evidence.reclaims:
        machine, run = _machine(evidence, reclaim), evidence.jobs[reclaim.job]
        struck = machine.notice if reclaim.noticed else machine.killed
        if struck is None:
            yield f"{_name(reclaim)}: the cloud's record has none for {reclaim.instance_id}"
            continue
        nodes = nodes_of(evidence, run.job_id, reclaim.attempt)
        if reclaim.node not in nodes or machine.node != reclaim.node:
            yield f"{_name(reclaim)}: {reclaim.instance_id} was {machine.node or 'no node'}, the job ran on {', '.join(nodes) or 'none'}"
        trained = moment(run, reclaim.attempt, "first_step_done")
        if trained is None or trained > struck:
            yield f"{_name(reclaim)}: attempt {reclaim.attempt} had not trained yet"
        if machine.gone is None:
            yield f"{_name(reclaim)}: {reclaim.instance_id} was never taken away"


def notice_reached(evidence: Evidence) -> Iterator[str]:
    """The agent brought the cloud's notice to the controller and to the job."""
    for reclaim in evidence.reclaims:
        if not reclaim.noticed:
            continue
        machine, run = _machine(evidence, reclaim), evidence.jobs[reclaim.job]
        since = machine.notice or float("inf")
        ids = {entry.body["notice"]["id"] for entry in entries(evidence, "NoticeReceived") if _concerns(entry.body, reclaim, since)}
        if not ids:
            yield f"{_name(reclaim)}: the journal has no notice for {reclaim.node}"
        elif not ids & {seen["id"] for seen in events(run, reclaim.attempt, "notice_seen")}:
            yield f"{_name(reclaim)}: the job did not see the notice"


def free_was_free(evidence: Evidence) -> Iterator[str]:
    """No save was under way when the notice came."""
    for reclaim in _of(evidence, "free"):
        notice = _machine(evidence, reclaim).notice
        for began, ended in saves(evidence.jobs[reclaim.job], reclaim.attempt):
            if notice is None or (began["why"] != "notice" and began["t"] <= notice <= (ended or notice)):
                yield f"{reclaim.job} was saving step {began['step']} when the notice came"


def save_was_hit(evidence: Evidence) -> Iterator[str]:
    """The notice came after a periodic save had begun and before it had ended, and that save was completed."""
    for reclaim in _of(evidence, "saving"):
        notice = _machine(evidence, reclaim).notice or 0.0
        spans = [(began["t"], ended) for began, ended in saves(evidence.jobs[reclaim.job], reclaim.attempt) if began["why"] == "due"]
        if not any(ended is not None and began < notice < ended for began, ended in spans):
            near = min((abs(notice - began) for began, _ in spans), default=None)
            yield f"{reclaim.job} was not saving" + (f"; the nearest save began {near:.2f} s away" if near is not None else "")


def survivor_reused(evidence: Evidence) -> Iterator[str]:
    """The next attempt ran on the same machine for the node that stayed, and on another for the one that was lost."""
    for reclaim in _of(evidence, "one_of_two"):
        run = evidence.jobs[reclaim.job]
        before, after = (_machines_of(evidence, reclaim.job, attempt) for attempt in (reclaim.attempt, reclaim.attempt + 1))
        survivors = set(before) - {reclaim.instance_id}
        if len(before) != run.nodes or len(after) != run.nodes:
            yield f"{reclaim.job} ran on {len(before)} and then on {len(after)} machines, not on {run.nodes}"
        elif not survivors <= set(after):
            yield f"{reclaim.job} left {', '.join(sorted(survivors - set(after)))}, which had not been reclaimed"
        elif reclaim.instance_id in after:
            yield f"{reclaim.job} is on {reclaim.instance_id} still"


def unnoticed(evidence: Evidence) -> Iterator[str]:
    """Neither the cloud nor the journal nor the job has a notice for that machine."""
    for reclaim in _of(evidence, "unnoticed"):
        machine, run = _machine(evidence, reclaim), evidence.jobs[reclaim.job]
        if machine.notice is not None:
            yield f"the cloud gave notice to {reclaim.instance_id}"
        if any(_concerns(entry.body, reclaim, machine.bound or 0.0) for entry in entries(evidence, "NoticeReceived")):
            yield f"the journal has a notice for {reclaim.node}"
        if events(run, reclaim.attempt, "notice_seen"):
            yield f"{reclaim.job}'s attempt {reclaim.attempt} saw a notice"


def _concerns(body: dict[str, object], reclaim: Reclaim, since: float) -> bool:
    at = body["at"]
    return body["node"] == reclaim.node and isinstance(at, float) and since <= at <= since + 3600


def _of(evidence: Evidence, kind: ReclaimKind) -> list[Reclaim]:
    return [reclaim for reclaim in evidence.reclaims if reclaim.kind == kind]


def _machine(evidence: Evidence, reclaim: Reclaim) -> Machine:
    found = machines(evidence).get(reclaim.instance_id)
    if found is None:
        raise LookupError(f"the cloud's record has no instance {reclaim.instance_id}")
    return found


def _machines_of(evidence: Evidence, job: str, attempt: int) -> list[str]:
    run = evidence.jobs[job]
    begins = next((start.t for start in run.starts if start.attempt == attempt), None)
    if begins is None:
        raise LookupError(f"there is no record of a start of {job}'s attempt {attempt}")
    held = [holder(evidence, node, begins) for node in nodes_of(evidence, run.job_id, attempt)]
    return [machine.instance_id for machine in held if machine is not None]


def _name(reclaim: Reclaim) -> str:
    return f"{reclaim.job}, {TITLES[reclaim.kind]}"
