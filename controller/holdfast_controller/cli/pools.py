"""`holdfast pools`: what each pool costs, has lately done, and whether it is asked now; and what the clouds sell."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from holdfast_controller.cli.app import DEFAULT_SOCKET, EXIT_CODES, FAILED, Json, Socket, Watch, make_app, reported
from holdfast_controller.cli.connection import ask
from holdfast_controller.cli.listing import Listing, show
from holdfast_controller.cli.offers import chosen, discovered, offer_record, offer_row
from holdfast_controller.cli.output import Cell, Row, note, print_json, print_table
from holdfast_controller.cli.text import age

app = make_app()
HEADERS = ("POOL", "MARKET", "USD/H", "ON-DEMAND", "SCORE", "LOST/H", "HAVE", "GIVEN", "REFUSED", "QUOTA", "NOW", "FULL NAME")
OFFER_HEADERS = ("INSTANCE TYPE", "GPUS", "GPU MEMORY", "CPUS", "MEMORY", "MARKETS", "REGION", "ZONES")
HELP = """Show the policy's pools: price, the cloud's score, reclaims per instance-hour as Holdfast reckons, refusals, quotas as they were
    met, and whether one node would be asked for there now.

    \b
    Examples:
      holdfast pools
      holdfast pools --live
      holdfast pools --json | jq '.pools[] | select(.state != "ready") | [.name, .state]'
      holdfast pools discover --gpu H100 --min-gpus 8
    """
LIVE_TIMEOUT_S = 120.0
"""Clouds answer in seconds, region by region."""


@app.callback(invoke_without_command=True, help=HELP, epilog=EXIT_CODES)
def pools(
    context: typer.Context,
    live: Annotated[bool, typer.Option("--live", help="Ask the clouds now, for their word on capacity as well.")] = False,
    watch: Watch = False,
    socket: Socket = DEFAULT_SOCKET,  # type: ignore[assignment]  # typer converts it
    as_json: Json = False,
) -> None:
    """Show the policy's pools (see `HELP`)."""
    if context.invoked_subcommand is None:
        with reported("pools", as_json=as_json, on_interrupt=0 if watch else 130):
            show(_listing(live), socket, as_json=as_json, watch=watch)


@app.command(epilog=EXIT_CODES)
def discover(
    gpu: Annotated[str, typer.Option("--gpu", metavar="MODEL", help="Only this GPU: H100, A100, L4, ...")] = "",
    min_gpus: Annotated[int, typer.Option("--min-gpus", min=1, help="Only types with at least so many.")] = 1,
    max_gpus: Annotated[int, typer.Option("--max-gpus", min=1, help="Only types with at most so many.")] = 64,
    market: Annotated[str, typer.Option("--market", metavar="spot|on_demand", help="For --toml: the market of the pools.")] = "spot",
    toml: Annotated[bool, typer.Option("--toml", help="Print the pools as tables for the policy file.")] = False,
    socket: Socket = DEFAULT_SOCKET,  # type: ignore[assignment]  # typer converts it
    as_json: Json = False,
) -> None:
    """Ask the clouds which instance types with GPUs they sell in the regions of the controller's settings, and in which zones.

    \b
    Examples:
      holdfast pools discover --gpu H100 --min-gpus 8
      holdfast pools discover --gpu A100 --min-gpus 8 --toml >> policy.toml
    """
    with reported("pools discover", as_json=as_json):
        offers, faults = ask(socket, discovered(LIVE_TIMEOUT_S))
        found = chosen(offers, gpu, min_gpus, max_gpus, market)
        if as_json:
            print_json({"offers": [offer_record(offer) for offer in found], "faults": faults})
        elif toml:
            from holdfast_controller.cli.offers import pool_tables

            typer.echo(pool_tables(found, market), nl=False)
        elif found:
            print_table(OFFER_HEADERS, [offer_row(offer) for offer in found])
        else:
            note("No cloud of the controller's settings sells such a type in their regions.")
        for fault in faults:
            note(f"No answer from {fault}")
        if faults and not found:
            raise typer.Exit(FAILED)


def _listing(live: bool) -> Listing:
    asked = False

    async def fetch(stub: Any) -> Sequence[Any]:
        from holdfast_protos.v1 import admin_pb2

        nonlocal asked  # clouds allow few such questions: a watch asks once
        reply = await stub.ListPools(admin_pb2.ListPoolsRequest(live=live and not asked), timeout=LIVE_TIMEOUT_S)
        asked = True
        for fault in reply.faults:
            note(f"No answer from {fault}: what it said last stands.")
        return list(reply.pools)

    return Listing("pools", HEADERS, "The policy has no pools.", fetch, _row, _record)


def _row(pool: Any, now: float) -> Row:
    refused = f"{pool.refusals} ({age(now - pool.refused_at)} ago)" if pool.refusals else ""
    return (
        Cell(pool.name, "bold"),
        Cell(pool.market),
        Cell(_figure(pool, "price_usd_h")),
        Cell(_figure(pool, "on_demand_usd_h")),
        Cell(_figure(pool, "score")),
        Cell(f"{pool.hazard_per_h:.2f}" if pool.market == "spot" else ""),
        Cell(str(pool.instances)),
        Cell(str(pool.granted)),
        Cell(refused),
        Cell(str(pool.quota) if pool.quota >= 0 else ""),
        Cell(pool.state, "green" if pool.state == "ready" else "yellow"),
        Cell(pool.full_name),
    )


def _figure(pool: Any, name: str) -> str:
    return f"{getattr(pool, name):.2f}" if pool.HasField(name) else ""


def _record(pool: Any) -> dict[str, Any]:
    optional = ("price_usd_h", "on_demand_usd_h", "score", "preemptions_per_h")
    return {
        "name": pool.name,
        "full_name": pool.full_name,
        "market": pool.market,
        "partitions": list(pool.partitions),
        **{name: getattr(pool, name) if pool.HasField(name) else None for name in optional},
        "hazard_per_h": pool.hazard_per_h,
        "doubt": pool.doubt,
        "instances": pool.instances,
        "granted": pool.granted,
        "refusals": pool.refusals,
        "refused_at": pool.refused_at or None,
        "last_fault": pool.last_fault or None,
        "quota": pool.quota if pool.quota >= 0 else None,
        "gpus": pool.gpus or None,
        "gpu_model": pool.gpu_model or None,
        "state": pool.state,
    }
