"""Names that Slurm itself holds DOWN for want of a machine become usable again: after SlurmdTimeout, ResumeTimeout, or a DOWN of ours.

An evacuation ends with a power-down, which clears DOWN. This is for losses of which nobody told us: the journal was lost, the controller
away for longer than Slurm's own time-outs, or a machine hangs that the cloud takes for healthy.
"""

from collections.abc import Iterator

from holdfast_common.evacuation import lost_its_machine

from holdfast_controller.commands import Command, ReviveNode
from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plans


def decide(fleet: Fleet, plans: Plans, now: float) -> Iterator[Command]:
    """Yield the revival of each DOWN node that no living instance holds, or one that has not come back within the grace of an orphan."""
    if fleet.fresh and not fleet.cloud_listed:
        return
    for node in fleet.nodes.values():
        view, record, plan = node.view, fleet.instance_of(node), plans.by_node.get(node.name)
        if view is None or plan is None or node.doom is not None or not lost_its_machine(view):
            continue
        if record is None or not record.alive:
            yield ReviveNode(f"revive:{node.name}", f"{node.name} is DOWN ({view.reason}) and no instance holds it", node.name)
        elif fleet.looked_at >= max(node.changed_at, fleet.steady_since) + plan.orphan_grace_s:
            why = f"{node.name} has been DOWN ({view.reason}) for {plan.orphan_grace_s:.0f} s, and its instance is paid for nothing"
            yield ReviveNode(f"revive:{node.name}", why, node.name)
