"""What the demo runs and when the cloud takes machines back. Sized for two cores: about two minutes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from holdfast_sandbox.demo.evidence import ReclaimKind

NODES = 8
GPUS_PER_NODE = 1
BOOT_DELAY_S = 2.0
NOTICE_S = 120.0
"""As EC2 gives it."""
SAVE_MIB_S = 1.0
"""The checkpoint path's bandwidth: ResNet-20 with momentum (2.1 MiB) takes two seconds to save."""
FRESH_S = 0.8
"""A save that began longer ago may be over before the notice is up: the next one is waited for."""
LATEST_S = 270.0
"""After this long the demo gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One job of the demo."""

    name: str
    script: str
    nodes: int
    steps: int
    every_steps: int
    batch_size: int
    step_sleep_s: float = 0.0
    """Lengthens its steps, so that there is time to interrupt it; the numbers that it computes do not change."""

    @property
    def reference(self) -> str:
        """The name of the job that runs the same undisturbed."""
        return f"{self.name}-reference"


SINGLE = JobSpec(
    name="single",
    script="train.sh",
    nodes=1,
    steps=280,
    every_steps=40,
    batch_size=8,
    step_sleep_s=0.1,
)
PAIR = JobSpec(
    name="pair",
    script="train_2node.sh",
    nodes=2,
    steps=240,
    every_steps=40,
    batch_size=8,
    step_sleep_s=0.1,
)
JOBS = (SINGLE, PAIR)
RECLAIMS: tuple[tuple[str, ReclaimKind], ...] = (("single", "free"), ("pair", "one_of_two"), ("single", "saving"), ("single", "unnoticed"))
"""Which job is struck how, in this order, each when the one struck before trains again: so that every figure is one interruption's."""


def arguments(spec: JobSpec, out: Path, *, reference: bool) -> list[str]:
    """Return train.py's arguments."""
    sleep_s = 0.0 if reference else spec.step_sleep_s
    return [
        *("--steps", str(spec.steps), "--batch-size", str(spec.batch_size), "--depth", "20", "--every-steps", str(spec.every_steps)),
        *("--synthetic-images", "500", "--print-every", "1", "--step-sleep-s", str(sleep_s), "--out", str(out)),
    ]


def sbatch_options(spec: JobSpec, *, reference: bool) -> list[str]:
    """Return sbatch's options. A reference runs all its ranks on the sandbox's ordinary node, which nobody reclaims."""
    if reference:
        return ["--partition=local", "--nodes=1", f"--ntasks-per-node={spec.nodes}"]
    return ["--partition=spot"]


def due(kind: ReclaimKind, spec: JobSpec, status: Mapping[str, object], age_s: float) -> bool:
    """Whether the moment for a reclaim has come, by the job's own report (status.json of its attempt) of `age_s` ago."""
    state, step, saved = status.get("state"), status.get("step"), status.get("saved_step")
    if not isinstance(step, int):
        return False
    saving = status.get("saving_step")
    if kind == "saving":  # a report with a later step was written while the save went on: it may be over soon
        return saving == step and age_s <= FRESH_S
    if saving is not None:
        return False
    if kind == "unnoticed" and not (isinstance(saved, int) and step > saved):
        return False
    # Well after one periodic checkpoint and well before the next: the report may be a second old.
    return state == "running" and 6 <= step % spec.every_steps <= spec.every_steps // 2
