"""`holdfast explain`: why a job or a node is as it is, in a sentence, and the history behind it."""

from pathlib import Path
from typing import Annotated, Any

import typer
from holdfast_common.clock import SystemClock

from holdfast_controller.cli.app import DEFAULT_SOCKET, EXIT_CODES, Json, Socket, job_number, make_app, reported
from holdfast_controller.cli.connection import CALL_TIMEOUT_S, ask
from holdfast_controller.cli.output import Cell, print_json, print_table
from holdfast_controller.cli.stream import event_cells, event_record
from holdfast_controller.cli.text import clean, moment

app = make_app(
    """Say why a job or a node is as it is, and what led there.

    \b
    Examples:
      holdfast explain job 12
      holdfast explain node spot-1
    """
)


@app.command(epilog=EXIT_CODES)
def job(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="A job id: 12, or 12_3 of an array.")],
    socket: Socket = DEFAULT_SOCKET,  # type: ignore[assignment]  # typer converts it
    as_json: Json = False,
) -> None:
    """Explain a job: what it does or waits for, then what happened, when, and why.

    \b
    Example:
      holdfast explain job 12
    """
    with reported("explain", as_json=as_json):
        _explain(socket, as_json=as_json, job=job_id)


@app.command(epilog=EXIT_CODES)
def node(
    name: Annotated[str, typer.Argument(metavar="NODE", help="A node's name.")],
    socket: Socket = DEFAULT_SOCKET,  # type: ignore[assignment]  # typer converts it
    as_json: Json = False,
) -> None:
    """Explain a node: its instance, what it waits for, then what happened, when, and why.

    \b
    Example:
      holdfast explain node spot-1
    """
    with reported("explain", as_json=as_json):
        _explain(socket, as_json=as_json, node=name)


def _explain(socket: Path, *, as_json: bool, job: str = "", node: str = "") -> None:
    task = "_" in job
    job_id = 0 if node or task else job_number(job)

    async def talk(stub: Any) -> Any:
        from holdfast_protos.v1 import admin_pb2

        number = job_id
        if task:
            listed = await stub.ListJobs(admin_pb2.ListJobsRequest(ids=[job]), timeout=CALL_TIMEOUT_S)
            number = listed.jobs[0].job_id
        return await stub.Explain(admin_pb2.ExplainRequest(node=node, job_id=number), timeout=CALL_TIMEOUT_S)

    reply = ask(socket, talk)
    if as_json:
        print_json({"summary": reply.summary, "history": [event_record(event) for event in reply.history]})
        return
    typer.echo(clean(reply.summary))
    if reply.history:
        now = SystemClock().now()
        typer.echo()
        print_table(("WHEN", "WHAT", "WHY"), [(Cell(moment(event.at, now), "dim"), *event_cells(event)) for event in reply.history])
