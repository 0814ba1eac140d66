"""What the next command must know of a sandbox: a JSON file in its directory, there from before the first process starts."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from holdfast_sandbox.layout import Layout
from holdfast_sandbox.ports import Ports
from holdfast_sandbox.processes import ProcessId

VERSION = 1


class StateError(Exception):
    """There is no sandbox in the directory, or its state file cannot be read."""


@dataclass(frozen=True, slots=True)
class SandboxState:
    """One sandbox, as written to `sandbox.json`."""

    layout: Layout
    ports: Ports
    init: ProcessId | None
    """The supervisor; None while it is being started."""
    has_cloud: bool
    has_controller: bool

    def save(self) -> None:
        """Write the file whole or not at all. Raises OSError."""
        data = {
            "version": VERSION,
            "sockets": str(self.layout.sockets),
            "first_port": self.ports.first,
            "nodes": self.ports.nodes,
            "init": [self.init.pid, self.init.started_ticks] if self.init else None,
            "has_cloud": self.has_cloud,
            "has_controller": self.has_controller,
        }
        new = self.layout.state_file.with_suffix(".new")
        new.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        os.replace(new, self.layout.state_file)

    @property
    def running(self) -> bool:
        """Whether the supervisor, and so perhaps more, is alive."""
        return self.init is not None and self.init.alive()


def load_state(directory: Path) -> SandboxState:
    """Read the state of the sandbox in `directory`. Raises StateError."""
    root = directory.resolve()
    path = root / "sandbox.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != VERSION:
            raise StateError(f"{path} was written by another version of Holdfast")
        return SandboxState(
            layout=Layout(root, Path(data["sockets"])),
            ports=Ports(int(data["first_port"]), int(data["nodes"])),
            init=ProcessId(*map(int, data["init"])) if data["init"] else None,
            has_cloud=bool(data["has_cloud"]),
            has_controller=bool(data["has_controller"]),
        )
    except FileNotFoundError as fault:
        raise StateError(f"there is no sandbox in {root}") from fault
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise StateError(f"{path} cannot be read: {fault}") from fault
