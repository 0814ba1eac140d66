"""The demo's command: sandbox up, the scenario, the evidence, sandbox down, the verdict."""

import argparse
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

from holdfast_sandbox.cloud_control import CloudControlError
from holdfast_sandbox.cluster import Sandbox, SandboxError
from holdfast_sandbox.cluster_config import SandboxConfig
from holdfast_sandbox.defaults import default_controller
from holdfast_sandbox.demo.checks import Failure, failures
from holdfast_sandbox.demo.collection import collect, completion_log
from holdfast_sandbox.demo.costs import Costs, costs
from holdfast_sandbox.demo.director import DemoError, Director, example_folder
from holdfast_sandbox.demo.evidence import Evidence, write_evidence
from holdfast_sandbox.demo.interruptions import Interruption, interruptions
from holdfast_sandbox.demo.picture import picture
from holdfast_sandbox.demo.progress import Screen
from holdfast_sandbox.demo.report import result, text
from holdfast_sandbox.demo.scenario import BOOT_DELAY_S, NODES
from holdfast_sandbox.demo.svg import render_svg
from holdfast_sandbox.history.reading import journal_path, lasting_leftovers
from holdfast_sandbox.layout import Layout

TROUBLE = (DemoError, SandboxError, CloudControlError, subprocess.SubprocessError, sqlite3.Error, OSError, LookupError, ValueError)
WORK_UNDER = Path("/tmp")  # noqa: S108 - a fresh directory is made in it
"""A short path: unix sockets' paths are limited, and $TMPDIR may be long."""

DESCRIPTION = """\
Starts a throw-away Slurm cluster with a simulated cloud, runs two training jobs on its spot partition, has the cloud take a
machine away four times, and proves from the records that the jobs ended as if nothing had happened. Takes about two
minutes. Needs root (namespaces), Slurm and munge: scripts/setup installs them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo. Returns 0 where every promise held, 1 where one was broken, 2 for wrong arguments."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    out: Path = options.out.resolve()
    work = Path(tempfile.mkdtemp(prefix="holdfast-demo-", dir=WORK_UNDER))
    try:
        out.mkdir(parents=True, exist_ok=True)
        evidence, trouble = run(work, example_folder())
    except TROUBLE as fault:
        print(f"demo: {_told(fault)}\ndemo: everything that it left is in {work}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"demo: interrupted; the sandbox is down, and what it left is in {work}", file=sys.stderr)
        return 130
    passed = judge(evidence, trouble, out, as_json=options.json)
    if passed and not options.keep:
        shutil.rmtree(work, ignore_errors=True)
    else:
        print(f"demo: the sandbox's logs, the jobs' output and their checkpoints are in {work}", file=sys.stderr)
    return 0 if passed else 1


def run(work: Path, example: Path) -> tuple[Evidence, list[Failure]]:
    """Run the scenario with the scripts of `example` in `work`; return the evidence, and what kept it from its end.

    The sandbox is down when this returns or raises; its directory stays. Raises what is in `TROUBLE` where there is no evidence.
    """
    trouble: list[Failure] = []
    began = time.time()
    root = work / "sandbox"
    sandbox = Sandbox(root, sandbox_config(root))
    try:
        with Screen() as screen:
            screen.say(f"starting a sandbox in {root}")
            sandbox.start()
            screen.journal = journal_path(sandbox.layout)
            screen.say(f"the sandbox is up: slurmctld, controller, cloud and {NODES} cloud nodes, all powered down")
            director = Director(sandbox, work / "jobs", example, screen)
            try:
                director.run()
            except TROUBLE as fault:
                trouble.append(Failure("the scenario ran to its end", _told(fault)))
            evidence = collect(sandbox, director, began)
    finally:
        sandbox.stop(keep=True)
    return replace(evidence, leftovers=lasting_leftovers(root)), trouble


def judge(evidence: Evidence, trouble: Sequence[Failure], out: Path, *, as_json: bool) -> bool:
    """Check the evidence, write result, evidence and timelines to `out`, print the report. Returns whether all promises held."""
    broken = [*trouble, *failures(evidence)]
    seen, spent = _figures(evidence, broken)
    drawn = picture(evidence)
    report = text(evidence, drawn, seen, spent, broken)
    told = json.dumps(result(evidence, seen, spent, broken), indent=1) + "\n"
    write_evidence(out / "evidence.json", evidence)
    (out / "result.json").write_text(told, encoding="utf-8")
    (out / "report.txt").write_text(report, encoding="utf-8")
    (out / "timeline.svg").write_text(render_svg(drawn, "Holdfast demo: four reclaims, two jobs"), encoding="utf-8")
    print(told if as_json else f"\n{report}\nWritten: {out}/result.json, evidence.json, report.txt, timeline.svg")
    for failure in broken if as_json else ():
        print(f"demo: {failure}", file=sys.stderr)
    return not broken


def _figures(evidence: Evidence, broken: list[Failure]) -> tuple[list[Interruption], Costs | None]:
    try:
        return interruptions(evidence), costs(evidence)
    except LookupError as fault:
        broken.append(Failure("every figure has its record", _told(fault)))
        return [], None


def sandbox_config(root: Path) -> SandboxConfig:
    """Return the demo's cluster; Slurm's own completion log is on, as a witness of how often a job ended."""
    log = completion_log(Layout(root, root / "run"))
    return SandboxConfig(
        nodes=NODES,
        boot_delay_s=BOOT_DELAY_S,
        zones=2,
        oversubscribe="EXCLUSIVE",
        extra_slurm_conf=f"JobCompType=jobcomp/filetxt\nJobCompLoc={log}",
        controller=default_controller(),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./demo", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of text")
    parser.add_argument("--keep", action="store_true", help="leave logs, outputs and checkpoints also where all went well")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), metavar="DIR", help="where the results go (default: demo-out)")
    return parser


def _told(fault: BaseException) -> str:
    if isinstance(fault, subprocess.CalledProcessError):
        return f"{' '.join(map(str, fault.cmd))[:200]} ended with {fault.returncode}: {str(fault.stderr).strip()[:500]}"
    return str(fault) or type(fault).__name__


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
