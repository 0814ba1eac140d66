"""What the wrapper tells the node about the command, unless the command speaks for itself."""

import json
import signal
from collections.abc import Mapping
from typing import Any

from holdfast import process
from holdfast.board import Board, say
from holdfast.clock import Clock
from holdfast.files import read_bounded
from holdfast.jobdir import JobDirectory

WAKE = signal.SIGURG
"""Has the wrapper look at the notice. USR1 and USR2 are left for the command: they are passed on."""


class Voice:
    """Rank and status file of one wrapper. A command that uses the library registers under the same rank: then the wrapper is silent."""

    def __init__(self, jobdir: JobDirectory | None, environ: Mapping[str, str], clock: Clock, pid: int) -> None:
        self.place, self.job = process.place(environ), process.job(environ)
        self._board = Board(jobdir, self.place, self.job, clock)
        self._path = None if jobdir is None else jobdir.reports / f"rank.{self.place.rank}.json"
        self._pid = pid
        self.heard = jobdir is not None
        self._registered = False

    def register(self) -> None:
        """Be told and waited for from now on."""
        self._board.register(int(WAKE))
        self._registered = True

    @property
    def silent(self) -> bool:
        """Whether the rank's file is another process's: the command has registered by itself."""
        if self._path is None or not self._registered:
            return False
        try:
            pid = json.loads(read_bounded(self._path)).get("pid")
        except (OSError, ValueError, RuntimeError, AttributeError):
            return False
        return type(pid) is int and pid != self._pid

    def note(self, notice_id: str) -> None:
        """The notice that is being answered."""
        if not self.silent:
            self._board.note(notice_id)

    def state(self, state: str, *, rank: dict[str, Any] | None = None, **status: Any) -> None:
        """A new state, at once."""
        if not self.silent:
            self._board.state(state, rank=rank, **status)

    def warn(self, text: str) -> None:
        """Tell the user and, unless the command speaks for itself, whoever reads status.json."""
        if self.silent:
            say(text)
        else:
            self._board.warn(text)
