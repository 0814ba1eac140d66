"""A sandbox with everything real in it, seen from a test: training jobs, reclaims, the journal, the cloud's own record."""

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from holdfast_controller.launch_tags import nodes_of
from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.record import read_record

T = TypeVar("T")
HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
EXAMPLE = REPOSITORY / "examples" / "resnet_cifar10"
FAULT_EXIT = 86
"""How a process ends at its fault point (holdfast_common.faults)."""

_SCRIPT = """\
#!/bin/sh
#SBATCH --requeue --open-mode=append
mkdir -p "$HOLDFAST_CHECKPOINT_DIR"
echo "$(date +%s.%N) ${{SLURM_RESTART_COUNT:-0}} $SLURMD_NODENAME" >>"$HOLDFAST_CHECKPOINT_DIR/starts.txt"
exec {command}
"""


def until(condition: Callable[[], T], timeout_s: float, what: str = "") -> T:
    """Wait until `condition()` is true and return it; at most `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what or condition}"
        time.sleep(0.05)
    return found


@dataclass(frozen=True)
class Entry:
    """One line of the controller's journal."""

    seq: int
    at: float
    kind: str
    text: str
    body: dict[str, Any]

    @property
    def command(self) -> dict[str, Any]:
        """The command that was issued; empty for a mere event."""
        return self.body.get("command", {})

    def about(self, job_id: int) -> bool:
        """Whether it names the job."""
        return re.search(rf'"job_id": {job_id}\b', json.dumps(self.body)) is not None


@dataclass(frozen=True)
class TrainingJob:
    """A job that trains through the job library, and the files that it leaves."""

    bed: "Bed"
    job_id: int
    directory: Path

    @property
    def out(self) -> Path:
        return self.directory / "out.json"

    def events(self, event: str = "", attempt: int | None = None) -> list[dict[str, Any]]:
        """What the attempts recorded of themselves, oldest first (holdfast.timeline)."""
        path = self.directory / "ck" / "attempts.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [line for line in found if event in ("", line["event"]) and attempt in (None, line["attempt"])]

    def await_event(self, event: str, attempt: int = 0, timeout_s: float = 40.0, **keys: Any) -> dict[str, Any]:
        """Wait for the first such event of an attempt."""

        def look() -> dict[str, Any] | None:
            return next((line for line in self.events(event, attempt) if all(line.get(k) == v for k, v in keys.items())), None)

        found = until(look, timeout_s, f"{event} of attempt {attempt} of job {self.job_id}")
        assert found is not None
        return found

    def starts(self) -> list[tuple[int, str]]:
        """Attempt and node of each start of the batch script."""
        lines = (self.directory / "ck" / "starts.txt").read_text().splitlines()
        return [(int(attempt), node) for _, attempt, node in (line.split() for line in lines)]

    def nodes(self) -> list[str]:
        """Where Slurm has it now."""
        return self.bed.hostnames(self.bed.slurm.job(self.job_id)["NodeList"])

    def finished(self, timeout_s: float = 60.0) -> dict[str, str]:
        """Wait until it is over, by itself and well."""
        job = self.bed.slurm.await_job(
            self.job_id, {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}, timeout_s
        )
        assert job["JobState"] == "COMPLETED", f"{job}\n{self.output()}"
        return job

    def output(self) -> str:
        """What the batch script printed."""
        path = self.directory / "log.txt"
        return path.read_text(errors="replace") if path.exists() else "(no output)"

    def result(self) -> dict[str, Any]:
        """Step and hash at its end."""
        return json.loads(self.out.read_text())


@dataclass
class Bed:
    """A running sandbox, and what a test expects to be out of the ordinary in it."""

    sandbox: Sandbox
    work: Path
    """For the tests' own files; jobs of every user may enter it."""
    jobs: list[TrainingJob] = field(default_factory=list)
    hook_lines_allowed: list[str] = field(default_factory=list)
    """Patterns of lines in hooks.log that this test provokes."""
    requeued_by_slurm: dict[int, int] = field(default_factory=dict)
    """Job → requeues that are Slurm's own: of attempts that never began, since their nodes never came."""
    hook_lines_seen: int = 0
    requeued_again: set[int] = field(default_factory=set)
    """Jobs of which a slurmctld that was killed may have forgotten that it had requeued them."""
    forgotten: set[int] = field(default_factory=set)
    """Jobs whose interruptions the controller cannot count any more: they were there when its journal was lost."""
    _lost: list[Entry] = field(default_factory=list)
    _names: int = 0

    @property
    def slurm(self) -> Any:
        return self.sandbox.slurm

    @property
    def cloud(self) -> Any:
        return self.sandbox.cloud

    # -- jobs -------------------------------------------------------------------------------------------------------------------

    def directory(self) -> Path:
        """A new directory for one job."""
        self._names += 1
        path = self.work / f"job{self._names}"
        path.mkdir()
        path.chmod(0o777)
        return path

    def train(
        self, *arguments: str, options: tuple[str, ...] = (), python: str = sys.executable, env: dict[str, str] | None = None
    ) -> TrainingJob:
        """Submit counter_job.py with `arguments`, sbatch with `options`."""
        directory = self.directory()
        command = f"{python} {self.work / 'counter_job.py'} --out {directory / 'out.json'} {' '.join(arguments)}"
        script = directory / "job.sh"
        script.write_text(_SCRIPT.format(command=command))
        return self.submit(directory, script, *options, env=env)

    def submit(
        self, directory: Path, script: Path, *arguments: str, env: dict[str, str] | None = None, chdir: Path | None = None
    ) -> TrainingJob:
        """Submit a batch script that trains into `directory`; sbatch's options come before `--`, the script's own after it."""
        options, _, own = " ".join(arguments).partition(" -- ")
        log = ("-o", str(directory / "log.txt"), "-D", str(chdir or directory))
        command = ["sbatch", "--parsable", "-p", "spot", *log, *options.split(), str(script), *own.split()]
        given = {"HOLDFAST_CHECKPOINT_DIR": str(directory / "ck"), **(env or {})}
        job = TrainingJob(self, int(self.sandbox.run(command, env=given).stdout), directory)
        self.jobs.append(job)
        return job

    def reference(self, *arguments: str) -> dict[str, Any]:
        """The result of counter_job.py where nothing interrupts it: a plain process, without Slurm."""
        directory = self.directory()
        command = [sys.executable, str(HERE / "counter_job.py"), "--out", str(directory / "out.json"), *arguments, "--step-s", "0"]
        env = self.sandbox.env | {"HOLDFAST_CHECKPOINT_DIR": str(directory / "ck")}
        subprocess.run(command, env=env, check=True, timeout=30, capture_output=True)
        return json.loads((directory / "out.json").read_text())

    def hostnames(self, nodes: str) -> list[str]:
        return self.sandbox.run(["scontrol", "show", "hostnames", nodes]).stdout.split() if nodes not in ("", "(null)") else []

    # -- the cloud --------------------------------------------------------------------------------------------------------------

    def reclaim(self, node: str, notice_s: float) -> dict[str, Any]:
        """The cloud gives notice of a node's instance."""
        return self.cloud.reclaim(self.sandbox.instances.instance_of(node), notice_s=notice_s)

    def until_bought(self, node: str, timeout_s: float = 20.0) -> str:
        """Wait until an instance was launched for a node that had none before, and return its id."""

        def look() -> list[str]:
            return [line["instance_id"] for line in self.record("requested") if node in nodes_of(line["tags"])]

        return until(look, timeout_s, f"a launch for {node}")[-1]

    def record(self, event: str = "") -> list[dict[str, Any]]:
        """The cloud's own account."""
        return [line for line in read_record(self.sandbox.layout.cloud / "cloud.jsonl") if event in ("", line["event"])]

    # -- the controller ---------------------------------------------------------------------------------------------------------

    def journal(self, kind: str = "", job_id: int | None = None) -> list[Entry]:
        """The journal's entries of a kind, of a job; those that went with a lost journal first, with sequence numbers below zero."""
        path = self.sandbox.layout.controller_state / "journal.sqlite"
        lost = [entry for entry in self._lost if kind in ("", entry.kind) and (job_id is None or entry.about(job_id))]
        if not path.exists():
            return lost
        query = "SELECT seq, at, kind, text, body FROM events WHERE (? = '' OR kind = ?) AND (? = '' OR instr(refs, ?) > 0) ORDER BY seq"
        ref = "" if job_id is None else f"|job:{job_id}|"
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)
        try:
            rows = database.execute(query, (kind, kind, ref, ref)).fetchall()
        finally:
            database.close()
        return [*lost, *(Entry(seq, at, found, text, json.loads(body)) for seq, at, found, text, body in rows)]

    def lose_journal(self) -> None:
        """Kill the controller and delete its journal."""
        self.sandbox.supervisor.kill("controller")
        entries, before = self.journal(), 1_000_000
        self._lost = [entry if entry.seq < 0 else replace(entry, seq=entry.seq - before) for entry in entries]
        self.forgotten.update(job.job_id for job in self.jobs)
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.sandbox.layout.controller_state / 'journal.sqlite'}{suffix}").unlink(missing_ok=True)

    def restart_controller(self, fault: str = "") -> None:
        """Start the controller (killed before, if it runs), to die at the fault point `NAME[:N]` if one is given.

        Returns when every agent is with it again, and bound: so many passes of BindInstance's fault points are behind us then.
        """
        if self.controller_runs():
            self.sandbox.supervisor.kill("controller")
        last = max((entry.seq for entry in self.journal()), default=-1_000_000)
        self.sandbox.start_component("controller", env={"HOLDFAST_FAULT": fault})
        until(lambda: self.agents() <= self._arrived(last) or not self.controller_runs(), 20, "the agents to come back")

    def controller_runs(self) -> bool:
        """Whether its process is there."""
        return bool(self.sandbox.supervisor.status()["controller"]["state"] == "running")

    def agents(self) -> set[str]:
        """The instances that live, are bound to a name, and whose agents can be expected to be there."""
        bound = {entry.command["instance_id"] for entry in self.journal("BindInstance")}
        return {each["instance_id"] for each in self.cloud.instances() if each["state"] == "running"} & bound

    def _arrived(self, after: int) -> set[str]:
        return {entry.command["instance_id"] for entry in self.journal("BindInstance") if entry.seq > after}

    def await_controller_death(self, timeout_s: float = 40.0) -> None:
        """Wait until the controller has died at its fault point."""
        until(lambda: not self.controller_runs(), timeout_s, "the controller's death at its fault point")
        status = self.sandbox.supervisor.status()["controller"]
        assert status["exit"] == FAULT_EXIT, f"the controller ended otherwise: {status}"

    def allow_hook_lines(self, pattern: str) -> None:
        """Expect such lines in the hooks' log, from this test on."""
        self.hook_lines_allowed.append(pattern)

    def hook_lines(self) -> list[str]:
        """What slurmctld's hooks complained of."""
        path = self.sandbox.layout.controller_socket.parent / "hooks.log"
        return path.read_text().splitlines() if path.exists() else []

    def hook_faults(self) -> list[str]:
        """Complaints since the last call of `hooks_checked` that nobody expects."""
        news = self.hook_lines()[self.hook_lines_seen :]
        return [line for line in news if not any(re.search(pattern, line) for pattern in self.hook_lines_allowed)]

    def hooks_checked(self) -> None:
        self.hook_lines_seen = len(self.hook_lines())
