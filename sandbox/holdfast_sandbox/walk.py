"""The whole walk: a throw-away sandbox whose zones follow a recorded market, one job that is moved about in it, and what that cost.

`walk_plan` sets it up and `walk_choice` picks the part of the recording; `walk_job` is the job, `walk_live` follows it by the controller's
interface through `walk_events`, and `walk_result` judges from the records.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import typer
from holdfast_controller.cli.app import CliError

from holdfast_sandbox.cloud_control import CloudControlError
from holdfast_sandbox.cluster import Sandbox, SandboxError
from holdfast_sandbox.history.journal import read_journal
from holdfast_sandbox.history.model import JobRun
from holdfast_sandbox.history.reading import KEPT_OF_SLURM, journal_path, lasting_leftovers, read_lines, read_starts, read_steps
from holdfast_sandbox.record import read_record
from holdfast_sandbox.walk_events import Line, Narrator
from holdfast_sandbox.walk_job import EVERY_STEPS, undisturbed
from holdfast_sandbox.walk_live import WalkTimeoutError, watch
from holdfast_sandbox.walk_plan import LEAD_S, STEP_S, Plan, WalkOptions, introduction, market, plan
from holdfast_sandbox.walk_result import Walked, attempts, failures, result, table, verdict
from holdfast_sandbox.zones import zones_of

PATIENCE_S = 150.0
"""The job may take so much longer than undisturbed."""
WORK_UNDER = Path("/tmp")  # noqa: S108 - a fresh directory is made in it
TROUBLE = (CliError, SandboxError, CloudControlError, WalkTimeoutError, subprocess.SubprocessError, OSError, LookupError, ValueError)

_SCRIPT = """\
#!/bin/sh
#SBATCH --requeue --open-mode=append --job-name=walk --nodes={nodes} --ntasks-per-node=1 --exclusive
mkdir -p "$HOLDFAST_CHECKPOINT_DIR"
echo "$(date +%s.%N) ${{SLURM_RESTART_COUNT:-0}} $SLURMD_NODENAME" >>"$HOLDFAST_CHECKPOINT_DIR/starts.txt"
exec {srun}{python} -m holdfast_sandbox.walk_job --steps {steps} --step-s {step_s} --out "$HOLDFAST_CHECKPOINT_DIR/out.json"
"""


def run_walk(options: WalkOptions, *, as_json: bool = False, keep: bool = False) -> int:
    """Walk, and tell it. Returns 0 where the job was done and no step was lost at a reclaim with notice, 130 if interrupted, else 1.

    Raises ConfigError.
    """
    planned = plan(options)
    work = Path(tempfile.mkdtemp(prefix="holdfast-walk-", dir=WORK_UNDER))
    work.chmod(0o755)
    try:
        walked = _Walk(planned, work, quiet=as_json).run()
    except TROUBLE as fault:
        if as_json:
            typer.echo(json.dumps({"error": told(fault)}))
        typer.echo(f"holdfast sandbox: {told(fault)}\nholdfast sandbox: what it left is in {work}", err=True)
        return 1
    except KeyboardInterrupt:
        typer.echo(f"holdfast sandbox: interrupted; the sandbox is down, and what it left is in {work}", err=True)
        return 130
    seen = attempts(walked)
    broken = failures(walked, seen)
    if as_json:
        typer.echo(json.dumps(result(walked, seen, broken, market(planned))))
    else:
        typer.echo(f"\n{table(seen)}\n\n{verdict(seen, broken)}")
    if broken or keep:
        typer.echo(f"holdfast sandbox: logs and the job's files are in {work}", err=True)
    else:
        shutil.rmtree(work, ignore_errors=True)
    return 1 if broken else 0


class _Walk:
    """One walk in a directory."""

    def __init__(self, planned: Plan, work: Path, *, quiet: bool) -> None:
        self._plan = planned
        self._work = work
        self._quiet = quiet
        self._began = time.time()
        self._lines: list[Line] = []
        self._sandbox = Sandbox(work / "sb", planned.config)
        self._folder = work / "job"

    def run(self) -> Walked:
        """Walk; the sandbox is down when this returns or raises, its directory stays. Raises what is in `TROUBLE`."""
        self._say(introduction(self._plan))
        try:
            self._sandbox.start()
            self._await_market()
            job_id = self._submit()
            trouble = self._follow(job_id)
            walked = self._collect(job_id, trouble)
        finally:
            self._sandbox.stop(keep=True)
        return replace(walked, leftovers=lasting_leftovers(self._sandbox.root))

    def _say(self, text: str) -> None:
        if not self._quiet:
            typer.echo(text)
            sys.stdout.flush()

    def _tell(self, line: Line) -> None:
        self._lines.append(line)
        self._say(f"{line.at - self._began:6.1f} s  {line.zone:<20}  {line.text}")

    def _await_market(self) -> None:
        """Return when the recording begins to move; at once where the sandbox took longer than it stood still."""
        record = read_record(self._sandbox.layout.cloud / "cloud.jsonl")
        started = next(line["t"] for line in record if line["event"] == "started")
        time.sleep(min(LEAD_S, max(0.0, started + LEAD_S - time.time())))

    def _submit(self) -> int:
        options = self._plan.options
        self._folder.mkdir()
        srun = "srun --kill-on-bad-exit=1 " if options.job_nodes > 1 else ""
        script = self._folder / "walk.sh"
        script.write_text(
            _SCRIPT.format(nodes=options.job_nodes, srun=srun, python=sys.executable, steps=options.steps, step_s=STEP_S), encoding="utf-8"
        )
        command = ["sbatch", "--parsable", "--partition=spot", f"--output={self._output}", f"--chdir={self._folder}", str(script)]
        done = self._sandbox.run(command, env={"HOLDFAST_CHECKPOINT_DIR": str(self._folder / "ck")})
        job_id = int(done.stdout.split(";")[0])
        self._began = time.time()
        self._tell(Line(self._began, "", "submitted", f"$ sbatch --partition=spot walk.sh  → job {job_id}, {options.steps} steps"))
        return job_id

    @property
    def _output(self) -> Path:
        return self._folder / "walk.out"

    def _follow(self, job_id: int) -> list[str]:
        """Watch until the job is over, and return what went wrong meanwhile."""
        options = self._plan.options
        narrator = Narrator(zones_of(self._plan.config), job_id)
        try:
            watch(self._sandbox.layout.controller_socket, narrator, self._tell, options.steps, options.steps * STEP_S + PATIENCE_S)
        except (WalkTimeoutError, CliError) as fault:
            return [told(fault)]
        return []

    def _collect(self, job_id: int, trouble: list[str]) -> Walked:
        """Read all records of the sandbox, which still runs."""
        layout, options = self._sandbox.layout, self._plan.options
        slurm = self._sandbox.slurm.job(job_id)
        run = JobRun(
            job_id=job_id,
            nodes=options.job_nodes,
            total_steps=options.steps,
            every_steps=EVERY_STEPS,
            slurm={key: slurm[key] for key in KEPT_OF_SLURM if key in slurm},
            starts=read_starts(self._folder / "ck" / "starts.txt"),
        )
        with suppress(FileNotFoundError):
            run.timeline.extend(read_lines(self._folder / "ck" / "attempts.jsonl"))
        with suppress(FileNotFoundError):
            run.steps.extend(read_steps(self._output.read_text(encoding="utf-8", errors="replace")))
        with suppress(FileNotFoundError):
            run.outcome.update(json.loads((self._folder / "ck" / "out.json").read_text(encoding="utf-8")))
        return Walked(
            run=run,
            journal=read_journal(journal_path(layout)),
            cloud=read_record(layout.cloud / "cloud.jsonl"),
            zones=zones_of(self._plan.config),
            ended=time.time(),
            digest=undisturbed(options.steps),
            lines=tuple(self._lines),
            trouble=trouble,
        )


def told(fault: BaseException) -> str:
    """Return what failed, in a line."""
    if isinstance(fault, subprocess.CalledProcessError):
        return f"{' '.join(map(str, fault.cmd))[:200]} ended with {fault.returncode}: {str(fault.stderr).strip()[:500]}"
    return str(fault) or type(fault).__name__
