"""The fleet in people's words: phases, and one sentence on why a node or a job is as it is. Pure."""

from holdfast_common.evacuation import REASON_PREFIX, requeue_at
from holdfast_common.health.model import Action, worst

from holdfast_controller.decide.evacuation import case_of
from holdfast_controller.decide.health import Brake, sentence
from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plans
from holdfast_controller.records import Doom, JobRecord, Node


def node_phase(fleet: Fleet, node: Node) -> str:
    """Return Holdfast's own word for where the node is in its life."""
    view, record = node.view, fleet.instance_of(node)
    if node.doom is not None:
        return "leaving" if node.power_down_at is not None else "doomed"
    if node.wanted_since is not None:
        return "booting" if record is not None or _launched(fleet, node) else "launching"
    if view is None:
        return "unknown"
    if view.flags & {"POWERING_DOWN", "POWER_DOWN"} or node.power_down_at is not None:
        return "leaving"
    if view.powered_down:
        return "off"
    return "up" if view.up else "down"


def _launched(fleet: Fleet, node: Node) -> bool:
    return any(launch.ended and not launch.void and node.name in launch.nodes for launch in fleet.launches.values())


def node_sentence(fleet: Fleet, plans: Plans, node: Node, now: float) -> str:
    """Say in a sentence how the node is, and what it waits for."""
    phase, record = node_phase(fleet, node), fleet.instance_of(node)
    who = f"{node.name} ({record.instance.instance_id} in {record.instance.pool})" if record is not None else node.name
    if node.doom is not None:
        jobs = [job.view.key for job in fleet.jobs_on(node.name)]
        when = _leaves_when(node.doom, now, empty=not jobs)
        rest = f"; still on it: job {', '.join(jobs)}" if jobs else "; no job is left on it"
        return f"{who} {when} ({node.doom.notice.kind}: {node.doom.notice.reason or node.doom.source}){rest}."
    if phase in {"launching", "booting"} and node.wanted_since is not None:
        what = "is being bought" if phase == "launching" else "boots"
        purpose = f"for job {node.wanted_by}" if node.wanted_by else "without a job"
        return f"{who} {what} {purpose}, since {now - node.wanted_since:.0f} s."
    if phase == "unknown":
        return f"{who} has not been listed by Slurm yet, which does not mean that it is gone."
    if node.view is not None and node.view.up and "INVALID_REG" in node.view.flags:  # fewer GPUs or CPUs, or less memory (measured: 22.05)
        return f"{who} is refused by Slurm, since it registered with less than slurm.conf says: {node.view.reason}."
    if phase == "up" and record is None:
        return f"{who} is up in Slurm, but no instance of ours is known to hold it."
    if phase == "up" and record is not None and not record.connected:
        return f"{who} is up; its agent is silent, so the cloud's list has to tell of its end{_sick(fleet, plans, node, now)}."
    sick = _sick(fleet, plans, node, now)
    told = bool(sick) and node.view is not None and node.view.reason.startswith(f"{REASON_PREFIX} health:")  # our own drain's reason
    reason = f": {node.view.reason}" if node.view is not None and node.view.reason and not told else ""
    return f"{who} is {phase}{reason}{sick}."


def _leaves_when(doom: Doom, now: float, *, empty: bool) -> str:
    if doom.dead:
        return "is gone"
    if empty and doom.keep_until > now:
        return f"is kept for {doom.keep_until - now:.0f} s more, to be looked at"
    left_s = doom.notice.deadline - now
    return f"goes away in {left_s:.0f} s" if left_s > 0 else "is past its deadline"


def _sick(fleet: Fleet, plans: Plans, node: Node, now: float) -> str:
    """Say which rule holds on a node that no notice is known for, and what follows."""
    gravest, plan = worst(node.findings), plans.by_node.get(node.name)
    if gravest is None:
        return ""
    if gravest.action is Action.NOTE:
        follows = "it is only noted"
    elif plan is None or not plan.health.act:
        follows = "the policy has nothing done (health.act = false)"
    elif Brake(fleet, plans, now).holds(node, gravest):
        follows = "it is held back, since machines were given up for this rule already within the hour (health.brake_share)"
    elif gravest.action is Action.DRAIN:
        follows = "it takes no new job, and goes when the last one has ended"
    else:
        follows = f"it is given up ({gravest.action})"
    return f"; the health rule {sentence(gravest)}; {follows}"


def job_phase(job: JobRecord) -> str:
    """Return Holdfast's own word for where the job is."""
    view, evacuation = job.view, job.evacuation
    if evacuation is not None and view.restarts == evacuation.attempt and view.active:
        states = {report.state for report in job.reports.values() if report.attempt == evacuation.attempt}
        return "parked" if states == {"parked"} else "saving" if states & {"saving", "saved", "parked"} else "told"
    if view.completing and view.state == "PENDING":
        return "requeueing"
    if job.not_before is not None and view.state == "PENDING":
        return "waiting"
    return {"RUNNING": "running", "CONFIGURING": "starting", "PENDING": "queued"}.get(view.state, view.state.lower())


def job_sentence(fleet: Fleet, plans: Plans, job: JobRecord, now: float) -> str:
    """Say in a sentence how the job is, and what it waits for."""
    view, phase, evacuation = job.view, job_phase(job), job.evacuation
    who = f"job {view.key}"
    if evacuation is not None and phase in {"told", "saving", "parked"}:
        case = case_of(job, evacuation, fleet)
        plan = next((plans.by_node[name] for name in evacuation.doomed if name in plans.by_node), None)
        last = f"; requeued at the latest in {max(0.0, requeue_at(case, plan.limits) - now):.0f} s" if plan is not None else ""
        return f"{who} leaves {', '.join(sorted(evacuation.doomed))}: {phase}{last}."
    if phase == "waiting" and job.not_before is not None:
        return f"{who} waits: {job.waits_for}; it is tried again in {max(0.0, job.not_before - now):.0f} s."
    if phase == "starting":
        missing = [name for name in view.nodes if name in fleet.nodes and not _up(fleet.nodes[name])]
        return f"{who} waits for {', '.join(missing) or 'its nodes'} to register."
    if phase == "requeueing":
        return f"{who} was requeued and still completes on {', '.join(view.nodes)}."
    told = f" (directives: {job.fault})" if job.fault else ""
    times = f", interrupted {job.interruptions} time(s)" if job.interruptions else ""
    where = f" on {', '.join(view.nodes)}" if view.nodes else f" ({view.reason})" if view.reason else ""
    return f"{who} is {view.state}{where}{times}{told}."


def _up(node: Node) -> bool:
    return node.view is not None and node.view.up
