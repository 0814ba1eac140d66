"""`holdfast nodes`: the managed nodes, their instances, and what they wait for."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from holdfast_controller.cli.app import DEFAULT_SOCKET, EXIT_CODES, USAGE, CliError, Json, Socket, Watch, make_app, reported
from holdfast_controller.cli.connection import CALL_TIMEOUT_S
from holdfast_controller.cli.listing import Listing, show
from holdfast_controller.cli.output import STYLES, Cell, Row
from holdfast_controller.cli.text import age, moment

app = make_app()
HEADERS = ("NODE", "PHASE", "SLURM", "POOL", "USD/H", "LAUNCHED", "AGENT", "JOBS", "GOES AWAY", "WHY")


@app.command(epilog=EXIT_CODES)
def nodes(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NODE]...", help="Node names or Slurm node lists; without: all.")] = None,
    watch: Watch = False,
    socket: Socket = DEFAULT_SOCKET,  # type: ignore[assignment]  # typer converts it
    as_json: Json = False,
) -> None:
    """Show the nodes that Holdfast manages: Slurm's word, ours, the instance behind each, its price, and what it waits for.

    \b
    Examples:
      holdfast nodes
      holdfast nodes 'spot-[1-4]' --watch
      holdfast nodes --json | jq '.nodes[] | select(.phase == "doomed")'
    """
    with reported("nodes", as_json=as_json, on_interrupt=0 if watch else 130):
        show(_listing(expanded(names or [])), socket, as_json=as_json, watch=watch)


def expanded(names: Sequence[str]) -> list[str]:
    """Return the nodes of Slurm node lists. Raises CliError."""
    from holdfast_common.errors import InputError
    from holdfast_common.nodeset import expand

    try:
        return [node for name in names for node in expand(name)]
    except InputError as error:
        raise CliError(str(error), USAGE) from error


def _listing(names: Sequence[str]) -> Listing:
    async def fetch(stub: Any) -> Sequence[Any]:
        from holdfast_protos.v1 import admin_pb2

        reply = await stub.ListNodes(admin_pb2.ListNodesRequest(names=names), timeout=CALL_TIMEOUT_S)
        return list(reply.nodes)

    return Listing("nodes", HEADERS, "The policy manages no node.", fetch, _row, _record)


def _row(node: Any, now: float) -> Row:
    left = f"in {age(node.notice_deadline - now)}" if node.notice_deadline > now else f"{age(now - node.notice_deadline)} ago"
    return (
        Cell(node.name, "bold"),
        Cell(node.phase, STYLES.get(node.phase, "")),
        Cell(node.slurm_state),
        Cell(node.pool),
        Cell(f"{node.price_usd_h:.2f}" if node.price_usd_h else ""),
        Cell(moment(node.launched, now)),
        Cell(("here" if node.agent_connected else "silent") if node.instance_id else ""),
        Cell(" ".join(str(job) for job in node.job_ids)),
        Cell(left if node.notice_deadline else "", "red"),
        Cell(node.reason),
    )


def _record(node: Any) -> dict[str, Any]:
    return {
        "name": node.name,
        "slurm_state": node.slurm_state,
        "phase": node.phase,
        "instance_id": node.instance_id or None,
        "pool": node.pool or None,
        "market": node.market or None,
        "launched": node.launched or None,
        "price_usd_h": node.price_usd_h or None,
        "agent_connected": node.agent_connected,
        "job_ids": list(node.job_ids),
        "notice_deadline": node.notice_deadline or None,
        "reason": node.reason,
    }
