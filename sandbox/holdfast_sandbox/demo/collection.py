"""Gathering the evidence from where each thing was recorded by whoever did it."""

import json
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.demo.director import Director, node_states
from holdfast_sandbox.demo.evidence import Evidence, JobRun
from holdfast_sandbox.demo.journal import read_journal
from holdfast_sandbox.demo.live import LiveJob, read_starts
from holdfast_sandbox.demo.outcome import digests
from holdfast_sandbox.demo.scenario import GPUS_PER_NODE
from holdfast_sandbox.layout import Layout
from holdfast_sandbox.processes import command_line, with_environment
from holdfast_sandbox.record import read_record
from holdfast_sandbox.zones import ON_DEMAND_USD_H

KEPT_OF_SLURM = ("JobState", "Reason", "ExitCode", "Restarts", "NodeList", "Partition", "StartTime", "EndTime", "Comment", "AdminComment")
_STEP = re.compile(r"^step (\d+) attempt (\d+) ", re.MULTILINE)
_COMPLETION = re.compile(r"^JobId=(\d+) .*?JobState=(\S+)", re.MULTILINE)


def completion_log(layout: Layout) -> Path:
    """Where Slurm's jobcomp/filetxt writes a line for each job that ends."""
    return layout.log / "jobcomp.log"


def journal_path(layout: Layout) -> Path:
    """Where the controller keeps its journal."""
    return layout.controller_state / "journal.sqlite"


def collect(sandbox: Sandbox, director: Director, began: float) -> Evidence:
    """Read all records of a sandbox that still runs. What a job did not write is left empty: the checks say what is missing.

    Raises OSError, sqlite3.Error, CalledProcessError.
    """
    layout = sandbox.layout
    completions = read_completions(completion_log(layout))
    return Evidence(
        began=began,
        ended=time.time(),
        slurm_version=sandbox.run(["scontrol", "--version"]).stdout.strip(),
        gpus_per_node=GPUS_PER_NODE,
        on_demand_usd_h=ON_DEMAND_USD_H,
        jobs={name: _job(sandbox, job, completions) for name, job in director.jobs.items()},
        reclaims=list(director.reclaims),
        journal=read_journal(journal_path(layout)),
        cloud=read_record(layout.cloud / "cloud.jsonl"),
        nodes=node_states(sandbox),
    )


def _job(sandbox: Sandbox, job: LiveJob, completions: dict[int, list[str]]) -> JobRun:
    slurm = sandbox.slurm.job(job.job_id)
    run = JobRun(
        job_id=job.job_id,
        nodes=job.spec.nodes,
        total_steps=job.spec.steps,
        every_steps=job.spec.every_steps,
        reference=job.spec.reference if job.name == job.spec.name else "",
        slurm={key: slurm[key] for key in KEPT_OF_SLURM if key in slurm},
        completions=completions.get(job.job_id, []),
        starts=read_starts(job.folder / "starts.txt"),
    )
    with suppress(FileNotFoundError):
        run.timeline.extend(read_lines(job.folder / "attempts.jsonl"))
    with suppress(FileNotFoundError):
        run.steps.extend(read_steps(job.output.read_text(encoding="utf-8", errors="replace")))
    with suppress(FileNotFoundError):
        run.outcome.update(json.loads(job.out.with_name(f"{job.out.name}.json").read_text(encoding="utf-8")))
        run.tensors.update(digests(job.out))
    return run


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return a JSON-lines file's objects; a last line that was cut off is left out. Raises OSError, ValueError."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def read_steps(output: str) -> list[tuple[int, int, int]]:
    """Return (attempt, first step, last step) of each unbroken run of `step N attempt A …` lines, in the order of printing."""
    runs: list[tuple[int, int, int]] = []
    for match in _STEP.finditer(output):
        step, attempt = int(match[1]), int(match[2])
        if runs and runs[-1][0] == attempt and runs[-1][2] == step - 1:
            runs[-1] = (attempt, runs[-1][1], step)
        else:
            runs.append((attempt, step, step))
    return runs


def read_completions(path: Path) -> dict[int, list[str]]:
    """Return the JobStates that Slurm's completion log has for each job, in order."""
    found: dict[int, list[str]] = {}
    with suppress(FileNotFoundError):
        for match in _COMPLETION.finditer(path.read_text(encoding="utf-8")):
            found.setdefault(int(match[1]), []).append(match[2])
    return found


def leftovers(root: Path) -> list[str]:
    """Return the command lines of processes of the sandbox that was in `root`: each has its directory in its environment."""
    return _told(with_environment("HOLDFAST_SANDBOX_DIR", str(root)))


def _told(pids: Iterable[int]) -> list[str]:
    return [f"{pid}: {' '.join(command_line(pid))[:200]}" for pid in pids if command_line(pid)]
