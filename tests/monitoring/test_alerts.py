"""The alerts' source: each alert says what is wrong, what it means and what to do, and is tried both ways."""

import importlib
import re
import tomllib

import pytest
import typer
from holdfast_common.health.model import Action
from holdfast_common.health.rules import default_rules
from holdfast_monitoring.grafana_alerts import uid
from holdfast_monitoring.source import Alert
from source_files import ALERTS, CASES, ROOT, read_yaml

NAMES = {alert.name for alert in ALERTS}
TOLD_BY_THEIR_LINE = {13, 31, *range(144, 151)}
"""What these ask for depends on the kernel's line or on other jobs, which no metric shows: the rules' findings do."""


def test_names_and_uids_are_unique() -> None:
    assert len(NAMES) == len(ALERTS)
    uids = [uid(alert) for alert in ALERTS]
    assert len(set(uids)) == len(uids)
    assert all(len(each) <= 40 and re.fullmatch(r"[a-zA-Z0-9_-]+", each) for each in uids)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_is_tried_both_ways(alert: Alert) -> None:
    tried = [case for case in CASES if case.alert == alert.name]
    assert [case for case in tried if case.labels is not None], "no case in which it fires"
    assert [case for case in tried if case.labels is None], "no case in which it just does not"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_what_an_alert_names_is_there_when_it_fires(alert: Alert) -> None:
    named = set(re.findall(r"\$labels\.(\w+)", alert.summary + alert.cause + alert.next))
    assert any(named <= found.keys() for case in CASES if case.alert == alert.name for found in case.labels or ())
    assert alert.expr.count("$recent") == 0 or (alert.counter and alert.window)


COMMANDS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["holdfast.commands"]
JOB_COMMANDS = {"checkpoint", "run"}
"""Those of the job library, which has no typer."""


def exists(command: str) -> bool:
    """Whether there is such a command, and its subcommand where it has some."""
    first, _, rest = command.partition(" ")
    if first in JOB_COMMANDS:
        return True
    if first not in COMMANDS:
        return False
    module, _, name = COMMANDS[first].partition(":")
    found = typer.main.get_command(getattr(importlib.import_module(module), name))
    below = getattr(found, "commands", {})
    return not below or not rest or rest.partition(" ")[0] in below or rest.startswith(("{", "-"))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_the_next_step_is_a_command_that_exists_or_something_to_look_at(alert: Alert) -> None:
    commands = re.findall(r"`holdfast ([^`]+)`", alert.next)
    assert [command for command in commands if not exists(command)] == []
    assert commands or re.search(r"`[a-z]+|dashboard|`/sd`|controller\.toml", alert.next), "it says nothing that can be done"


def test_the_check_of_commands_finds_what_is_wrong() -> None:
    assert exists("health node spot-1")
    assert not exists("health nods")
    assert not exists("heal node spot-1")


def test_every_alert_is_in_the_documentation() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    headings = set(re.findall(r"^#### (\w+)$", page, re.MULTILINE))
    assert headings == NAMES
    assert {alert.runbook.partition("#")[2] for alert in ALERTS} == {heading.lower() for heading in headings}


def test_xids_are_alerted_on_as_the_rules_judge_them() -> None:
    grave: dict[str, set[int]] = {"XidReset": set(), "XidDrain": set()}
    for rule in default_rules().event:
        if rule.kind == "xid" and rule.action is not Action.NOTE and rule.blame == "gpu":  # else it depends on who else had it
            grave["XidDrain" if rule.action is Action.DRAIN else "XidReset"] |= set(rule.codes)
    for name, codes in grave.items():
        (alert,) = [alert for alert in ALERTS if alert.name == name]
        listed = {int(code) for code in re.findall(r"\d+", alert.expr.partition("xid=~")[2].partition("}")[0])}
        assert listed == codes - TOLD_BY_THEIR_LINE


def test_inhibitions_name_alerts_that_exist() -> None:
    rules = read_yaml("alertmanager/alertmanager.yml")["inhibit_rules"]
    named = {
        name
        for rule in rules
        for matcher in (*rule["source_matchers"], *rule["target_matchers"])
        if matcher.startswith("alertname")
        for name in re.findall(r"[A-Z]\w+", matcher)
    }
    assert "ControllerDown" in named
    assert named <= NAMES
