"""The directory through which a job and its node talk: what the node's agent writes and the job reads.

`$HOLDFAST_JOB_DIR/node/context.json` and `node/notice.json`: JSON objects with `"v": 1`, at most 64 KiB, replaced as a
whole. Unknown keys are ignored; a wrong type makes the file void, which is reported and otherwise as if it were absent.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import ProtocolError
from holdfast.files import read_bounded

VARIABLE = "HOLDFAST_JOB_DIR"
SAVE = "save"
SAVE_AND_PARK = "save_and_park"
_NO_DEADLINE_S = 600.0
_MOST_NODES = 4096


@dataclass(frozen=True)
class Notice:
    """The agent's word that this node goes away (or may). Times are Unix seconds; `deadline` None: it named none.

    `kind` is one of preempt, maintenance, health, yield, drain, advise (newer kinds may come); `action` is `save` (save
    early and go on) or `save_and_park`.
    """

    id: str
    kind: str
    deadline: float | None
    received: float
    reason: str
    action: str

    @property
    def key(self) -> tuple[str, str]:
        """What makes it a new notice: another id, or more asked for under the same one."""
        return self.id, self.action

    @property
    def ends(self) -> float:
        """The deadline, or ten minutes after it was received where the cloud named none."""
        return self.received + _NO_DEADLINE_S if self.deadline is None else self.deadline


@dataclass(frozen=True)
class Context:
    """What the node knows of the job. What the agent has not added (yet) is None, `nodes` empty.

    `market` is "spot" or "on_demand"; `window_s` the seconds of notice that the provider gives at best; `age_s` the instance's age when
    the file was first written, in seconds; `hazard_per_h` the expected losses of this node per hour, as of now.
    """

    job_id: str
    attempt: int
    node: str
    nodes: tuple[str, ...] = ()
    market: str | None = None
    window_s: float | None = None
    age_s: float | None = None
    hazard_per_h: float | None = None


def _object(data: bytes, name: str) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as fault:
        raise ProtocolError(f"{name}: not JSON") from fault
    if not isinstance(content, dict) or type(content.get("v")) is not int or content["v"] != 1:
        raise ProtocolError(f"{name}: not an object with v 1")
    return content


def _string(content: dict[str, Any], key: str, name: str, limit: int = 200) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= limit:
        raise ProtocolError(f"{name}: {key} is not a string of 1 to {limit} characters")
    return value


def _number(content: dict[str, Any], key: str, name: str) -> float:
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ProtocolError(f"{name}: {key} is not a number")
    return float(value)


def _optional(content: dict[str, Any], key: str, name: str, most: float) -> float | None:
    """A number from 0 to `most`; None where the key is absent or null."""
    if content.get(key) is None:
        return None
    value = _number(content, key, name)
    if not 0.0 <= value <= most:
        raise ProtocolError(f"{name}: {key} is not between 0 and {most:g}")
    return value


def _names(content: dict[str, Any], key: str, name: str) -> tuple[str, ...]:
    value = content.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > _MOST_NODES or not all(isinstance(each, str) for each in value):
        raise ProtocolError(f"{name}: {key} is not a list of at most {_MOST_NODES} strings")
    return tuple(each[:256] for each in value)


def parse_notice(data: bytes) -> Notice:
    """Read notice.json's content, strictly. Raises ProtocolError."""
    name = "notice.json"
    content = _object(data, name)
    action = _string(content, "action", name)
    if action not in (SAVE, SAVE_AND_PARK):
        raise ProtocolError(f"{name}: action is neither {SAVE} nor {SAVE_AND_PARK}")
    reason = content.get("reason", "")
    if not isinstance(reason, str):
        raise ProtocolError(f"{name}: reason is not a string")
    return Notice(
        id=_string(content, "id", name),
        kind=_string(content, "kind", name),
        deadline=None if content.get("deadline") is None else _number(content, "deadline", name),
        received=_number(content, "received", name),
        reason=reason[:1000],
        action=action,
    )


def parse_context(data: bytes) -> Context:
    """Read context.json's content; job_id may be a number or a string. Raises ProtocolError."""
    name = "context.json"
    content = _object(data, name)
    job_id, attempt = content.get("job_id"), content.get("attempt")
    if isinstance(job_id, bool) or not isinstance(job_id, str | int) or type(attempt) is not int or attempt < 0:
        raise ProtocolError(f"{name}: job_id or attempt has a wrong type")
    return Context(
        job_id=str(job_id)[:200],
        attempt=attempt,
        node=_string(content, "node", name, 256),
        nodes=_names(content, "nodes", name),
        market=None if content.get("market") is None else _string(content, "market", name, 256),
        window_s=_optional(content, "window_s", name, 1e9),
        age_s=_optional(content, "age_s", name, 1e9),
        hazard_per_h=_optional(content, "hazard_per_h", name, 1e6),
    )


class NoticeFile:
    """notice.json, polled: one lstat (about 3 µs) where nothing has changed."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn = warn
        self._signature: tuple[int, int, int] | None = None
        self._notice: Notice | None = None

    def poll(self) -> Notice | None:
        """The notice that stands in the file now; None without one. A malformed file is reported once and changes nothing: a notice that
        was read before stands.

        A file that is gone was withdrawn; where its directory is gone as well, the attempt is being ended, and the notice stands.
        """
        try:
            status = os.lstat(self._path)
        except OSError:
            if self._notice is not None and self._path.parent.is_dir():
                self._notice = self._signature = None
            return self._notice
        signature = (status.st_mtime_ns, status.st_ino, status.st_size)
        if signature != self._signature:
            self._signature = signature
            try:
                self._notice = parse_notice(read_bounded(self._path))
            except FileNotFoundError:
                self._signature = None
            except ProtocolError as fault:
                self._warn(f"ignoring a malformed notice: {fault}")
        return self._notice


class ContextFile:
    """context.json, polled: one lstat where nothing has changed. The agent writes it again when it learns more, or the hazard changes."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn = warn
        self._signature: tuple[int, int, int] | None = None
        self._context: Context | None = None

    def poll(self) -> Context | None:
        """The newest content that was well-formed; None while there was none. A malformed file is reported once and changes nothing."""
        try:
            status = os.lstat(self._path)
        except OSError:
            return self._context
        signature = (status.st_mtime_ns, status.st_ino, status.st_size)
        if signature != self._signature:
            self._signature = signature
            try:
                self._context = parse_context(read_bounded(self._path))
            except FileNotFoundError:
                self._signature = None
            except ProtocolError as fault:
                self._warn(f"ignoring a malformed context: {fault}")
        return self._context


@dataclass(frozen=True)
class JobDirectory:
    """`$HOLDFAST_JOB_DIR` of this node."""

    path: Path

    @staticmethod
    def find(environ: Mapping[str, str], warn: Callable[[str], None]) -> "JobDirectory | None":
        """The directory that TaskProlog told us of; None outside Holdfast (a laptop, an unmanaged partition)."""
        text = environ.get(VARIABLE, "")
        if not text:
            return None
        found = JobDirectory(Path(text))
        if not os.access(found.reports, os.W_OK | os.X_OK):
            warn(f"{VARIABLE}={text} has no directory job/ that can be written: going on without notices")
            return None
        return found

    @property
    def reports(self) -> Path:
        """Where the job writes."""
        return self.path / "job"

    @property
    def notice(self) -> Path:
        """Where the agent writes the notice."""
        return self.path / "node" / "notice.json"

    @property
    def context_file(self) -> Path:
        """Where Prolog, and then the agent, write what the node knows of the job."""
        return self.path / "node" / "context.json"
