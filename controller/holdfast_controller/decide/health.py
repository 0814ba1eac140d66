"""A sick machine is a preemption that we choose.

`drain`: no new job, and the machine goes when its last one has ended. `evacuate` and `replace`: it is condemned, by a notice of ours, and
all else is as with a cloud's. A machine that is sick before its node is up never takes a job. Dry runs do nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator

from holdfast_common.evacuation import REASON_PREFIX
from holdfast_common.health.model import Action, Finding, worst
from holdfast_common.notice import Notice, NoticeKind

from holdfast_controller.commands import Command, CondemnNode, DrainNode, PardonNode, PowerDownNode, TerminateInstance
from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plan, Plans
from holdfast_controller.records import InstanceRecord, Node
from holdfast_controller.state import STRUCK_S

MOST_TEXT = 160
BRAKE_FROM = 3
"""So many machines may be given up for one rule within an hour, however few there are."""


def decide(fleet: Fleet, plans: Plans, now: float) -> Iterator[Command]:
    """Yield what is due for machines that rules hold for, and for those that are well again."""
    brake = Brake(fleet, plans, now)
    for name, plan in plans.by_node.items():
        node = fleet.nodes.get(name)
        if node is None or not (node.findings or node.notices):
            continue
        yield from _pardon(node, plan)
        gravest, record = _free(brake, node, plan), fleet.instance_of(node)
        if gravest is None or gravest.action is Action.NOTE or record is None or not record.alive:
            continue
        brake.note(node, gravest)
        if node.view is None or not node.view.up:
            yield from _never_up(fleet, node, record, gravest)
        elif gravest.action is Action.DRAIN:
            yield from _drain(fleet, node, gravest, plan, now)
        else:
            yield from _condemn(fleet, node, gravest, plan, now)


class Brake:
    """Holds back what is found on too many whole nodes: a wrong rule or policy, the controller's clock, a new driver.

    What is found on a GPU is that GPU's, and never held back.
    """

    def __init__(self, fleet: Fleet, plans: Plans, now: float) -> None:
        self._fleet, self._plans, self._now = fleet, plans, now
        self._machines: Counter[str] | None = None
        self._now_too: dict[str, set[str]] = defaultdict(set)
        """Rule → the machines on which it is acted in this round."""

    def note(self, node: Node, finding: Finding) -> None:
        """The finding is acted on."""
        self._now_too[finding.rule].add(node.instance_id)

    def holds(self, node: Node, finding: Finding) -> bool:
        """Whether the finding is not acted on; a machine that leaves already goes on leaving."""
        plan, view = self._plans.by_node[node.name], node.view
        leaves = node.doom is not None or (view is not None and "DRAIN" in view.flags)
        if finding.gpu or leaves or plan.health.brake_share >= 1:
            return False
        struck = (key.split() for key, at in self._fleet.struck.items() if self._now - at <= STRUCK_S)
        lately = {instance_id for rule, instance_id in struck if rule == finding.rule}  # no names: a few may have one machine after another
        lately |= self._now_too[finding.rule]
        if len(lately) < BRAKE_FROM or node.instance_id in lately:
            return False
        return len(lately) >= plan.health.brake_share * self._count(plan.partition)

    def _count(self, partition: str) -> int:
        if self._machines is None:
            held = (plan.partition for name, plan in self._plans.by_node.items() if self._fleet.holder(name))
            self._machines = Counter(held)
        return self._machines[partition]


def is_drained(node: Node, plans: Plans) -> bool:
    """Whether a rule that holds keeps the node drained: the drain is not undone meanwhile, nor while slurmd does not answer."""
    plan = plans.by_node.get(node.name)
    gravest = _gravest(node, plan) if plan is not None else None
    return gravest is not None and gravest.action is not Action.NOTE and node.view is not None and not node.view.powered_down


def sentence(finding: Finding) -> str:
    """Say in a few words what was found and where: for Slurm's reasons, which users see."""
    where = f" on {finding.gpu}" if finding.gpu else ""
    text = "".join(char for char in f"{finding.rule}{where}: {finding.text}" if char.isprintable())
    return text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 1]}…"


def _free(brake: Brake, node: Node, plan: Plan) -> Finding | None:
    """Return the gravest finding that may be acted on."""
    if not plan.health.act:
        return None
    return worst(tuple(each for each in node.findings if not brake.holds(node, each)))


def _gravest(node: Node, plan: Plan) -> Finding | None:
    return worst(node.findings) if plan.health.act else None


def _never_up(fleet: Fleet, node: Node, record: InstanceRecord, finding: Finding) -> Iterator[Command]:
    """A machine that fails before Slurm has it is terminated: another is bought for the name, as for one that stays silent."""
    steps = fleet.steps.get(record.instance.instance_id)
    if steps is not None and steps.jobs:
        return  # it has had jobs: a slurmctld that was killed takes it for booting, while one that it forgot to have started runs on
    booting = node.view is not None and node.view.flags & {"POWERING_UP", "POWER_UP"}  # and by whom it is waited for may be forgotten
    if node.wanted_since is not None or booting:
        iid = record.instance.instance_id
        why = f"instance {iid} ({node.name}) is sick before it took a job: {sentence(finding)}"
        yield TerminateInstance(f"terminate:{iid}", why, iid, record.instance.pool, node.name)


def _drain(fleet: Fleet, node: Node, finding: Finding, plan: Plan, now: float) -> Iterator[Command]:
    assert node.view is not None
    if node.doom is not None:
        return
    if "DRAIN" not in node.view.flags:
        why = f"health: {sentence(finding)}"
        yield DrainNode(f"drain:{node.name}:{node.instance_id}:health:{finding.key}", why, node.name, finding.rule)
        return
    ours = node.view.reason.startswith(REASON_PREFIX)
    empty = node.name not in fleet.held and node.name not in fleet.seen and "COMPLETING" not in node.view.flags
    if ours and empty and now >= max(finding.since, node.changed_at) + plan.health.keep_sick_s:
        why = f"{node.name} is empty, and sick: {sentence(finding)}"
        yield PowerDownNode(f"power_down:{node.name}:{node.instance_id}:health", why, node.name, node.instance_id, if_empty=True)


def _condemn(fleet: Fleet, node: Node, finding: Finding, plan: Plan, now: float) -> Iterator[CondemnNode]:
    """Once for each time that the machine is found sick: a second finding makes no second notice; only, `replace` keeps no machine."""
    if fleet.given_up(node.instance_id):
        return  # no notice counts any more
    known = next((doom for doom in node.notices.values() if doom.notice.kind is NoticeKind.HEALTH), None)
    why = f"{node.name} is condemned ({finding.action}): {sentence(finding)}"
    key = f"condemn:{node.name}:{node.instance_id}"
    if known is None:
        keep_s = plan.health.keep_sick_s if finding.action is Action.EVACUATE else 0.0
        # The same for whoever has lost his journal: jobs may have parked for it. What comes again after a pardon is another.
        since = min(each.since for each in node.findings if each.action.rank >= Action.EVACUATE.rank and not each.dry_run)
        name = f"health-{node.instance_id}-{since:.0f}"
        notice = Notice(name, NoticeKind.HEALTH, now + plan.health.evacuate_s, now, sentence(finding))
        yield CondemnNode(key, why, node.name, node.instance_id, notice, now + keep_s if keep_s else 0.0, finding.rule)
    elif finding.action is Action.REPLACE and now < known.keep_until:
        yield CondemnNode(f"{key}:replace", why, node.name, node.instance_id, known.notice, 0.0, finding.rule)


def _pardon(node: Node, plan: Plan) -> Iterator[Command]:
    """What no rule asks for any more (an admin resolved it, or the rules have changed) is taken back, while the machine is still up."""
    gravest = _gravest(node, plan)
    if gravest is not None and gravest.action.rank >= Action.EVACUATE.rank:
        return
    if node.view is None or not node.view.up or node.power_down_at is not None or not node.health_heard:
        return
    for doom in node.notices.values():
        if doom.notice.kind is NoticeKind.HEALTH and doom.source == "health" and not doom.dead:
            why = f"{node.name} is well again: {doom.notice.reason}"
            yield PardonNode(f"pardon:{node.name}:{doom.notice.id}:{doom.notice.received:.0f}", why, node.name, doom.notice.id)
