"""`holdfast health replay`: what rules would have found in a recording of a node, and what would have been done. Needs no controller."""

import itertools
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast_controller.cli.app import FAILED, CliError, Json, reported
from holdfast_controller.cli.output import Cell, Row, note, print_json, print_table

if TYPE_CHECKING:
    from holdfast_common.health.replay import Change, Replay
    from holdfast_common.health.rules import Rules

HEADERS = ("WHEN", "WHAT", "RULE", "GPU", "ACTION", "THE NODE", "SEEN")
NODE_WORDS = {
    "note": "goes on",
    "drain": "no new job; goes after its jobs",
    "evacuate": "jobs save and leave; replaced",
    "replace": "jobs save and leave; replaced at once",
}
"""A node's gravest action → what would have been done."""
EPOCH_S = 1e8
"""Smaller times are seconds since boot, as dmesg prints them."""
MOST_CHANGES = 10_000
READ_CHARS = 65_537
"""One more than a line of a recording may have."""


def replay(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A recording: JSON lines, or what dmesg or journalctl -k prints. - is stdin.")
    ],
    rules: Annotated[str, typer.Option("--rules", metavar="FILE", help="Judge by this table; else by the one that Holdfast brings.")] = "",
    as_json: Json = False,
    strict: Annotated[bool, typer.Option("--strict", help="End 1 where a line of the recording is not understood.")] = False,
) -> None:
    """Judge a recording of a node, and show what would have been done, and when. Needs no controller and no GPU.

    \b
    Examples:
      journalctl -k -o short-iso | holdfast health replay -
      holdfast health replay kernel.log --rules rules.toml
      holdfast health replay recording.jsonl --json | jq '.changes[] | [.at, .what, .rule, .action]'
    """
    with reported("health replay", as_json=as_json):
        from holdfast_common.health.replay import Replay

        table = _rules(rules)
        done = Replay(table)
        changes = list(itertools.islice(done.run(_lines(file)), MOST_CHANGES + 1))
        cut = len(changes) > MOST_CHANGES
        if as_json:
            print_json(_document(table, done, changes[:MOST_CHANGES], cut=cut))
        else:
            _print(table, done, changes[:MOST_CHANGES])
        for number, fault in [] if as_json else done.bad_lines:
            note(f"line {number}: {fault}")
        if cut:
            note(f"There are more than {MOST_CHANGES} changes: the rest of the recording was not judged.")
        if cut or (strict and done.bad):
            raise typer.Exit(FAILED)


def _rules(file: str) -> "Rules":
    from holdfast_common.errors import ConfigError
    from holdfast_common.health.rules import default_rules, parse_rules
    from holdfast_common.settings import read_text

    try:
        return parse_rules(read_text(file), file) if file else default_rules()
    except ConfigError as error:
        raise CliError(str(error)) from error


def _lines(file: str) -> Iterator[str]:
    """Yield the file's lines; one that is too long is cut, and still too long for a recording."""
    if file == "-":
        yield from _pieces(sys.stdin.buffer)
        return
    try:
        with open(file, "rb") as opened:
            yield from _pieces(opened)
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}") from error


def _pieces(opened: Any) -> Iterator[str]:
    while line := opened.readline(READ_CHARS):
        rest = line
        while len(rest) == READ_CHARS and not rest.endswith(b"\n"):
            rest = opened.readline(READ_CHARS)
        yield line.decode(errors="backslashreplace")


def _print(table: "Rules", done: "Replay", changes: list["Change"]) -> None:
    if changes:
        print_table(HEADERS, [_row(change) for change in changes])
    span = f"{moment(done.began_at)} to {moment(done.now)}" if done.began_at is not None else "no time"
    what = f"{done.lines} lines, {done.events} GPU events, {done.readings} readings"
    bad = f", {done.bad} lines not understood" if done.bad else ""
    none = "" if changes else "Nothing would have been found. "
    note(f"{none}{span}: {what}{bad}; rules {table.revision}.")


def _row(change: "Change") -> Row:
    found = change.finding
    return (
        Cell(moment(change.at)),
        Cell(change.what, "green" if change.what == "ended" else "red"),
        Cell(found.rule, "bold"),
        Cell(found.gpu),
        Cell(f"{found.action}{' (dry run)' if found.dry_run else ''}{f', strike {found.strikes}' if found.strikes > 1 else ''}"),
        Cell(NODE_WORDS[change.node] if change.node is not None else "well"),
        Cell(found.text),
    )


def moment(at: float) -> str:
    """Return local time, `2026-11-28 09:15:04`; seconds since boot, `[412.5]`, where the recording has no more."""
    return f"[{at:.3f}]" if at < EPOCH_S else datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")


def _document(table: "Rules", done: "Replay", changes: list["Change"], *, cut: bool) -> dict[str, Any]:
    return {
        "revision": table.revision,
        "began_at": done.began_at,
        "ended_at": done.now if done.began_at is not None else None,
        "lines": done.lines,
        "events": done.events,
        "readings": done.readings,
        "bad_lines": done.bad,
        "faults": [{"line": number, "fault": fault} for number, fault in done.bad_lines],
        "cut": cut,
        "changes": [_record(change) for change in changes],
    }


def _record(change: "Change") -> dict[str, Any]:
    found = change.finding
    return {
        "at": change.at,
        "what": change.what,
        "rule": found.rule,
        "gpu": found.gpu or None,
        "action": str(found.action),
        "dry_run": found.dry_run,
        "strikes": found.strikes,
        "job_ids": list(found.job_ids),
        "text": found.text,
        "node": str(change.node) if change.node is not None else None,
    }
