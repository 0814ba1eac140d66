"""ResumeProgram at 1, 100 and 1,000 nodes: real jobs, a real slurmctld, the installed hook, a real controller, and a cloud whose machines
are ordered and never boot (1,000 slurmds do not fit here, and nothing that is measured waits for them).
"""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.cluster_config import ControllerSpec, SandboxConfig, Site
from holdfast_sandbox.defaults import default_controller, default_hooks
from holdfast_sandbox.layout import PARTITION
from holdfast_sandbox.record import read_record

from bench.evidence import read_journal

SIZES = (1, 100, 1000)
NEVER_S = 3600.0
LONGEST_S = 240.0
POLL_S = 0.1

# Around the installed hook, which it runs in the environment that slurmctld gave it: without PATH.
TIMED = """\
#!/bin/sh
began=$(/bin/date +%s.%N)
{real} "$@"
echo "$began $(/bin/date +%s.%N) $1" >>{log}
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One job's nodes, asked for by slurmctld. Seconds."""

    nodes: int
    submitted_to_hook_s: float
    """Plain Slurm's own part."""
    hook_s: float
    """From the hook's start until it returned."""
    calls_s: float
    """From the hook's start until the last call to the cloud for it had begun."""
    calls: int


def own_timing(spec: ControllerSpec) -> ControllerSpec:
    """Return the controller with its own default timing, in the place of the sandbox's quicker looks at the cloud."""

    def files(site: Site) -> Mapping[str, str]:
        made = dict(spec.files(site))
        lines = made["controller.toml"].splitlines(keepends=True)
        made["controller.toml"] = "".join(line for line in lines if not line.startswith("cloud_poll"))
        return made

    return replace(spec, files=files)


def write_timed_hooks(directory: Path, **paths: Any) -> None:
    """Write Holdfast's hooks, and around ResumeProgram what notes when it began and ended. Raises OSError, ConfigError."""
    default_hooks(directory, **paths)
    real = directory / "resume.installed"
    (directory / "resume").rename(real)
    (directory / "resume").write_text(TIMED.format(real=real, log=_log(directory)), encoding="ascii")
    (directory / "resume").chmod(0o755)


def measure(directory: Path, repeats: Mapping[int, int], say: Callable[[str], None]) -> list[Request]:
    """Run jobs of each size, so often. Raises as Sandbox does, TimeoutError, CalledProcessError."""
    config = SandboxConfig(
        nodes=max(repeats),
        boot_delay_s=NEVER_S,
        resume_timeout_s=1200,
        controller=own_timing(default_controller()),
        write_hooks=write_timed_hooks,
    )
    with Sandbox(directory, config) as sandbox:
        bed = _Bed(sandbox)
        found = []
        for size, count in repeats.items():
            for _ in range(count):
                bed.have_free(size)
                found.append(bed.request(size))
                say(f"{size} node(s): hook {found[-1].hook_s:.2f} s, calls begun after {found[-1].calls_s:.2f} s")
        return found


def baselines(directory: Path, python: Path, repeats: int = 10) -> dict[str, list[float]]:
    """Return how long other programs take that are started as slurmctld starts the hook. Raises OSError, CalledProcessError."""
    nothing = directory / "nothing"
    nothing.write_text("#!/bin/sh\nexit 0\n", encoding="ascii")
    nothing.chmod(0o755)
    programs = {
        "a ResumeProgram that does nothing (/bin/sh)": [str(nothing)],
        "python -I -c pass": [str(python), "-I", "-c", "pass"],
        "python -I -c 'import grpc'": [str(python), "-I", "-c", "import grpc"],
    }
    return {name: [_run_s(argv) for _ in range(repeats)] for name, argv in programs.items()}


def _run_s(argv: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, env={"SLURM_CONF": "/nowhere"}, cwd="/", stdin=subprocess.DEVNULL, check=True, timeout=30)
    return time.perf_counter() - began


def _log(directory: Path) -> Path:
    return directory / "resume.log"


class _Bed:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._seen = 0
        self._jobs: list[int] = []

    def request(self, size: int) -> Request:
        submitted = time.time()
        arguments = ("-p", PARTITION, "--exclusive", f"--nodes={size}", "-o", "/dev/null", "--wrap", "sleep 1")
        job_id = self._sandbox.slurm.submit(*arguments)
        _wait(lambda: len(self._hook_lines()) > self._seen, f"ResumeProgram for {size} nodes")
        began, ended, _ = self._hook_lines()[self._seen].split(maxsplit=2)
        self._seen += 1
        calls: list[float] = []

        def launched() -> bool:
            calls[:] = self._calls(job_id)
            return bool(calls)

        _wait(launched, f"the cloud to be asked for job {job_id}'s nodes")
        self._jobs.append(job_id)  # it keeps its nodes, so that the next request is for others
        return Request(size, float(began) - submitted, float(ended) - float(began), max(calls) - float(began), len(calls))

    def have_free(self, size: int) -> None:
        """Have so many nodes powered down; where there are fewer, all of them, and all machines gone."""
        free = self._sandbox.run(["sinfo", "-h", "-N", "-p", PARTITION, "-o", "%t"]).stdout.split().count("idle~")
        if free >= size:
            return
        self._sandbox.run(["scancel", *map(str, self._jobs)])
        self._jobs.clear()
        names = f"{PARTITION}-[1-{self._sandbox.config.nodes}]"
        states = ["sinfo", "-h", "-p", PARTITION, "-o", "%t"]
        time.sleep(1.0)
        self._sandbox.run(["scontrol", "update", f"nodename={names}", "state=POWER_DOWN_FORCE", "reason=bench"], check=False)
        _wait(lambda: set(self._sandbox.run(states).stdout.split()) == {"idle~"}, "all nodes to be powered down")
        _wait(lambda: all(one["state"] == "terminated" for one in self._sandbox.cloud.instances()), "all machines to be gone")
        self._seen = len(self._hook_lines())

    def _hook_lines(self) -> list[str]:
        try:
            return _log(self._sandbox.layout.hooks).read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            return []

    def _journal(self) -> list[dict[str, Any]]:
        return read_journal(self._sandbox.layout.controller_state / "journal.sqlite")

    def _calls(self, job_id: int) -> list[float]:
        """Return when the cloud got each call for the job's nodes, once all that the controller decided on have been made."""
        bought = [event["command"] for event in self._journal() if event["kind"] == "Launch"]
        launches = {command["launch_id"] for command in bought if command["job_id"] == job_id}
        made = [line for line in read_record(self._sandbox.layout.cloud / "cloud.jsonl") if line["event"] == "launch_request"]
        times = {line["client_token"]: line["t"] for line in made if line["client_token"].split(".")[0] in launches}
        return list(times.values()) if launches and len(times) >= len(launches) else []


def _wait(holds: Callable[[], bool], what: str) -> None:
    ends = time.monotonic() + LONGEST_S
    while not holds():
        if time.monotonic() > ends:
            raise TimeoutError(f"waited {LONGEST_S:g} s in vain for {what}")
        time.sleep(POLL_S)
