"""A list of things that can be asked for once or watched: nodes, jobs."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from holdfast_common.clock import Clock, SystemClock

from holdfast_controller.cli.app import UNREACHABLE
from holdfast_controller.cli.connection import CALL_TIMEOUT_S, ask, failure
from holdfast_controller.cli.output import Row, for_people, note, plain_table, print_json, print_table, rich_table

WATCH_EVERY_S = 1.0
YOUNG = "The controller has just started and has not looked at Slurm and every cloud yet: this may be incomplete."


@dataclass(frozen=True)
class Listing:
    """How one kind of thing is asked for and shown."""

    key: str
    """Its name in the JSON document: `{"nodes": […]}`."""
    headers: Sequence[str]
    empty: str
    """What is said where there is none."""
    fetch: Callable[[Any], Awaitable[Sequence[Any]]]
    row: Callable[[Any, float], Row]
    record: Callable[[Any], dict[str, Any]]

    def document(self, items: Sequence[Any]) -> dict[str, Any]:
        """Return the JSON document."""
        return {self.key: [self.record(item) for item in items]}

    def rows(self, items: Sequence[Any], now: float) -> list[Row]:
        """Return the table's rows."""
        return [self.row(item, now) for item in items]


def show(listing: Listing, socket: Path, *, as_json: bool, watch: bool) -> None:
    """Print the list, once or whenever it changes. Raises CliError."""
    clock = SystemClock()
    if not watch:
        items, reconciled = ask(socket, lambda stub: _once(listing, stub))
        if as_json:
            print_json(listing.document(items))
            return
        if items:
            print_table(listing.headers, listing.rows(items, clock.now()))
        else:
            note(listing.empty)
        if not reconciled:
            note(YOUNG)
    elif for_people() and not as_json:
        ask(socket, lambda stub: _watch_live(listing, stub, socket, clock))
    else:
        ask(socket, lambda stub: _watch_lines(listing, stub, socket, clock, as_json=as_json))


async def _once(listing: Listing, stub: Any) -> tuple[Sequence[Any], bool]:
    from holdfast_protos.v1 import admin_pb2

    items = await listing.fetch(stub)
    ping = await stub.Ping(admin_pb2.PingRequest(), timeout=CALL_TIMEOUT_S)
    return items, ping.reconciled


async def _again(listing: Listing, stub: Any, socket: Path) -> Sequence[Any] | str:
    """Return the items, or why the controller cannot be reached: a watch outlasts its restart."""
    import grpc.aio

    try:
        return await listing.fetch(stub)
    except grpc.aio.AioRpcError as error:
        said = failure(error, socket)
        if said.code != UNREACHABLE:
            raise
        return str(said)


async def _watch_live(listing: Listing, stub: Any, socket: Path, clock: Clock) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    items, trouble = await listing.fetch(stub), ""
    with Live(auto_refresh=False) as live:
        while True:
            table = rich_table(listing.headers, listing.rows(items, clock.now())) if items else Text(listing.empty)
            live.update(Group(table, Text(trouble, style="red")) if trouble else table, refresh=True)
            await clock.sleep(WATCH_EVERY_S)
            found = await _again(listing, stub, socket)
            items, trouble = (items, f"This is old: {found}") if isinstance(found, str) else (found, "")


async def _watch_lines(listing: Listing, stub: Any, socket: Path, clock: Clock, *, as_json: bool) -> None:
    items: Sequence[Any] | str = await listing.fetch(stub)
    shown: Any = None
    while True:
        seen = items if isinstance(items, str) else [_lasting(item) for item in items]
        if seen != shown:
            _print(listing, items, clock.now(), as_json=as_json)
        shown = seen
        await clock.sleep(WATCH_EVERY_S)
        items = await _again(listing, stub, socket)


def _print(listing: Listing, items: Sequence[Any] | str, now: float, *, as_json: bool) -> None:
    if isinstance(items, str):
        note(items)
    elif as_json:
        print_json(listing.document(items))
    else:
        typer.echo(plain_table(listing.headers, listing.rows(items, now)) + "\n" if items else listing.empty)


def _lasting(item: Any) -> Any:
    """Return the item without its sentence, which counts seconds and so differs each time."""
    copy = type(item)()
    copy.CopyFrom(item)
    copy.reason = ""
    return copy
