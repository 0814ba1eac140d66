"""Where a hook says what went wrong: the system log, a file of its own if it was given one, and standard error.

A hook's own output is thrown away by slurmctld, so a line here is all that an admin will ever see of it.
"""

import os
import syslog
import time
from pathlib import Path

_FILE_LIMIT_BYTES = 1 << 20
_LINE_LIMIT = 2000


class HookLog:
    """Writes whole lines, never raises, never blocks on the file's readers."""

    def __init__(self, hook: str, path: Path | None = None) -> None:
        self._hook = hook
        self._file: int | None = None if path is None else _open(path)
        syslog.openlog(f"holdfast-{hook}", syslog.LOG_PID, syslog.LOG_DAEMON)

    def note(self, text: str) -> None:
        """Write one line everywhere; control characters are replaced and long text is cut."""
        clean = _clean(text)
        self.emergency(clean)
        syslog.syslog(syslog.LOG_WARNING, clean)

    def emergency(self, text: str) -> None:
        """Write one line to the file and to standard error only: the system log may be what hangs."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = f"{stamp} {self._hook}[{os.getpid()}]: {_clean(text)}\n".encode(errors="replace")
        for descriptor in (self._file, 2):
            if descriptor is None:
                continue
            try:
                os.write(descriptor, line)
            except OSError:
                continue


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:_LINE_LIMIT])


def _open(path: Path) -> int | None:
    """Open the log for appending; what grew beyond the limit is kept as `.1`, once."""
    try:
        if path.stat().st_size > _FILE_LIMIT_BYTES:
            path.replace(path.with_name(path.name + ".1"))
    except OSError:
        pass  # not there yet, or another hook moved it at the same moment
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
    except OSError:
        return None
