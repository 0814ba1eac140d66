"""Every rule of the table that Holdfast brings has something that fires it, and something that just does not."""

from itertools import chain

import pytest
from health_sequences import GPU, Case, fires, spares, striking
from holdfast_common.health.model import Action
from holdfast_common.health.rules import Rule, default_rules

RULES = default_rules().all
FIRES = [pytest.param(rule, case, id=f"{rule.name}: {what}") for rule in RULES for what, case in fires(rule)]
SPARES = [pytest.param(rule, case, id=f"{rule.name}: {what}") for rule in RULES for what, case in spares(rule)]
STRIKES = [pytest.param(rule, id=rule.name) for rule in RULES if rule.strikes is not None]


@pytest.mark.parametrize(("rule", "case"), FIRES)
def test_it_fires(rule: Rule, case: Case) -> None:
    assert [(each.rule, each.gpu, each.action) for each in case.findings(rule)] == [(rule.name, GPU, rule.action)]
    in_the_table = [each for each in case.findings(*RULES) if each.rule == rule.name]
    assert [each.action for each in in_the_table] == [rule.action], "another rule takes its place"


@pytest.mark.parametrize(("rule", "case"), SPARES)
def test_it_just_does_not_fire(rule: Rule, case: Case) -> None:
    assert case.findings(rule) == ()
    assert rule.name not in {each.rule for each in case.findings(*RULES)}


def test_the_two_cover_every_rule() -> None:
    names = {rule.name for rule in RULES}
    assert len(names) > 60
    assert {rule.name for rule in RULES if list(fires(rule))} == names
    assert {rule.name for rule in RULES if list(spares(rule))} == names
    assert all(text for rule in RULES for text in chain([rule.advice, rule.next]))


@pytest.mark.parametrize("rule", STRIKES)
def test_strikes_make_it_graver_and_one_less_does_not(rule: Rule) -> None:
    assert rule.strikes is not None
    last = striking(rule, rule.strikes.count, 600.0).findings(rule)
    assert [(each.action, each.strikes) for each in last] == [(rule.strikes.action, rule.strikes.count)]
    fewer = striking(rule, rule.strikes.count - 1, 600.0).findings(rule)
    assert [each.action for each in fewer] == [rule.action]
    slower = striking(rule, rule.strikes.count, rule.strikes.within_s / (rule.strikes.count - 1) + 60).findings(rule)
    assert [each.action for each in slower] == [rule.action]
    assert rule.strikes.action.rank > rule.action.rank >= Action.NOTE.rank
