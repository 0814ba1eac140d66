"""The page about health: its table is that of the rules, and its example is what the command says."""

import itertools
from collections.abc import Iterable

import pytest
from doc_pages import ROOT, Block, blocks, code, rows
from holdfast_common.health.catalogue import READINGS
from holdfast_common.health.rules import EventRule, ReadingRule, Rule, default_rules
from holdfast_controller.cli.health import app
from typer.testing import CliRunner

PAGE = ROOT / "docs" / "health.md"


def expected(rule: Rule) -> list[str]:
    """A rule's line of the table."""
    strikes = f", `{rule.strikes.action}` from {rule.strikes.count} in {span(rule.strikes.within_s)}" if rule.strikes else ""
    judged, when = of_event(rule) if isinstance(rule, EventRule) else of_reading(rule)
    return [f"`{rule.name}`", judged, when, f"`{rule.action}`{strikes}{' (dry run)' if rule.dry_run else ''}", rule.advice]


def of_reading(rule: Rule) -> tuple[str, str]:
    assert isinstance(rule, ReadingRule)
    unit = READINGS[rule.reading].unit
    lasting = f" for {span(rule.for_s)}" if rule.for_s else ""
    share = f" in {rule.share:.0%} of {span(rule.over_s)}" if rule.share is not None else ""
    grown = f" more within {span(rule.growth_over_s)}" if rule.growth_over_s else ""
    over = "" if rule.clear_s == ReadingRule.model_fields["clear_s"].default else f"; over after {span(rule.clear_s)}"
    return f"`{rule.reading}`", f"{rule.when}{'' if unit == '1' else f' {unit}'}{lasting}{share}{grown}{over}"


def of_event(rule: EventRule) -> tuple[str, str]:
    kind = {"xid": "XID", "sxid": "SXid", "off_bus": "fallen off the bus"}[rule.kind]
    codes = f" {ranges(rule.codes)}" if rule.codes else "" if rule.kind == "off_bus" else ", every other"
    fatal = {None: "", True: ", fatal", False: ", not fatal"}[rule.fatal]
    blame = {"gpu": "", "job": "the job's fault; ", "either": f"{rule.jobs} jobs on one GPU within {span(rule.within_s)}; "}[rule.blame]
    return f"{kind}{codes}{fatal}", f"{blame}stands {span(rule.stands_s) if rule.stands_s else 'until it is resolved'}"


def ranges(codes: Iterable[int]) -> str:
    groups = [[code for _, code in group] for _, group in itertools.groupby(enumerate(codes), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{group[0]} to {group[-1]}" if len(group) > 2 else ", ".join(map(str, group)) for group in groups)


def span(seconds: float) -> str:
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def test_the_table_has_every_rule_as_it_is() -> None:
    assert rows(PAGE, "health rules") == [expected(rule) for rule in default_rules().all]


def test_the_keys_of_rules_are_those_of_their_models() -> None:
    listed = [code(row[0]) for row in rows(PAGE, "keys of health rules")]
    assert len(set(listed)) == len(listed)
    assert set(listed) == ReadingRule.model_fields.keys() | EventRule.model_fields.keys()


@pytest.fixture
def example() -> dict[str, Block]:
    return {block.mark: block for block in blocks() if block.page == PAGE and block.mark}


@pytest.mark.parametrize("name", ["kernel", "recording"])
def test_the_examples_give_what_the_page_shows(example: dict[str, Block], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    done = CliRunner().invoke(app, ["replay", "-", "--strict"], input=example[f"replay: {name}"].text)
    assert done.exit_code == 0
    assert done.stdout == example[f"replayed: {name}"].text
