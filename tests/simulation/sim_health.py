"""Machines that are sick: what their agents find and say, and jobs that crash on them."""

from typing import TYPE_CHECKING

from holdfast_common.health.model import Action
from holdfast_protos.v1 import agent_pb2 as pb

if TYPE_CHECKING:
    from sim_machines import SimMachine
    from sim_training import Attempt, SimJob
    from sim_world import World

PROMPT_S = 3.0
"""After its agent has said so, no job begins on a sick machine."""
CALM_S = 15.0


class Health:
    """What the agent of one machine finds, in one boot."""

    def __init__(self, machine: "SimMachine") -> None:
        self._machine = machine
        self._findings: dict[str, pb.HealthFinding] = {}
        self._ever = False
        self.was_condemned = False
        """Jobs had to leave it, at some time."""

    def find(self, action: str, rule: str = "xid", gpu: str = "GPU-0", *, dry_run: bool = False) -> None:
        """A rule holds from now on."""
        now = self._machine.world.clock.now()
        text = "GPU 0 has fallen off the bus"
        self._findings[rule] = pb.HealthFinding(rule=rule, gpu=gpu, action=action, since=now, text=text, strikes=1, dry_run=dry_run)
        self._ever = True
        self.was_condemned = self.was_condemned or self.condemned_since is not None
        self.say()

    def resolve(self) -> None:
        """An admin had it forgotten, and nothing has come back."""
        self._findings.clear()
        self.say()

    def say(self) -> None:
        """Say all of it; to nobody, before the machine has a name."""
        if self._ever and self._machine.name:
            self._machine.agent.put("health", health=pb.Health(ready=True, findings=list(self._findings.values())))

    def end(self) -> None:
        """The agent speaks no more. If it could not say why a job failed here, to everybody else that failed by itself."""
        world = self._machine.world
        for job in world.training.jobs.values():
            fake = world.slurm.engine.queue.get(job.key)
            here = bool(job.attempts) and self._machine in job.attempts[-1].machines
            if job.crashed_at is None or not here or (fake is not None and fake.state != "FAILED"):
                continue
            if not self.said or world.journal_lost_at >= job.crashed_at:
                job.over = job.unsure = True  # unless the word was on its way

    @property
    def condemned_since(self) -> float | None:
        """Since when jobs must leave the machine."""
        return self._since(Action.EVACUATE)

    @property
    def fit(self) -> bool:
        """Whether it may take jobs."""
        return self._since(Action.DRAIN) is None

    @property
    def said(self) -> bool:
        """Whether the controller has what was said last."""
        return not self._machine.agent.owes("health")

    def _since(self, least: Action) -> float | None:
        grave = [each.since for each in self._findings.values() if not each.dry_run and Action(each.action).rank >= least.rank]
        return min(grave, default=None)


def crash(world: "World", job: "SimJob") -> None:
    """Its program fails, as at a CUDA error."""
    if job.running is not None and not world.slurm.engine.away:
        job.crashed_at = world.clock.now()
        job.over = job.over or job.how.lost_with_node
        world.slurm_call(lambda: world.slurm.finish(job.key, 1))


def begins(world: "World", job: "SimJob", attempt: "Attempt") -> None:
    """Note a job that begins on a machine which is known to be sick, and that could have been requeued while it waited for others."""
    now = world.clock.now()
    if job.how.lost_with_node:
        return
    for machine in attempt.machines:
        since = machine.health.condemned_since
        if since is None or world.controller is None or not machine.health.said:
            continue
        if now > since + PROMPT_S and world.calm_since < now - CALM_S:
            world.wrong(f"job {job.key} begins on {machine.registered}, which has been sick for {now - since:.1f} s")
