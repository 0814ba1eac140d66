"""Gathering the evidence from where each thing was recorded by whoever did it."""

import json
import time
from contextlib import suppress
from pathlib import Path

from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.demo.director import Director, node_states
from holdfast_sandbox.demo.evidence import Evidence
from holdfast_sandbox.demo.live import LiveJob
from holdfast_sandbox.demo.outcome import digests
from holdfast_sandbox.demo.scenario import GPUS_PER_NODE
from holdfast_sandbox.history.journal import read_journal
from holdfast_sandbox.history.model import JobRun
from holdfast_sandbox.history.reading import KEPT_OF_SLURM, journal_path, read_completions, read_lines, read_starts, read_steps
from holdfast_sandbox.layout import Layout
from holdfast_sandbox.record import read_record
from holdfast_sandbox.zones import ON_DEMAND_USD_H


def completion_log(layout: Layout) -> Path:
    """Where Slurm's jobcomp/filetxt writes a line for each job that ends."""
    return layout.log / "jobcomp.log"


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
