"""One daemon under the supervisor: how it is started, and what became of it."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


class ComponentError(Exception):
    """An order cannot be carried out: unknown component, runs already, does not run, or does not start."""


@dataclass(frozen=True, slots=True)
class ComponentSpec:
    """How to start one daemon in the foreground."""

    name: str
    argv: tuple[str, ...]
    log: Path
    """Gets stdout and stderr, appended."""
    env: Mapping[str, str] = field(default_factory=dict)
    """The whole environment."""
    pid_file: Path | None = None
    """For a daemon that may replace itself (slurmctld from 23.11 on, at a reconfigure): says which process goes on."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a configuration file."""
        return asdict(self) | {
            "argv": list(self.argv),
            "log": str(self.log),
            "pid_file": self.pid_file and str(self.pid_file),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ComponentSpec":
        """Read what `to_json` wrote."""
        pid_file = data["pid_file"]
        return cls(
            name=data["name"],
            argv=tuple(data["argv"]),
            log=Path(data["log"]),
            env=dict(data["env"]),
            pid_file=Path(pid_file) if pid_file else None,
        )


class Component:
    """One daemon. `lock` is the supervisor's: the reaper must not run between a fork and our knowing the pid."""

    def __init__(self, spec: ComponentSpec, lock: threading.RLock) -> None:
        self.spec = spec
        self._changed = threading.Condition(lock)
        self._pid: int | None = None
        self._exit: int | None = None
        self._asked = False
        self._starts = 0
        self._extra_env: dict[str, str] = {}

    def start(self, env: Mapping[str, str]) -> None:
        """Start it in a session of its own; `env` stays set for later starts. Raises ComponentError."""
        with self._changed:
            if self._pid is not None:
                raise ComponentError(f"{self.spec.name} runs already")
            self._extra_env.update(env)
            try:
                with self.spec.log.open("ab") as log:
                    process = subprocess.Popen(
                        self.spec.argv,
                        env={**self.spec.env, **self._extra_env},
                        cwd="/",
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
            except OSError as fault:
                raise ComponentError(f"{self.spec.name} does not start: {fault}") from fault
            process.returncode = 0  # the supervisor reaps; Popen must neither wait nor warn
            self._pid, self._exit, self._asked = process.pid, None, False
            self._starts += 1

    def stop(self, timeout_s: float) -> None:
        """Send TERM, wait, send KILL after `timeout_s`. Harmless where it does not run."""
        with self._changed:
            self._asked = True
            self._signal(signal.SIGTERM)
            if not self._changed.wait_for(lambda: self._pid is None, timeout_s):
                self.kill(signal.SIGKILL)

    def kill(self, number: int) -> None:
        """Send a signal; for SIGKILL, wait until it is gone. Raises ComponentError where it does not run."""
        with self._changed:
            if self._pid is None:
                raise ComponentError(f"{self.spec.name} does not run")
            self._asked = True
            self._signal(number)
            if number == signal.SIGKILL and not self._changed.wait_for(lambda: self._pid is None, 10.0):
                raise ComponentError(f"{self.spec.name} does not die")

    def reaped(self, pid: int, exit_code: int) -> None:
        """Note that process `pid` of the namespace has ended, if it is ours (the lock is held by the caller)."""
        if pid != self._pid:
            return
        self._pid = self._successor(pid)
        if self._pid is None:
            self._exit = exit_code
        self._changed.notify_all()

    def status(self) -> dict[str, Any]:
        """Return `state` (never_started, running, exited), `pid` (in the namespace), `exit` (code, or minus the signal),
        `asked` (whether its end was asked for) and `starts`.
        """
        with self._changed:
            state = "running" if self._pid is not None else "exited" if self._starts else "never_started"
            return {"state": state, "pid": self._pid, "exit": self._exit, "asked": self._asked, "starts": self._starts}

    def _signal(self, number: int) -> None:
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)

    def _successor(self, ended: int) -> int | None:
        """Return the pid that the daemon's pid file names, if it is another living process of the same program."""
        if self.spec.pid_file is None or self._asked:
            return None
        try:
            pid = int(self.spec.pid_file.read_text(encoding="ascii"))
            program = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        return pid if pid != ended and program == Path(self.spec.argv[0]).name[:15] else None
