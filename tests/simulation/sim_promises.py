"""The promises about a job that leaves a node: no step is lost that could be saved, it goes the moment it can, and it lives once."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim_training import Attempt, SimJob
    from sim_world import World

CALM_S = 15.0
"""Nothing is promised so soon after something else went wrong."""
OVERHEAD_S = 10.0
"""Notice read, margin and KillWait: a save fits a window that is longer than itself by this."""
PROMPT_S = 2.0
"""From the last rank's word to the requeue."""


def steps_lost(world: "World", job: "SimJob", attempt: "Attempt") -> None:
    """Note steps that are lost although a save fitted the window of the notice."""
    asked = job.registers or job.how.leaves
    if not asked or job.how.lost_with_node or not attempt.well or world.controller is None:
        return
    windows = [notice for machine in attempt.machines for notice in machine.own.values() if notice.evacuates(world.clock.now())]
    if not windows:
        return
    began = min(notice.received for notice in windows)
    fits = min(notice.deadline for notice in windows) - began >= job.save_s + OVERHEAD_S
    if not fits or max(world.calm_since, attempt.began) >= began - CALM_S:
        return
    world.judged["steps lost"] += 1
    lost = attempt.step - job.saved
    if lost > 0:
        world.wrong(
            f"job {job.key} loses {lost:.1f} steps of attempt {attempt.number}, although a save of {job.save_s} s fitted the window"
        )


def requeued_in_time(world: "World", job: "SimJob", attempt: "Attempt") -> None:
    """Note a job that had parked and was left waiting."""
    parked = attempt.parked_at
    if parked is None or attempt.state != "parked" or job.how.lost_with_node or world.controller is None or not attempt.well:
        return
    if max(world.calm_since, attempt.began) >= parked - CALM_S:
        return
    world.judged["requeued in time"] += 1
    waited_s = world.clock.now() - parked
    if waited_s > PROMPT_S:
        world.wrong(f"job {job.key} had parked {waited_s:.1f} s before it was requeued")


def two_live_attempts(world: "World", job: "SimJob") -> None:
    """Note an attempt that begins while processes of the one before still run, where no node of theirs is past its deadline."""
    now = world.clock.now()
    for old in job.attempts:
        here = [machine for machine in old.machines if machine.well and old.lives_on(machine)]
        late = any(notice.deadline <= now for machine in old.machines for notice in machine.own.values())
        if old.ended is not None and now < old.lingers_until and here and not late:
            world.wrong(f"job {job.key} begins again while processes of attempt {old.number} run on {here[0].name}")
