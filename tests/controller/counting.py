"""A fleet whose every event is counted, as the reactor shows it to the controller's metrics."""

from typing import Any

from holdfast_common.exposition import text
from holdfast_controller import events as e
from holdfast_controller.commands import RequeueJob
from holdfast_controller.metrics.collector import families
from holdfast_controller.metrics.counts import Counts
from holdfast_controller.metrics.goodput import Goodput
from holdfast_controller.metrics.ledger import Ledger
from holdfast_controller.metrics.tally import Tally
from holdfast_controller.plan import Shape


class Counted:
    """A world whose every event is shown to a tally, as the reactor shows it."""

    def __init__(self, world: Any) -> None:
        self.world, self.counts, self.progress = world, Counts(), {}
        world.plan(shape=Shape(gpus=8))
        self.goodput = Goodput(self.counts, self.progress.get)
        self.ledger = Ledger(self.counts)
        self.tally = Tally(self.counts, self.goodput)
        plain = world.apply

        def apply(*events: e.Event) -> None:
            for event in events:
                plain(event)
                self.tally.take(event, world.fleet)

        world.apply = apply

    def value(self, name: str, *labels: str) -> float:
        return self.counts.value(name, *labels)

    def seen(self, name: str, *labels: str) -> tuple[int, float]:
        found = self.counts.observed(name, *labels)
        return (0, 0.0) if found is None else (found.total, round(found.sum_s, 3))

    def accrue(self) -> None:
        self.goodput.accrue(self.world.fleet, self.world.plans, self.world.now)
        self.ledger.accrue(self.world.fleet, self.world.plans, self.world.now)

    def text(self) -> str:
        world = self.world
        return text(families(world.fleet, world.plans, self.counts, self.tally, deciding=True, now=world.now)).decode()

    def requeue(self, job_id: int, after_s: float = 0.0) -> None:
        """Carry out the requeue that is due, as Slurm shows it then."""
        self.world.later(after_s)
        due = [*self.world.due(), *self.world.due()]  # the drain comes first
        (command,) = [each for each in due if isinstance(each, RequeueJob)]
        self.world.apply(e.JobRequeued(self.world.now, job_id, command.attempt))
        self.world.finish(command)
        self.world.job(job_id, "PENDING", restarts=command.attempt + 1)

    def again(self, job_id: int, *nodes: str, after_s: float = 5.0) -> None:
        self.world.later(after_s)
        self.world.job(job_id, "RUNNING", *nodes, restarts=1)
