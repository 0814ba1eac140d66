"""Orders to a running supervisor."""

import json
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class SupervisorError(Exception):
    """The supervisor refused an order, or does not answer."""


class SupervisorClient:
    """Speaks to the supervisor of one sandbox. Every method raises SupervisorError."""

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path

    def start(self, component: str, env: Mapping[str, str] | None = None) -> None:
        """Start a component that does not run; `env` is added to its environment, also at later starts."""
        self._order(op="start", component=component, env=dict(env or {}))

    def stop(self, component: str, timeout_s: float = 10.0) -> None:
        """Stop a component with TERM, then KILL after `timeout_s`; returns when it has ended."""
        self._order(timeout_s + 15.0, op="stop", component=component, timeout_s=timeout_s)

    def kill(self, component: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a component; after SIGKILL returns when it has ended."""
        self._order(op="kill", component=component, signal=int(number))

    def status(self) -> dict[str, dict[str, Any]]:
        """Return for each component: state, pid (in the sandbox's namespace), exit, asked, starts."""
        found: dict[str, dict[str, Any]] = self._order(op="status")["components"]
        return found

    def detach(self) -> None:
        """Let the sandbox outlive the process that started it."""
        self._order(op="detach")

    def _order(self, answer_timeout_s: float = 15.0, **order: object) -> dict[str, Any]:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(answer_timeout_s)
                connection.connect(str(self._path))
                connection.sendall(json.dumps(order).encode() + b"\n")
                with connection.makefile("rb") as lines:
                    reply: dict[str, Any] = json.loads(lines.readline())
        except (OSError, ValueError) as fault:
            raise SupervisorError(f"no answer from the sandbox's supervisor at {self._path}: {fault}") from fault
        if not reply["ok"]:
            raise SupervisorError(reply["error"])
        return reply
