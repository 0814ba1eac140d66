"""Training frameworks as they are, on the spot partition: their nodes are taken back, and they end as if nothing had happened."""

import pytest
from e2e_bed import Bed
from framework_jobs import TORCHRUN, Plan, arguments, reclaimed, submit, submit_by_submitit, undisturbed
from kinds_jobs import side_by_side

pytestmark = [pytest.mark.slurm, pytest.mark.torch, pytest.mark.timeout(180)]
SETTINGS = {"nodes": 10}


def test_frameworks_with_a_signal_of_their_own(bed: Bed) -> None:
    """All do the step in hand again; Lightning also what it does before it notices that it is being killed.

    Lightning and submitit requeue themselves. The Trainer of Hugging Face saves three seconds after the signal; its script ends with the
    code that the job has declared.
    """
    lightning, own, trainer = Plan(twice=2), Plan(twice=1), Plan(steps=90, twice=1)
    side_by_side(
        reclaimed(bed, submit(bed, "lightning", *arguments(lightning)), undisturbed(bed, "lightning"), lightning),
        reclaimed(bed, submit_by_submitit(bed, *arguments(own)), undisturbed(bed, "submitit"), own),
        reclaimed(bed, submit(bed, "transformers", *arguments(trainer)), undisturbed(bed, "transformers", plan=trainer), trainer),
    )


@pytest.mark.long
def test_five_lines_under_torchrun_and_a_script_without_any(bed: Bed) -> None:
    """Two ranks do no step twice. A script that saves each 25th step goes on until it is requeued: that is done again."""
    plan, wrapped = Plan(), Plan(steps=80, twice=30)
    side_by_side(
        reclaimed(bed, submit(bed, "torchrun", *arguments(plan)), undisturbed(bed, "torchrun", TORCHRUN), plan),
        reclaimed(bed, submit(bed, "torch_save", *arguments(wrapped)), undisturbed(bed, "torch_save", plan=wrapped), wrapped),
    )


@pytest.mark.long
def test_torchrun_on_two_nodes_and_accelerate_on_one(bed: Bed) -> None:
    """They train the same model on the same data as torchrun on one node."""
    plan = Plan()
    reference = undisturbed(bed, "torchrun", TORCHRUN)
    apart = submit(bed, "torchrun", *arguments(plan), options=("--nodes=2",), env={"RANKS_PER_NODE": "1"})
    accelerated = submit(bed, "accelerate", *arguments(plan))
    side_by_side(*(reclaimed(bed, job, reference, plan) for job in (apart, accelerated)))


@pytest.mark.long
def test_callbacks(bed: Bed) -> None:
    """With them no step is done twice; Lightning trains on two ranks here."""
    plan = Plan()
    jobs = {example: submit(bed, example, *arguments(plan), script="train_callback.sh") for example in ("lightning", "transformers")}
    references = {example: undisturbed(bed, example, script="train_callback.py") for example in jobs}
    side_by_side(*(reclaimed(bed, job, references[example], plan) for example, job in jobs.items()))


@pytest.mark.long
def test_frameworks_under_holdfast_run(bed: Bed) -> None:
    """The wrapper sends the signal for which the framework waits; nothing is declared."""
    plan = Plan(steps=90, twice=2)
    jobs = {example: submit(bed, example, *arguments(plan), script="train_run.sh") for example in ("lightning", "transformers")}
    references = {example: undisturbed(bed, example, plan=plan) for example in jobs}
    side_by_side(*(reclaimed(bed, job, references[example], plan) for example, job in jobs.items()))
