"""Jobs that stay COMPLETING on a node that is switched off: nobody is left there to say that they have ended.

Measured on 22.05, 24.11 and 26.05: POWER_DOWN_FORCE of a node whose machine is dead requeues the job that Slurm believes to run there,
and the job stays COMPLETING for ever; a second one is ignored while the node is POWERING_DOWN. DOWN frees the job. It happens where a job
was given the node after its machine had died and before we knew.
"""

from collections.abc import Iterator

from holdfast_common.evacuation import STUCK_COMPLETING_S

from holdfast_controller.commands import Command, SetNodeDown
from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plans
from holdfast_controller.records import Node


def decide(fleet: Fleet, plans: Plans, now: float) -> Iterator[Command]:
    """Yield DOWN for each such node; it is revived once the job is free."""
    for job in fleet.jobs.values():
        if not job.view.completing:
            continue
        for name in job.view.nodes:
            node = fleet.nodes.get(name)
            if node is not None and name in plans.by_node and _switched_off(node, now):
                why = f"job {job.view.key} stays COMPLETING on {name}, which is switched off"
                # The key of the evacuation's own step: it is the same deed.
                yield SetNodeDown(f"down:{name}:{node.instance_id or (node.doom.notice.id if node.doom else '')}", why, name)


def _switched_off(node: Node, now: float) -> bool:
    view = node.view
    if view is None or "COMPLETING" not in view.flags or view.state == "DOWN":
        return False
    leaving = "POWERING_DOWN" in view.flags and node.power_down_at is not None and now >= node.power_down_at + STUCK_COMPLETING_S
    return view.powered_down or leaving
