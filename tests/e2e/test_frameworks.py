"""Training frameworks as they are, on the spot partition: their nodes are taken back, and they end as if nothing had happened."""

import pytest
from e2e_bed import Bed
from framework_jobs import TORCHRUN, Plan, arguments, reclaimed, submit, submit_by_submitit, undisturbed
from kinds_jobs import side_by_side

pytestmark = [pytest.mark.slurm, pytest.mark.torch, pytest.mark.timeout(180)]
SETTINGS = {"nodes": 8}


def test_frameworks_that_save_on_a_signal_and_requeue_themselves(bed: Bed) -> None:
    """Lightning and submitit: the step in hand is done again, and what Lightning does before it notices that it is being killed."""
    lightning, own = Plan(twice=2), Plan(twice=1)
    side_by_side(
        reclaimed(bed, submit(bed, "lightning", *arguments(lightning)), undisturbed(bed, "lightning"), lightning),
        reclaimed(bed, submit_by_submitit(bed, *arguments(own)), undisturbed(bed, "submitit"), own),
    )


def test_a_framework_that_saves_on_a_signal_and_ends_with_its_declared_code(bed: Bed) -> None:
    """The Trainer of Hugging Face waits for three seconds before it saves."""
    plan = Plan(steps=90, twice=1)
    side_by_side(reclaimed(bed, submit(bed, "transformers", *arguments(plan)), undisturbed(bed, "transformers", plan=plan), plan))


def test_launchers_with_the_five_lines(bed: Bed) -> None:
    """Two ranks on one node under torchrun, and under `accelerate launch`: no step is done twice."""
    plan = Plan()
    reference = undisturbed(bed, "torchrun", TORCHRUN)  # the two examples train the same model on the same data
    side_by_side(*(reclaimed(bed, submit(bed, example, *arguments(plan)), reference, plan) for example in ("torchrun", "accelerate")))


@pytest.mark.long
def test_torchrun_on_two_nodes(bed: Bed) -> None:
    plan = Plan()
    job = submit(bed, "torchrun", *arguments(plan), options=("--nodes=2",), env={"RANKS_PER_NODE": "1"})
    side_by_side(reclaimed(bed, job, undisturbed(bed, "torchrun", TORCHRUN), plan))


@pytest.mark.long
@pytest.mark.parametrize("example", ["lightning", "transformers"])
def test_the_callback(bed: Bed, example: str) -> None:
    """With it no step is done twice; Lightning trains on two ranks here."""
    plan = Plan()
    job = submit(bed, example, *arguments(plan), script="train_callback.sh")
    side_by_side(reclaimed(bed, job, undisturbed(bed, example, script="train_callback.py"), plan))


def test_a_script_that_only_saves_now_and_then_under_holdfast_run(bed: Bed) -> None:
    """It saves each 25th step, and goes on until it is requeued: what it did since is done again."""
    plan = Plan(steps=80, twice=30)
    side_by_side(reclaimed(bed, submit(bed, "torch_save", *arguments(plan)), undisturbed(bed, "torch_save", plan=plan), plan))


@pytest.mark.long
@pytest.mark.parametrize("example", ["lightning", "transformers"])
def test_frameworks_under_holdfast_run(bed: Bed, example: str) -> None:
    """The wrapper sends the signal for which the framework waits; nothing is declared."""
    plan = Plan(steps=90, twice=2)
    job = submit(bed, example, *arguments(plan), script="train_run.sh")
    side_by_side(reclaimed(bed, job, undisturbed(bed, example, plan=plan), plan))
