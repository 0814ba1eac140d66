"""The journal's entries on one node or job, as people want to read them: what came of a command beside the command."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast_controller.journal import Journal
from holdfast_controller.journal_reader import Entry

MAX_NODES = 8
"""So many of a job's nodes are asked for their notices, the newest first."""
FINISHED = "CommandFinished"
NOTICES = frozenset({"NoticeReceived", "NoticeWithdrawn"})
HOLDS_NODES = frozenset({"RUNNING", "CONFIGURING", "SUSPENDED"})


@dataclass(frozen=True, slots=True)
class Line:
    """An entry, and what came of it where it is a command: empty while that is unknown, else `ok`, `failed: …`."""

    entry: Entry
    outcome: str = ""


async def history_of(journal: Journal, ref: str, limit: int) -> list[Line]:
    """Return the newest `limit` lines about `ref` (`node:NAME` or `job:ID`), oldest first; a job's nodes bring their notices along."""
    entries = await journal.read(0, ref, newest=4 * limit)
    if ref.startswith("job:") and entries:
        entries = sorted([*entries, *await _notices(journal, entries)], key=lambda entry: entry.seq)
    return folded(entries)[-limit:]


def folded(entries: Iterable[Entry]) -> list[Line]:
    """Put each outcome beside its command. An outcome whose command is not among the entries stays a line of its own."""
    lines: list[Line] = []
    at: dict[int, int] = {}
    for entry in entries:
        command_id = _body(entry).get("command_id")
        place = at.get(command_id) if isinstance(command_id, int) else None
        if entry.kind == FINISHED and place is not None:
            lines[place] = Line(lines[place].entry, entry.text)
            continue
        if isinstance(command_id, int):
            at[command_id] = len(lines)
        lines.append(Line(entry, entry.text if entry.kind == FINISHED else ""))
    return lines


async def _notices(journal: Journal, entries: Sequence[Entry]) -> list[Entry]:
    """Return the notices that came for a node while the job was on it."""
    stays = [(entry.seq, _nodes(entry)) for entry in entries if entry.kind == "JobChanged"]
    names = list(dict.fromkeys(node for _, nodes in reversed(stays) for node in nodes))[:MAX_NODES]
    found: list[Entry] = []
    for name in names:
        for entry in await journal.read(entries[0].seq, f"node:{name}", newest=200):
            last = max((stay for stay in stays if stay[0] < entry.seq), default=(0, ()))
            if entry.kind in NOTICES and name in last[1]:
                found.append(entry)
    return found


def _nodes(entry: Entry) -> tuple[str, ...]:
    view = _body(entry).get("view")
    if not isinstance(view, dict) or view.get("state") not in HOLDS_NODES:
        return ()
    return tuple(ref.removeprefix("node:") for ref in entry.refs if ref.startswith("node:"))


def _body(entry: Entry) -> dict[str, Any]:
    try:
        body = json.loads(entry.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
