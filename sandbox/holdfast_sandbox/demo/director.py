"""Runs the scenario: submits the jobs, waits for each reclaim's moment, lets the cloud strike, and sees everything to its end."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from holdfast_common.nodeset import expand

from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.demo.evidence import TITLES, Reclaim, ReclaimKind
from holdfast_sandbox.demo.live import LiveJob
from holdfast_sandbox.demo.progress import Screen
from holdfast_sandbox.demo.scenario import JOBS, LATEST_S, NOTICE_S, RECLAIMS, SAVE_MIB_S, JobSpec, arguments, due, sbatch_options

POLL_S = 0.04
LOOK_S = 0.6
"""Slurm and the journal are looked at this often, for the display and the jobs' ends."""
SETTLE_S = 45.0


class DemoError(Exception):
    """The demo cannot go on; the message says what did not happen."""


class Director:
    """One run of the demo on a sandbox that is up."""

    def __init__(self, sandbox: Sandbox, work: Path, example: Path, screen: Screen) -> None:
        self.jobs: dict[str, LiveJob] = {}
        self.reclaims: list[Reclaim] = []
        self._sandbox = sandbox
        self._work = work
        self._example = example
        self._screen = screen
        self._give_up_at = time.monotonic() + LATEST_S
        self._awaiting_moment = False
        """The job that was struck last trains again: the next reclaim only waits for its moment."""
        self._target = ("", -1, "")
        """Whom the next reclaim will strike: job, attempt, instance."""

    def run(self) -> None:
        """Run everything to its end. Raises DemoError, CalledProcessError, OSError, LookupError, CloudControlError."""
        with ThreadPoolExecutor(1, "look") as self._looker:
            self._run()

    def _run(self) -> None:
        for spec in JOBS:
            self._submit(spec, reference=False)
        self._watch(lambda: (self._next is None and self._recovered()) or all(job.over for job in self.jobs.values()), "all reclaims")
        for spec in JOBS:
            self._submit(spec, reference=True)
        self._watch(lambda: all(job.over for job in self.jobs.values()), "the jobs' ends")
        self._screen.say("all jobs have ended; waiting until the cloud and Slurm are at rest")
        self._settle()

    def _submit(self, spec: JobSpec, *, reference: bool) -> None:
        name = spec.reference if reference else spec.name
        folder = self._work / name
        folder.mkdir(parents=True)
        output, out = self._work / f"{name}.out", self._work / f"{name}.pt"
        env = {
            "HOLDFAST_CHECKPOINT_DIR": str(folder),
            "OMP_NUM_THREADS": "1",
            "PYTHON": sys.executable,
            "TMPDIR": str(self._work),
            **({} if reference else {"HOLDFAST_SAVE_BANDWIDTH_MIB_S": str(SAVE_MIB_S)}),
        }
        options = [*sbatch_options(spec, reference=reference), f"--job-name={name}", f"--output={output}", f"--chdir={self._example}"]
        script = [str(self._example / spec.script), *arguments(spec, out, reference=reference)]
        done = self._sandbox.run(["sbatch", "--parsable", *options, *script], env=env)
        job = LiveJob(spec, name, int(done.stdout.split(";")[0]), folder, output, out)
        self.jobs[name] = job
        where = options[0].removeprefix("--partition=")
        self._screen.say(f"$ sbatch --partition={where} {spec.script}  → job {job.job_id}, {name}" + (", undisturbed" if reference else ""))

    @property
    def _next(self) -> tuple[LiveJob, ReclaimKind] | None:
        """The reclaim that comes next."""
        if len(self.reclaims) == len(RECLAIMS):
            return None
        name, kind = RECLAIMS[len(self.reclaims)]
        return self.jobs[name], kind

    def _recovered(self) -> bool:
        """Whether the job that was struck last trains again."""
        if not self.reclaims:
            return True
        job = self.jobs[self.reclaims[-1].job]
        found = job.report(self._sandbox.instances)
        return found is not None and found.attempt == job.reclaimed and found.status.get("state") == "running"

    def _watch(self, reached: Callable[[], bool], what: str) -> None:
        """Strike when it is time, until all is reached. Looking at Slurm is slow at times, and must not delay a strike."""
        looking = self._looker.submit(self._look)
        while not reached():
            if time.monotonic() > self._give_up_at:
                told = ", ".join(f"{job.name} is {job.state} after {job.reclaimed} reclaims" for job in self.jobs.values())
                raise DemoError(f"{what} did not come within {LATEST_S:.0f} s: {told}")
            self._strike()
            if looking.done():
                looking.result()
                looking = self._looker.submit(self._look_later)
            time.sleep(POLL_S)
        looking.result()

    def _strike(self) -> None:
        """Have the cloud take a machine back if the moment for the next reclaim has come."""
        if self._next is None or not (self._awaiting_moment or self._recovered()):
            return
        self._awaiting_moment = True
        job, kind = self._next
        found = job.report(self._sandbox.instances)
        nodes = job.nodes
        if found is None or found.attempt != job.reclaimed or found.node not in nodes or len(nodes) != job.spec.nodes:
            return  # it is on its way, or where it runs was looked up before it moved
        node = nodes[-1] if kind == "one_of_two" else found.node
        if (job.name, found.attempt) != self._target[:2]:
            with suppress(LookupError):  # it is about to end: looked for again
                self._target = (job.name, found.attempt, self._sandbox.instances.instance_of(node))  # slow: ahead of the moment
        elif due(kind, job.spec, found.status, found.age_s):
            self._reclaim(kind, job, found.attempt, node, self._target[2])

    def _reclaim(self, kind: ReclaimKind, job: LiveJob, attempt: int, node: str, instance_id: str) -> None:
        cloud, at = self._sandbox.cloud, time.time()
        if kind == "unnoticed":
            cloud.kill(instance_id)
        else:
            cloud.reclaim(instance_id, notice_s=NOTICE_S)
        job.reclaimed += 1
        self._awaiting_moment = False
        self.reclaims.append(Reclaim(kind, job.name, attempt, node, instance_id, at))
        self._screen.say(f"✂ reclaim {len(self.reclaims)}: {job.name} loses {node} {TITLES[kind]}")

    def _look_later(self) -> None:
        time.sleep(LOOK_S)
        self._look()

    def _look(self) -> None:
        with suppress(subprocess.SubprocessError):  # slurmctld is asked again soon
            listed = self._sandbox.run(["squeue", "--noheader", "--states=all", "--format=%i|%T|%N"], timeout_s=20).stdout
            rows = {row[0]: row for line in listed.splitlines() if len(row := line.strip().split("|")) == 3}
            for job in tuple(self.jobs.values()):
                _, job.state, nodes = rows.get(str(job.job_id), ("", job.state, ""))
                job.nodes = expand(nodes) if nodes else ()
        reports = {name: job.report(self._sandbox.instances) for name, job in tuple(self.jobs.items())}
        following = {} if self._next is None else {self._next[0].name: f"reclaim {TITLES[self._next[1]]}"}
        self._screen.show(
            tuple(self.jobs.values()), {name: found.status for name, found in reports.items() if found is not None}, following
        )

    def _settle(self) -> None:
        """Wait, not for ever, until no machine is on its way out; the checks judge what is left."""
        until = time.monotonic() + SETTLE_S
        while time.monotonic() < until:
            self._look()
            states = [entry["State"] for entry in node_states(self._sandbox).values()]
            leaving = any(flag in state for state in states for flag in ("DRAIN", "POWERING_DOWN", "POWER_DOWN", "COMPLETING"))
            alive = sum(instance["state"] != "terminated" for instance in self._sandbox.cloud.instances())
            up = sum("POWERED_DOWN" not in state and "POWERING" not in state for state in states)
            if not leaving and alive == up:
                return
            time.sleep(LOOK_S)


def node_states(sandbox: Sandbox) -> dict[str, dict[str, str]]:
    """Return State and Reason of each cloud node, as Slurm says. Raises CalledProcessError."""
    names = [f"spot-{number}" for number in range(1, sandbox.config.nodes + 1)]
    nodes = {name: sandbox.slurm.node(name) for name in names}
    return {name: {"State": node.get("State", "UNKNOWN"), "Reason": node.get("Reason", "")} for name, node in nodes.items()}


def example_folder() -> Path:
    """Return examples/resnet_cifar10 of this checkout. Raises DemoError where the package is not run from one."""
    folder = Path(__file__).resolve().parents[3] / "examples" / "resnet_cifar10"
    if not os.access(folder / "train.sh", os.R_OK):
        raise DemoError(f"the demo needs the repository's examples: there is no {folder}")
    return folder
