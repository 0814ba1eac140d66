"""The simulated instances of a sandbox as the machine sees them: which one is a node, and its agent's process."""

import os
import signal
from contextlib import suppress
from pathlib import Path

from holdfast_sandbox.processes import with_environment


class Instances:
    """Instances by the node that they are; each lives in `<cloud state>/instances/<instance id>`."""

    def __init__(self, cloud_state: Path) -> None:
        self._root = cloud_state / "instances"

    def directory(self, node: str) -> Path:
        """Return the directory of the living instance that is `node` (the newest). Raises LookupError."""
        named = []
        for path in self._root.glob("*/node"):
            with suppress(OSError):
                if path.read_text(encoding="utf-8").strip() == node:
                    named.append((path.stat().st_mtime, path.parent))
        for _, directory in sorted(named, reverse=True):
            if self._processes(directory):
                return directory
        raise LookupError(f"no running instance is node {node}")

    def instance_of(self, node: str) -> str:
        """Return the id of the living instance that is `node`. Raises LookupError."""
        return self.directory(node).name

    def agent_pids(self, node: str) -> list[int]:
        """Return the agent's process (one, or none while it is down). Raises LookupError."""
        directory = self.directory(node)
        try:
            inner = (directory / "agent.pid").read_text(encoding="ascii").strip()
        except OSError:
            return []
        return [pid for pid in self._processes(directory) if _innermost_pid(pid) == inner]

    def kill_agent(self, node: str, *, restart: bool = True) -> list[int]:
        """Kill the agent with SIGKILL; with `restart=False` its init does not start it again. Returns the pids killed.

        Raises LookupError.
        """
        block = self.directory(node) / "no-agent"
        if restart:
            block.unlink(missing_ok=True)
        else:
            block.touch()
        pids = self.agent_pids(node)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return pids

    def reboot(self, node: str) -> str:
        """Have the machine boot anew: everything on it ends, and it comes back with another boot id. Returns its instance id.

        Raises LookupError.
        """
        directory = self.directory(node)
        (directory / "reboot").touch()
        for pid in self.agent_pids(node):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return directory.name

    @staticmethod
    def _processes(directory: Path) -> list[int]:
        return with_environment("HOLDFAST_SANDBOX_INSTANCE_DIR", str(directory))


def _innermost_pid(pid: int) -> str:
    """Return a process's pid in its own pid namespace; empty where it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("NSpid:"):
                return line.split()[-1]
    return ""
