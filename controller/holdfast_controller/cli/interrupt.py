"""`holdfast interrupt`: evacuate a node as if the cloud had given notice."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from holdfast_common.clock import Clock, SystemClock

from holdfast_controller.cli.app import DEFAULT_SOCKET, EXIT_CODES, FAILED, Json, Socket, make_app, reported
from holdfast_controller.cli.connection import CALL_TIMEOUT_S, ask
from holdfast_controller.cli.output import Cell, note, print_json, print_line
from holdfast_controller.cli.stream import body_of, event_cells, follow, newest_seq
from holdfast_controller.cli.text import age, clean, clock_time
from holdfast_controller.cli.waiting import Progress

app = make_app()
TICK_S = 0.5


@app.command(epilog=EXIT_CODES)
def interrupt(
    node: Annotated[str, typer.Argument(metavar="NODE", help="A node that is up.")],
    notice: Annotated[float, typer.Option(metavar="SECONDS", min=0, max=86_400, help="Time that its jobs have to save.")] = 120.0,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Stay until its jobs run again; fails (1) where one is lost.")] = False,
    socket: Socket = DEFAULT_SOCKET,  # type: ignore[assignment]  # typer converts it
    as_json: Json = False,
) -> None:
    """Give a node up: its jobs save, are requeued and go on elsewhere, and the node is powered down.

    The same happens as on a notice of the cloud. Ctrl-C ends only the waiting.

    \b
    Examples:
      holdfast interrupt spot-1
      holdfast interrupt spot-1 --notice 30 --reason 'new image' --wait
    """
    with reported("interrupt", as_json=as_json):
        done = ask(socket, lambda stub: _interrupt(stub, socket, node, notice, reason, wait=wait, as_json=as_json))
        if not done:
            raise typer.Exit(FAILED)


async def _interrupt(stub: Any, socket: Path, node: str, notice_s: float, reason: str, *, wait: bool, as_json: bool) -> bool:
    from holdfast_protos.v1 import admin_pb2

    clock = SystemClock()
    before = await _attempts(stub, node)
    seq = await newest_seq(stub)
    began = clock.now()
    reply = await stub.Interrupt(admin_pb2.InterruptRequest(node=node, notice_s=notice_s, reason=reason), timeout=CALL_TIMEOUT_S)
    attempts = {**await _attempts(stub, node), **before}
    result: dict[str, Any] = {"node": node, "notice_id": reply.notice_id, "deadline": began + notice_s, "job_ids": sorted(attempts)}
    tell: Callable[[str], None] = note if as_json else typer.echo
    on_it = f"job {', '.join(str(job) for job in sorted(attempts))} on it must leave" if attempts else "no job is on it"
    tell(clean(f"{node} goes away in {age(notice_s)}; {on_it}."))
    if not wait:
        if as_json:
            print_json(result)
        return True
    progress = Progress(node, attempts)
    await _wait(stub, socket, seq, progress, clock, quiet=as_json)
    jobs = [{"job_id": job_id, **outcome} for job_id, outcome in sorted(progress.outcomes.items())]
    if as_json:
        print_json({**result, "jobs": jobs, "seconds": round(clock.now() - began, 3)})
    for job in jobs:
        where = f" again on {', '.join(job['nodes'])}" if job["nodes"] else ""
        tell(clean(f"job {job['job_id']} is {job['state']}{where}, {age(job['at'] - began)} after the notice."))
    return progress.well


async def _attempts(stub: Any, node: str) -> dict[int, int]:
    """Return the jobs on a node, each with its attempt."""
    from holdfast_protos.v1 import admin_pb2

    nodes = await stub.ListNodes(admin_pb2.ListNodesRequest(names=[node]), timeout=CALL_TIMEOUT_S)
    ids = set(nodes.nodes[0].job_ids)
    jobs = await stub.ListJobs(admin_pb2.ListJobsRequest(), timeout=CALL_TIMEOUT_S)
    return {job.job_id: job.attempt for job in jobs.jobs if job.job_id in ids}


async def _wait(stub: Any, socket: Path, seq: int, progress: Progress, clock: Clock, *, quiet: bool) -> None:
    """Return when every job runs again or is over; what concerns the node and its jobs is told on the way."""
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def read() -> None:
        async for event in follow(stub, seq, clock, socket, note):
            queue.put_nowait(event)

    reader = asyncio.create_task(read())
    try:
        while not progress.finished:
            getter = asyncio.create_task(queue.get())
            done, _ = await asyncio.wait({getter, reader}, timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
            if getter in done:
                _take(getter.result(), progress, clock, quiet=quiet)
            else:
                getter.cancel()
            if reader in done:
                reader.result()
            progress.tick(clock.now())
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


def _take(event: Any, progress: Progress, clock: Clock, *, quiet: bool) -> None:
    body = body_of(event)
    progress.see(event.kind, body, event.at)
    if not quiet and progress.concerns(body):
        print_line((Cell(clock_time(event.at, clock.now()), "dim"), *event_cells(event)), (0, 18))
