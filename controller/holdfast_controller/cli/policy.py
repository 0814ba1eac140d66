"""`holdfast policy`: read, check and replace the policy in force."""

from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast_controller.cli.app import DEFAULT_SOCKET, EXIT_CODES, Json, Socket, make_app, reported
from holdfast_controller.cli.connection import CALL_TIMEOUT_S, ask
from holdfast_controller.cli.documents import confirm, difference, faulty, printable, read
from holdfast_controller.cli.output import for_people, note, print_json

app = make_app(
    """Read, check and replace the policy: which pools fill which nodes, at what price, and how jobs are treated.

    \b
    Examples:
      holdfast policy show > policy.toml
      holdfast policy check policy.toml
      holdfast policy set policy.toml
    """
)
File = Annotated[str, typer.Argument(metavar="FILE", help="A policy in TOML; - is stdin.")]


@app.command(epilog=EXIT_CODES)
def show(
    socket: Socket = DEFAULT_SOCKET,  # type: ignore[assignment]  # typer converts it
    as_json: Json = False,
) -> None:
    """Print the policy in force on stdout, as it was written; its revision on stderr.

    \b
    Example:
      holdfast policy show > policy.toml
    """
    with reported("policy show", as_json=as_json):
        reply = ask(socket, _get)
        if as_json:
            import tomllib

            print_json({"revision": reply.revision, "toml": reply.toml, "policy": tomllib.loads(reply.toml)})
            return
        typer.echo(printable(reply.toml) if for_people() else reply.toml, nl=not reply.toml.endswith("\n"))
        note(f"revision {reply.revision}")


@app.command(epilog=EXIT_CODES)
def check(
    file: File,
    socket: Annotated[Path | None, typer.Option("--socket", metavar="PATH", readable=False, help="Ask this controller, too.")] = None,
    as_json: Json = False,
) -> None:
    """Check a policy without putting it in force: says every fault at once. Needs no controller.

    \b
    Example:
      holdfast policy check policy.toml && holdfast policy set policy.toml
    """
    with reported("policy check", as_json=as_json):
        from holdfast_common.errors import ConfigError
        from holdfast_common.policy import parse_policy

        text = read(file)
        try:
            policy = parse_policy(text)
        except ConfigError as error:
            faulty(file, error.faults, as_json=as_json)
        if socket is not None:
            reply = ask(socket, lambda stub: _set(stub, text, check_only=True))
            if reply.faults:
                faulty(file, list(reply.faults), as_json=as_json)
        if as_json:
            print_json({"file": file, "ok": True, "revision": policy.revision, "faults": []})
            return
        counts = f"{len(policy.nodes)} nodes, {len(policy.partitions)} partition(s), {len(policy.pools)} pool(s)"
        typer.echo(f"{file} is fine: revision {policy.revision}, {counts}.")


@app.command("set", epilog=EXIT_CODES)
def set_(
    file: File,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    socket: Socket = DEFAULT_SOCKET,  # type: ignore[assignment]  # typer converts it
    as_json: Json = False,
) -> None:
    """Put a policy in force: shows what changes and asks. Refused (4) where somebody else has set another one meanwhile.

    \b
    Examples:
      holdfast policy set policy.toml
      holdfast policy set - --yes < policy.toml
    """
    with reported("policy set", as_json=as_json):
        text = read(file)
        old = ask(socket, _get)
        checked = ask(socket, lambda stub: _set(stub, text, check_only=True))
        if checked.faults:
            faulty(file, list(checked.faults), as_json=as_json)
        diff = "".join(difference(old.toml, text, old.revision, checked.revision))
        if not diff:
            _tell_set(old.revision, diff, changed=False, as_json=as_json)
            return
        if not as_json:
            typer.echo(printable(diff), nl=False)
        if not yes:
            confirm()
        done = ask(socket, lambda stub: _set(stub, text, expected=old.revision))
        if done.faults:
            faulty(file, list(done.faults), as_json=as_json)
        _tell_set(done.revision, diff, changed=True, as_json=as_json)


async def _get(stub: Any) -> Any:
    from holdfast_protos.v1 import admin_pb2

    return await stub.GetPolicy(admin_pb2.GetPolicyRequest(), timeout=CALL_TIMEOUT_S)


async def _set(stub: Any, text: str, *, check_only: bool = False, expected: str = "") -> Any:
    from holdfast_protos.v1 import admin_pb2

    request = admin_pb2.SetPolicyRequest(toml=text, check_only=check_only, expected_revision=expected)
    return await stub.SetPolicy(request, timeout=CALL_TIMEOUT_S)


def _tell_set(revision: str, diff: str, *, changed: bool, as_json: bool) -> None:
    if as_json:
        print_json({"changed": changed, "revision": revision, "diff": diff, "faults": []})
    else:
        typer.echo(f"policy {revision} is in force" + ("." if changed else " already: nothing to change."))
