"""`holdfast jobs`: the jobs of managed partitions, how far they are, and what they wait for."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from holdfast_controller.cli.app import DEFAULT_SOCKET, EXIT_CODES, Json, Socket, Watch, make_app, reported
from holdfast_controller.cli.connection import CALL_TIMEOUT_S
from holdfast_controller.cli.listing import Listing, show
from holdfast_controller.cli.output import STYLES, Cell, Row

app = make_app()
HEADERS = ("JOB", "USER", "PARTITION", "STATE", "PHASE", "NODES", "ATTEMPT", "STEP", "SAVED", "INTERRUPTED", "WHY")


@app.command(epilog=EXIT_CODES)
def jobs(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Job ids: 12, or 12_3 of an array; without: all.")] = None,
    watch: Watch = False,
    socket: Socket = DEFAULT_SOCKET,  # type: ignore[assignment]  # typer converts it
    as_json: Json = False,
) -> None:
    """Show the jobs of managed partitions: where they run, the step reached and the step saved, and how often they were interrupted.

    \b
    Examples:
      holdfast jobs
      holdfast jobs 12 --watch
      holdfast jobs --json | jq '.jobs[] | {key, step, saved_step}'
    """
    with reported("jobs", as_json=as_json, on_interrupt=0 if watch else 130):
        show(_listing(ids or []), socket, as_json=as_json, watch=watch)


def _listing(ids: Sequence[str]) -> Listing:
    async def fetch(stub: Any) -> Sequence[Any]:
        from holdfast_protos.v1 import admin_pb2

        reply = await stub.ListJobs(admin_pb2.ListJobsRequest(ids=ids), timeout=CALL_TIMEOUT_S)
        return sorted(reply.jobs, key=lambda job: int(job.job_id))

    return Listing("jobs", HEADERS, "No job of a managed partition is known.", fetch, _row, _record)


def _row(job: Any, now: float) -> Row:
    return (
        Cell(job.key, "bold"),
        Cell(job.user),
        Cell(job.partition),
        Cell(job.state),
        Cell(job.phase, STYLES.get(job.phase, "")),
        Cell(",".join(job.nodes)),
        Cell(str(job.attempt)),
        Cell(str(job.step) if job.step >= 0 else ""),
        Cell(str(job.saved_step) if job.saved_step >= 0 else ""),
        Cell(str(job.interruptions)),
        Cell(job.reason),
    )


def _record(job: Any) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "key": job.key,
        "state": job.state,
        "partition": job.partition,
        "user": job.user,
        "nodes": list(job.nodes),
        "attempt": job.attempt,
        "step": job.step if job.step >= 0 else None,
        "saved_step": job.saved_step if job.saved_step >= 0 else None,
        "phase": job.phase,
        "interruptions": job.interruptions,
        "reason": job.reason,
    }
