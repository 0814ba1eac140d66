"""`holdfast health`: what the health rules find on nodes, what is done about it, and the rules."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from holdfast_common.clock import SystemClock

from holdfast_controller.cli.app import DEFAULT_SOCKET, FAILED, UNREACHABLE, CliError, Json, Socket, make_app, reported
from holdfast_controller.cli.connection import CALL_TIMEOUT_S, ask
from holdfast_controller.cli.health_replay import replay
from holdfast_controller.cli.health_text import GRAVE, node_lines, node_record, node_row, standing
from holdfast_controller.cli.listing import Listing, show
from holdfast_controller.cli.output import note, print_json
from holdfast_controller.cli.text import clean

app = make_app(
    """Show what the health rules find on nodes, and what is done about it; read, check and change the rules.

    \b
    Examples:
      holdfast health nodes
      holdfast health node spot-1
      holdfast health check spot-1
      holdfast health rules --check rules.toml
      holdfast health replay kernel.log
      holdfast health resolve spot-1 --rule xid-48
    """
)
ENDS = "Exit codes: 0 done, 1 failed or sick (a rule of drain or graver holds), 2 usage, 3 controller not reachable, 4 refused."
app.command("replay", epilog="Exit codes: 0 done, 1 failed, 2 usage.")(replay)
HEADERS = ("NODE", "STATE", "GPUS", "GRAVEST FINDING", "AGENT", "HEARD", "WHAT IS DONE")
Node = Annotated[str, typer.Argument(metavar="NODE", help="A node's name.")]


@app.command(epilog=ENDS)
def nodes(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NODE]...", help="Node names or lists; without: all with a machine.")
    ] = None,
    socket: Socket = DEFAULT_SOCKET,  # type: ignore[assignment]  # typer converts it
    as_json: Json = False,
) -> None:
    """List how nodes are: the gravest finding of each, and what is done about it. Readings are told of named nodes only.

    \b
    Examples:
      holdfast health nodes
      holdfast health nodes --json | jq '.nodes[] | select(.state == "drain")'
    """
    with reported("health nodes", as_json=as_json):
        from holdfast_controller.cli.nodes import expanded

        wanted = expanded(names or [])

        async def fetch(stub: Any) -> Sequence[Any]:
            return await _listed(stub, wanted)

        show(Listing("nodes", HEADERS, "No node has a machine.", fetch, node_row, node_record), socket, as_json=as_json, watch=False)


@app.command(epilog=ENDS)
def node(
    name: Node,
    socket: Socket = DEFAULT_SOCKET,  # type: ignore[assignment]  # typer converts it
    as_json: Json = False,
) -> None:
    """Show all that is known of a node's health: findings with the next step, checks, readings. Ends 1 where it is sick.

    \b
    Example:
      holdfast health node spot-1
    """
    with reported("health node", as_json=as_json):
        nodes_, steps = ask(socket, lambda stub: _told(stub, lambda: _listed(stub, [name])))
        _tell(nodes_[0], steps, as_json=as_json)


@app.command(epilog=ENDS)
def check(
    name: Node,
    wait: Annotated[float, typer.Option("--wait", metavar="SECONDS", min=1, max=60, help="For the agent's answer.")] = 25.0,
    socket: Socket = DEFAULT_SOCKET,  # type: ignore[assignment]  # typer converts it
    as_json: Json = False,
) -> None:
    """Have a node's agent read everything now, and show what it finds. Ends 1 where the node is sick.

    \b
    Example:
      holdfast health check spot-1 && echo well
    """
    with reported("health check", as_json=as_json):

        async def asked(stub: Any) -> Sequence[Any]:
            from holdfast_protos.v1 import admin_pb2

            request = admin_pb2.CheckHealthRequest(node=name, wait_s=wait)
            return list((await stub.CheckHealth(request, timeout=wait + CALL_TIMEOUT_S)).nodes)

        def talk(stub: Any) -> Any:
            return _told(stub, lambda: asked(stub))

        nodes_, steps = ask(socket, talk)
        _tell(nodes_[0], steps, as_json=as_json)


@app.command(epilog=ENDS)
def resolve(
    name: Node,
    rule: Annotated[str, typer.Option(metavar="RULE", help="Only what this rule found.")] = "",
    gpu: Annotated[str, typer.Option(metavar="GPU", help="Only what was found on this GPU: its uuid or PCI address.")] = "",
    socket: Socket = DEFAULT_SOCKET,  # type: ignore[assignment]  # typer converts it
    as_json: Json = False,
) -> None:
    """Have a node's agent forget findings, once the cause was mended. What still holds comes back with its next reading.

    \b
    Examples:
      holdfast health resolve spot-1
      holdfast health resolve spot-1 --rule xid-48 --gpu GPU-5c7b
    """
    with reported("health resolve", as_json=as_json):

        async def asked(stub: Any) -> Any:
            from holdfast_protos.v1 import admin_pb2

            request = admin_pb2.ResolveHealthRequest(node=name, rule=rule, gpu=gpu)
            return (await stub.ResolveHealth(request, timeout=6 * CALL_TIMEOUT_S)).nodes[0]

        found = ask(socket, asked)
        left = standing(found)
        if as_json:
            print_json({"node": node_record(found), "still_standing": left})
            return
        typer.echo(f"{clean(name)}: {'resolved; nothing stands' if not left else 'these still stand: ' + clean(', '.join(left))}.")


@app.command(epilog=ENDS)
def rules(
    toml: Annotated[bool, typer.Option("--toml", help="Print the table as it is written.")] = False,
    check: Annotated[str, typer.Option("--check", metavar="FILE", help="Check this table instead; needs no controller. - is stdin.")] = "",
    set_: Annotated[str, typer.Option("--set", metavar="FILE", help="Put this table in force, and tell every agent.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    socket: Socket = DEFAULT_SOCKET,  # type: ignore[assignment]  # typer converts it
    as_json: Json = False,
) -> None:
    """Show the health rules in force, one a line; or check a table, or put another one in force.

    Without a controller the table that Holdfast brings is shown, and said to be that.

    \b
    Examples:
      holdfast health rules
      holdfast health rules --toml > rules.toml
      holdfast health rules --check rules.toml
      holdfast health rules --set rules.toml
    """
    with reported("health rules", as_json=as_json):
        from holdfast_controller.cli import health_table

        if sum((toml, bool(check), bool(set_))) > 1:
            raise typer.BadParameter("--toml, --check and --set exclude each other")
        if check:
            health_table.check(check, as_json=as_json)
        elif set_:
            health_table.put(set_, socket, yes=yes, as_json=as_json)
        else:
            text, revision = _rules_in_force(socket)
            health_table.show(text, revision, toml=toml, as_json=as_json)


def _rules_in_force(socket: Path) -> tuple[str, str]:
    from holdfast_controller.cli import health_table

    try:
        reply = ask(socket, health_table.get)
    except CliError as error:
        if error.code != UNREACHABLE:
            raise
        note(f"{error}. These are the rules that Holdfast brings.")
        return health_table.built_in()
    return reply.toml, reply.revision


async def _listed(stub: Any, names: Sequence[str]) -> Sequence[Any]:
    from holdfast_protos.v1 import admin_pb2

    return list((await stub.ListHealth(admin_pb2.ListHealthRequest(nodes=names), timeout=CALL_TIMEOUT_S)).nodes)


async def _told(stub: Any, asked: Callable[[], Any]) -> tuple[Sequence[Any], dict[str, str]]:
    """Return the nodes, and what the rules in force say is the next step."""
    from holdfast_controller.cli import health_table

    found = await asked()
    return found, health_table.next_steps((await health_table.get(stub)).toml)


def _tell(found: Any, steps: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print_json({**node_record(found), "next_steps": {each.rule: steps.get(each.rule, "") for each in found.health.findings}})
    else:
        for line in node_lines(found, steps, SystemClock().now()):
            typer.echo(line)
    if found.state in GRAVE:
        raise typer.Exit(FAILED)
