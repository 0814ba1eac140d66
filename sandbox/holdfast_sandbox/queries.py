"""Short questions to a sandbox's Slurm, for tests and the demo: submit, look, wait."""

import re
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

_POLL_S = 0.1


class RunCommand(Protocol):
    """`Sandbox.run`."""

    def __call__(self, command: Sequence[str], *, check: bool = True, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command in the sandbox's environment."""


class SlurmQueries:
    """Each method raises CalledProcessError or TimeoutExpired as the command that it runs does."""

    def __init__(self, run: RunCommand) -> None:
        self._run = run

    def submit(self, *arguments: str) -> int:
        """Run sbatch and return the job's id."""
        return int(self._run(["sbatch", "--parsable", *arguments]).stdout.split(";")[0])

    def job(self, job_id: int | str) -> dict[str, str]:
        """Return what `scontrol show job -o` says, by key (JobState, Restarts, NodeList, Reason, …); empty if unknown."""
        done = self._run(["scontrol", "show", "job", "-o", str(job_id)], check=False)
        return _pairs(done.stdout) if done.returncode == 0 else {}

    def node(self, name: str) -> dict[str, str]:
        """Return what `scontrol show node -o` says, by key (State, NodeAddr, Reason, …); empty if Slurm shows no such node."""
        done = self._run(["scontrol", "show", "node", "-o", name], check=False)
        return _pairs(done.stdout) if done.returncode == 0 else {}

    def await_job(self, job_id: int | str, states: Iterable[str], timeout_s: float) -> dict[str, str]:
        """Wait until the job is in one of the states and return it. Raises TimeoutError that says what it is instead."""
        wanted = set(states)
        return self._await(lambda: self.job(job_id), lambda job: job.get("JobState") in wanted, f"job {job_id}", timeout_s)

    def await_node(self, name: str, meets: Callable[[dict[str, str]], bool], timeout_s: float) -> dict[str, str]:
        """Wait until the node meets a condition and return it. Raises TimeoutError that says what it is instead."""
        return self._await(lambda: self.node(name), meets, f"node {name}", timeout_s)

    @staticmethod
    def _await(look: Callable[[], dict[str, str]], meets: Callable[[dict[str, str]], bool], what: str, timeout_s: float) -> dict[str, str]:
        deadline = time.monotonic() + timeout_s
        while not meets(found := look()):
            if time.monotonic() > deadline:
                told = {key: found[key] for key in ("JobState", "State", "Reason", "Restarts", "NodeList") if key in found}
                raise TimeoutError(f"{what} after {timeout_s:g} s: {told or 'unknown to Slurm'}")
            time.sleep(_POLL_S)
        return found


def _pairs(line: str) -> dict[str, str]:
    """Split one `-o` line into its keys; a value ends where the next `Key=` begins."""
    return {match[1]: match[2].strip() for match in re.finditer(r"(\S+?)=(.*?)(?=\s\S+=|$)", line.strip())}
