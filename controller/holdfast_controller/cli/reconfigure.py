"""`holdfast reconfigure`: `scontrol reconfigure` with no job's start waiting in slurmctld."""

from typing import Any

import typer

from holdfast_controller.cli.app import DEFAULT_SOCKET, EXIT_CODES, Json, Socket, make_app, reported
from holdfast_controller.cli.connection import ask
from holdfast_controller.cli.output import print_json

app = make_app()
TIMEOUT_S = 60.0
"""slurmctld may be busy for seconds; the controller's own time limit for a command of Slurm ends first."""


@app.command(epilog=EXIT_CODES)
def reconfigure(
    socket: Socket = DEFAULT_SOCKET,  # type: ignore[assignment]  # typer converts it
    as_json: Json = False,
) -> None:
    """Have Slurm read slurm.conf again. Use it in the place of `scontrol reconfigure`.

    Jobs that wait for their nodes at PrologSlurmctld are sent on first, since slurmctld would kill that wait; they start at
    slurmctld's own look, at most 30 seconds after their nodes are up.
    """
    with reported("reconfigure", as_json=as_json):
        released = ask(socket, _reconfigure)
        if as_json:
            print_json({"gates_released": released})
        else:
            sent_on = f"; {released} waiting job(s) were sent on before" if released else ""
            typer.echo(f"Slurm has read its configuration again{sent_on}.")


async def _reconfigure(stub: Any) -> int:
    from holdfast_protos.v1 import admin_pb2

    reply = await stub.Reconfigure(admin_pb2.ReconfigureRequest(), timeout=TIMEOUT_S)
    return int(reply.gates_released)
