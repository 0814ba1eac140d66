"""The framework examples as jobs: what each attempt printed, and the run of the same script that nothing interrupts."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from e2e_bed import REPOSITORY, Bed, TrainingJob
from kinds_jobs import ENDED, Story

EXAMPLES = REPOSITORY / "examples"
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0")


@dataclass(frozen=True)
class Attempt:
    """One run of the batch script: where, and what it printed."""

    node: str
    text: str

    @property
    def steps(self) -> list[int]:
        """The steps that it began."""
        return [int(step) for step in re.findall(r"^step (\d+) ", self.text, re.MULTILINE)]


@dataclass(frozen=True)
class Plan:
    """How long a job trains, when its node is taken back, and how many of its steps the framework does twice at most."""

    steps: int = 60
    step_s: float = 0.1
    reclaim_at: int = 10
    notice_s: float = 60.0
    twice: int = 0


def attempts(job: TrainingJob) -> list[Attempt]:
    """The attempts of a job, oldest first."""
    _, *parts = re.split(r"^attempt \d+ on (\S+)$", job.output(), flags=re.MULTILINE)
    return [Attempt(node, text) for node, text in zip(parts[::2], parts[1::2], strict=True)]


def submit(
    bed: Bed, example: str, *arguments: str, script: str = "train.sh", options: tuple[str, ...] = (), env: dict[str, str] | None = None
) -> TrainingJob:
    """Submit an example's batch script, a node to itself; its files go to `out` in the job's own directory."""
    directory = bed.directory()
    own = ("--", "--out", str(directory / "out"), *arguments)
    given = QUIET | (env or {})
    return bed.submit(directory, EXAMPLES / example / script, "--exclusive", *options, *own, env=given, chdir=EXAMPLES / example)


def submit_by_submitit(bed: Bed, *arguments: str) -> TrainingJob:
    """Run the submitit example as a user does on the login node: it submits itself."""
    directory = bed.directory()
    command = [sys.executable, str(EXAMPLES / "submitit" / "train.py"), "--partition=spot", "--out", str(directory / "out"), *arguments]
    job = TrainingJob(bed, int(bed.sandbox.run(command, env=QUIET).stdout.split()[-1]), directory)
    (directory / "log.txt").symlink_to(directory / "out" / "submitit" / f"{job.job_id}_0_log.out")
    bed.jobs.append(job)
    return job


def undisturbed(
    bed: Bed, example: str, launcher: tuple[str, ...] = (), script: str = "train.py", plan: Plan | None = None
) -> "Undisturbed":
    """Start the example's script without Slurm."""
    directory = bed.directory()
    path = str(EXAMPLES / example / script)
    command = [sys.executable, *launcher, path, "--steps", str((plan or Plan()).steps), "--step-s", "0", "--out", str(directory / "out")]
    with (directory / "log.txt").open("w") as log:
        return Undisturbed(subprocess.Popen(command, env=bed.sandbox.env | QUIET, cwd=directory, stdout=log, stderr=log), directory)


@dataclass(frozen=True)
class Undisturbed:
    """The script as a plain process on this machine."""

    process: subprocess.Popen[bytes]
    directory: Path

    def weights(self) -> dict[str, Any]:
        """Wait for its end, and read its final weights."""
        assert self.process.wait(60) == 0, (self.directory / "log.txt").read_text()
        return weights(self.directory)


def weights(directory: Path) -> dict[str, Any]:
    """Final weights that a training run left: tensors by name."""

    found: dict[str, Any] = torch.load(directory / "out" / "model.pt")
    return found


def reclaimed(bed: Bed, job: TrainingJob, reference: Undisturbed, plan: Plan) -> Story:
    """The node on which it trains is taken back; it goes on elsewhere and ends with the very weights."""
    yield f"step {plan.reclaim_at} of job {job.job_id}", lambda: any(plan.reclaim_at in each.steps for each in attempts(job))
    node = job.nodes()[-1]  # of two, the one without the batch script
    bed.reclaim(node, notice_s=plan.notice_s)
    yield f"a second attempt of job {job.job_id}", lambda: len(attempts(job)) == 2
    yield f"the end of job {job.job_id}", lambda: bed.slurm.job(job.job_id)["JobState"] in ENDED
    ended = bed.slurm.job(job.job_id)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), job.output()
    assert node not in bed.hostnames(ended["NodeList"])
    first, second = attempts(job)
    assert first.steps == list(range(first.steps[-1] + 1))
    assert second.steps == list(range(second.steps[0], plan.steps))
    twice = first.steps[-1] + 1 - second.steps[0]
    assert 0 <= twice <= plan.twice, f"steps {second.steps[0]} to {first.steps[-1]} were done twice, or some left out"
    assert second.steps[0] >= plan.reclaim_at, "it went on from an older state than the one on the notice"
    expected, found = reference.weights(), weights(job.directory)
    assert expected.keys() == found.keys()
    assert all(expected[name].equal(found[name]) for name in expected), "other weights than without interruption"


def arguments(plan: Plan) -> tuple[str, ...]:
    """The plan as the examples' command line."""
    return "--steps", str(plan.steps), "--step-s", str(plan.step_s)
