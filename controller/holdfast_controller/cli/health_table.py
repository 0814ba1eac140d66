"""`holdfast health rules`: the table of health rules, shown, checked and put in force."""

from pathlib import Path
from typing import Any

import typer

from holdfast_controller.cli.connection import CALL_TIMEOUT_S, ask
from holdfast_controller.cli.documents import confirm, difference, faulty, printable, read
from holdfast_controller.cli.output import Cell, Row, for_people, note, print_json, print_table

HEADERS = ("RULE", "WHAT", "WHEN", "ACTION", "ADVICE")


def built_in() -> tuple[str, str]:
    """Return the table that Holdfast brings, and its revision."""
    from holdfast_common.health.rules import default_rules, default_toml

    return default_toml(), default_rules().revision


async def get(stub: Any) -> Any:
    """Return the controller's reply with the rules in force."""
    from holdfast_protos.v1 import admin_pb2

    return await stub.GetHealthRules(admin_pb2.GetHealthRulesRequest(), timeout=CALL_TIMEOUT_S)


def next_steps(text: str) -> dict[str, str]:
    """Return rule → the next step for an admin."""
    from holdfast_common.health.rules import parse_rules

    return {rule.name: rule.next for rule in parse_rules(text).all}


def show(text: str, revision: str, *, toml: bool, as_json: bool) -> None:
    """Print the rules: as a table, as they are written, or as JSON."""
    from holdfast_common.health.rules import parse_rules

    if as_json:
        print_json({"revision": revision, "toml": text, "rules": [rule.model_dump(mode="json") for rule in parse_rules(text).all]})
        return
    if toml:
        typer.echo(printable(text) if for_people() else text, nl=not text.endswith("\n"))
    else:
        print_table(HEADERS, [_row(rule) for rule in parse_rules(text).all])
    note(f"revision {revision}")


def check(file: str, *, as_json: bool) -> None:
    """Say every fault of a table at once; ends 1 where there is one."""
    from holdfast_common.errors import ConfigError
    from holdfast_common.health.rules import parse_rules

    try:
        found = parse_rules(read(file), file)
    except ConfigError as error:
        faulty(file, error.faults, as_json=as_json)
    if as_json:
        print_json({"file": file, "ok": True, "revision": found.revision, "faults": []})
    else:
        typer.echo(f"{file} is fine: revision {found.revision}, {len(found.all)} rules.")


def put(file: str, socket: Path, *, yes: bool, as_json: bool) -> None:
    """Show what changes, ask, and put a table in force; refused where somebody else has set another meanwhile."""
    text = read(file)
    old = ask(socket, get)
    checked = ask(socket, lambda stub: _set(stub, text, check_only=True))
    if checked.faults:
        faulty(file, list(checked.faults), as_json=as_json)
    diff = "".join(difference(old.toml, text, old.revision, checked.revision))
    if diff and not as_json:
        typer.echo(printable(diff), nl=False)
    if diff and not yes:
        confirm()
    done = ask(socket, lambda stub: _set(stub, text, expected=old.revision)) if diff else old
    if done.faults:
        faulty(file, list(done.faults), as_json=as_json)
    if as_json:
        print_json({"changed": bool(diff), "revision": done.revision, "diff": diff, "faults": []})
    else:
        typer.echo(f"health rules {done.revision} are in force" + ("." if diff else " already: nothing to change."))


async def _set(stub: Any, text: str, *, check_only: bool = False, expected: str = "") -> Any:
    from holdfast_protos.v1 import admin_pb2

    request = admin_pb2.SetHealthRulesRequest(toml=text, check_only=check_only, expected_revision=expected)
    return await stub.SetHealthRules(request, timeout=CALL_TIMEOUT_S)


def _row(rule: Any) -> Row:
    from holdfast_common.health.rules import ReadingRule

    if isinstance(rule, ReadingRule):
        lasting = f" for {rule.for_s:g} s" if rule.for_s else ""
        grown = f" growth in {rule.growth_over_s:g} s" if rule.growth_over_s else ""
        share = f" in {rule.share:.0%} of {rule.over_s:g} s" if rule.share else ""
        what, when = rule.reading, f"{rule.when}{grown}{share}{lasting}"
    else:
        what, when = rule.kind, " ".join(str(code) for code in rule.codes) or "every other"
    strikes = f", {rule.strikes.action} on strike {rule.strikes.count}" if rule.strikes else ""
    return (
        Cell(rule.name, "bold"),
        Cell(what),
        Cell(when),
        Cell(f"{rule.action}{' (dry run)' if rule.dry_run else ''}{strikes}"),
        Cell(rule.advice),
    )
