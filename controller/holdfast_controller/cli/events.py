"""`holdfast events`: what happened and what was ordered, as it is in the journal."""

from pathlib import Path
from typing import Annotated, Any

import typer
from holdfast_common.clock import Clock, SystemClock

from holdfast_controller.cli.app import DEFAULT_SOCKET, EXIT_CODES, USAGE, CliError, Json, Socket, job_number, make_app, reported
from holdfast_controller.cli.connection import ask
from holdfast_controller.cli.output import Cell, note, print_json, print_line
from holdfast_controller.cli.stream import MAX_EVENTS, event_cells, event_record, follow, newest_seq, past
from holdfast_controller.cli.text import clock_time, moment

app = make_app()
WHAT_WIDTH = 18


@app.command(epilog=EXIT_CODES)
def events(
    stay: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens, also over a restart of the controller.")] = False,
    node: Annotated[str, typer.Option(metavar="NODE", help="Only what concerns this node.")] = "",
    job: Annotated[str, typer.Option(metavar="ID", help="Only what concerns this job.")] = "",
    last: Annotated[int, typer.Option(metavar="N", min=0, max=MAX_EVENTS, help="So many of the newest.")] = 20,
    socket: Socket = DEFAULT_SOCKET,  # type: ignore[assignment]  # typer converts it
    as_json: Json = False,
) -> None:
    """Show events and commands, the newest last. With --json one object per line.

    \b
    Examples:
      holdfast events --last 100
      holdfast events --follow --node spot-1
      holdfast events --follow --last 0 --json | jq -r 'select(.kind == "NoticeReceived") | .text'
    """
    with reported("events", as_json=as_json, on_interrupt=0 if stay else 130):
        if node and job:
            raise CliError("--node and --job exclude each other", USAGE)
        job_id = job_number(job) if job else 0
        ask(socket, lambda stub: _events(stub, socket, node, job_id, last=last, stay=stay, as_json=as_json))


async def _events(stub: Any, socket: Path, node: str, job_id: int, *, last: int, stay: bool, as_json: bool) -> None:
    clock = SystemClock()
    newest = await newest_seq(stub) if stay else 0
    found = await past(stub, node=node, job_id=job_id, last=last)
    for event in found:
        _print(event, clock, as_json=as_json, live=False)
    if not stay:
        if not found and last:
            note("The journal has no such event.")
        return
    newest = max([newest, *(event.seq for event in found)])
    async for event in follow(stub, newest, clock, socket, _aside, node=node, job_id=job_id):
        _print(event, clock, as_json=as_json, live=True)


def _aside(text: str) -> None:
    note(f"holdfast events: {text}")


def _print(event: Any, clock: Clock, *, as_json: bool, live: bool) -> None:
    if as_json:
        print_json(event_record(event))
        return
    now = clock.now()
    when = clock_time(event.at, now) if live else moment(event.at, now)
    print_line((Cell(when, "dim"), *event_cells(event)), (0, WHAT_WIDTH))
