"""What is to be done: pure. No clock, no network, no process; time is an argument.

Each policy looks at the whole fleet and names what is due now (level-triggered); the fleet's record of commands keeps a deed
from being done twice. So it does not matter which event woke them, in which order two events came, or that the controller died
in between.
"""

from collections.abc import Callable, Iterator

from holdfast_controller.commands import Command
from holdfast_controller.decide import (
    announcement,
    binding,
    completion,
    evacuation,
    health,
    launching,
    reclaim,
    registration,
    reservation,
    resume,
    revival,
)
from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plans

POLICIES: tuple[Callable[[Fleet, Plans, float], Iterator[Command]], ...] = (
    health.decide,  # a sick machine is a preemption that we choose
    evacuation.decide,  # jobs leave doomed nodes: first, since every second of it is paid by somebody
    binding.decide,  # an instance that asks gets its name
    registration.decide,  # launched but silent: wait, replace, give up
    resume.decide,  # nodes that Slurm waits for are bought
    launching.decide,  # jobs that Slurm takes for running and that never ran are run again
    completion.decide,  # jobs whose last node is switched off are let go of it
    revival.decide,  # names that Slurm holds DOWN for want of a machine become usable again
    reservation.decide,  # nodes that were kept for a job are let go once it has them
    reclaim.decide,  # what nobody needs any more is terminated
    announcement.decide,  # each start is written where people, and slurmctld's own state, find it
)


def decide(fleet: Fleet, plans: Plans, now: float) -> tuple[Command, ...]:
    """Return the commands that are due at `now` (Unix seconds), none of them under way or done already."""
    due: list[Command] = []
    keys: set[str] = set()
    for policy in POLICIES:
        for command in policy(fleet, plans, now):
            if command.key not in keys and fleet.may_issue(command.key, now):
                keys.add(command.key)
                due.append(command)
    return tuple(due)
