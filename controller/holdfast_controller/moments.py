"""What a step of the wall clock means for what is remembered: pure.

The controller decides by how long ago something was. When the clock of its host is set (`clock_steps`), every moment that it noted by that
clock moves along, so that all remains as long ago as it was: nothing is given up early because of a step forward, and no try waits for ten
minutes more because of one back. The times that others said (deadlines of clouds' notices, Slurm's own times) stay: they are the moments
they name. Deadlines of the controller's own notices move: how long jobs may take to save is what was meant.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from holdfast_controller.state import State

_MOMENTS = {
    "Node": ("viewed_at", "changed_at", "wanted_since", "bound_at", "power_down_at", "doubtful_until", "health_heard"),
    "Doom": ("keep_until",),
    "InstanceRecord": ("first_seen", "gone_at", "ending_since"),
    "StepsSeen": ("since", "at"),
    "LaunchRecord": ("at",),
    "Evacuation": ("began", "requeued_at"),
    "JobRecord": ("changed_at", "not_before", "waits_since"),
    "PoolMemory": ("refused_at", "blocked_until", "observed_at", "sick_at"),
    "QuotaMemory": ("at", "until"),
    "CommandRecord": ("done_at", "retry_at"),
    "Fleet": ("looked_at", "steady_since", "forgot_at"),
}
"""Record → its moments by the controller's clock; 0 and None stand for never."""


_OWN = frozenset({"health", "admin"})
"""Whose notices have their deadlines by the controller's clock."""


def shift(fleet: State, by_s: float) -> None:
    """Move every moment that was noted by the controller's clock."""
    _move([fleet], by_s)
    _move(fleet.nodes.values(), by_s)
    _shift_dooms(fleet, by_s)
    _move(fleet.instances.values(), by_s)
    for record in fleet.instances.values():
        if record.agent is not None:
            record.agent = replace(record.agent, at=record.agent.at + by_s)
    _move(fleet.steps.values(), by_s)
    for seen in fleet.steps.values():
        seen.jobs = {job_id: at + by_s for job_id, at in seen.jobs.items()}
    fleet.struck = {key: at + by_s for key, at in fleet.struck.items()}
    fleet.put_off = {job_id: replace(command, until=command.until + by_s) for job_id, command in fleet.put_off.items()}
    _move(fleet.launches.values(), by_s)
    _move(fleet.jobs.values(), by_s)
    _move((job.evacuation for job in fleet.jobs.values() if job.evacuation is not None), by_s)
    _move(fleet.pools.values(), by_s)
    _move(fleet.quotas.values(), by_s)
    _move(fleet.commands.values(), by_s)
    for command in fleet.commands.values():
        command.issued = replace(command.issued, at=command.issued.at + by_s)


def _shift_dooms(fleet: State, by_s: float) -> None:
    every = (doom for node in fleet.nodes.values() for doom in (*node.notices.values(), node.doom) if doom is not None)
    dooms = {id(doom): doom for doom in every}.values()  # the one that counts is among a node's notices, too
    _move(dooms, by_s)
    for doom in dooms:
        if doom.source in _OWN:
            notice = doom.notice
            doom.notice = replace(notice, deadline=notice.deadline + by_s, received=notice.received + by_s)
    for job in fleet.jobs.values():
        for name in job.evacuation.doomed if job.evacuation is not None else ():
            counts = fleet.nodes[name].doom if name in fleet.nodes else None
            if job.evacuation is not None and counts is not None and counts.source in _OWN:
                job.evacuation.doomed[name] = counts.notice.deadline


def _move(records: Iterable[Any], by_s: float) -> None:
    for record in records:
        for name in _MOMENTS[type(record).__name__]:
            if moment := getattr(record, name):
                setattr(record, name, moment + by_s)
