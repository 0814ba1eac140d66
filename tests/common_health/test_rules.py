"""The table of rules: its faults, its revision, and what the one that Holdfast brings covers."""

import itertools

import pytest
from holdfast_common.errors import ConfigError
from holdfast_common.health.catalogue import READINGS
from holdfast_common.health.rules import default_rules, default_toml, parse_rules

READING = '[[reading]]\nname = "{name}"\nreading = "up"\nwhen = "== 0"\naction = "evacuate"\nadvice = "a"\nnext = "n"\n'
EVENT = '[[event]]\nname = "{name}"\nkind = "xid"\naction = "drain"\nadvice = "a"\nnext = "n"\n'
STRIKES = 'strikes = {{ count = 2, within_s = 60, action = "{action}" }}\n'


def reading(name: str = "one", more: str = "", **changed: str) -> str:
    text = READING.format(name=name) + more
    for key, value in changed.items():
        text = "".join(f"{key} = {value}\n" if line.startswith(f"{key} =") else line for line in text.splitlines(keepends=True))
    return text


def event(name: str = "two", more: str = "") -> str:
    return EVENT.format(name=name) + more


FAULTS = {
    "an unknown reading": (reading(reading='"temperatur_celsius"'), "reading[0].reading", "did you mean 'temperature_celsius'"),
    "no condition": (reading(when='"more than 1"'), "reading[0].when", "is no condition such as"),
    "no action": (reading(action='"reboot"'), "reading[0].action", "reboot"),
    "an unknown key": (reading(more="for = 5\n"), "reading[0].for", "for_s"),
    "a negative time": (reading(more="for_s = -1\n"), "reading[0].for_s", "0"),
    "a name of two rules": (reading("one") + event("one"), "event[0].name", "'one' is the name of another rule too"),
    "a share of no time": (reading(more="share = 0.5\n"), "reading[0]", "share and over_s belong together"),
    "a time of no share": (reading(more="over_s = 60\n"), "reading[0]", "share and over_s belong together"),
    "two sorts of time": (reading(more="for_s = 5\ngrowth_over_s = 60\n"), "reading[0]", "only one of for_s, share and growth_over_s"),
    "strikes that are not graver": (event(more=STRIKES.format(action="drain")), "event[0].strikes.action", "must be graver"),
    "a window that is too long": (reading(more="growth_over_s = 86400\n"), "reading[0].growth_over_s", "at most 10000 s of up"),
    "strikes of a job": (
        event(more='blame = "job"\n' + STRIKES.format(action="replace")),
        "event[0].strikes",
        "one faulty program would have a GPU drained",
    ),
    "a code of two rules": (
        event("a", "codes = [79]\n") + event("b", "codes = [48, 79]\n"),
        "event[1].codes",
        "xid 79 is named by event[0]",
    ),
    "two rules for the rest": (event("a") + event("b"), "event[1].codes", "every other xid is named by event[0]"),
    "a code that is fatal or not, twice": (
        event("a", "codes = [74]\nfatal = true\n") + event("b", "codes = [74]\n"),
        "event[1].codes",
        "xid 74 is named by event[0]",
    ),
    "another version": ("", "version", "2"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_named_with_its_place(what: str) -> None:
    tables, where, why = FAULTS[what]
    with pytest.raises(ConfigError) as caught:
        parse_rules(f"version = {2 if what == 'another version' else 1}\n{tables}")
    assert any(fault.startswith(where) and why in fault for fault in caught.value.faults), caught.value.faults


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_rules(
            "version = 1\n" + "".join(tables for what, (tables, *_) in FAULTS.items() if what in ("an unknown reading", "no action"))
        )
    assert len(caught.value.faults) >= 3  # both rules are named "one", too


def test_a_code_may_have_a_rule_for_each_severity() -> None:
    rules = parse_rules("version = 1\n" + event("a", "codes = [74]\nfatal = true\n") + event("b", "codes = [74]\nfatal = false\n"))
    assert [rule.name for fatal in (True, False) if (rule := rules.for_event("xid", 74, fatal))] == ["a", "b"]


def test_a_code_that_is_named_for_one_severity_is_not_among_the_others() -> None:
    rules = parse_rules("version = 1\n" + event("a", "codes = [74]\nfatal = true\n") + event("b"))
    assert rules.for_event("xid", 74, fatal=False) is None
    assert rules.for_event("xid", 75, fatal=False) is rules.event[1]


def test_the_revision_is_of_what_the_rules_mean() -> None:
    one = parse_rules("version = 1\n" + reading())
    assert one.revision == parse_rules("# ours\nversion   = 1\n\n" + reading(more="for_s = 0.0\n")).revision
    assert one.revision != parse_rules("version = 1\n" + reading(when='"== 1"')).revision
    assert len(one.revision) == 12


@pytest.mark.parametrize(
    ("when", "holds", "fails"),
    [
        (">= 2", 2, 1.9),
        ("<= 2", 2, 2.1),
        ("> 2", 2.1, 2),
        ("< 2", 1.9, 2),
        ("== 2", 2, 3),
        ("!= 2", 3, 2),
        ("in 1 4", 4, 2),
        ("< -0.5", -1, 0),
    ],
)
def test_conditions(when: str, holds: float, fails: float) -> None:
    (rule,) = parse_rules("version = 1\n" + reading(when=f'"{when}"')).reading
    assert rule.holds(holds)
    assert not rule.holds(fails)


BY_TENS = [*range(96, 106), *range(126, 136), 139]
XIDS = {
    "xid-program": [13, 31],
    "xid-restart": [8, 11, 25, 32, 39, 40, 41, 60, *range(68, 73), 75, 76, 77, 80, *range(82, 87), 88, 89, *BY_TENS],
    "xid-contained": [94],
    "xid-ignored": [43, 37, 66, 67, 92, 93, 106, 107, 141, 160],
    "xid-watched": [38, 44, 121],
    "xid-remap": [63],
    "xid-follower": [45],
    "xid-reset": [46, 62, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158],
    "xid-remap-failed": [64],
    "xid-48": [48],
    "xid-nvlink": [74, *range(144, 151)],
    "xid-79": [79],
    "xid-cables": [54],
    "xid-software": [78, 151],
    "xid-recovery": [154],
    "xid-unlisted": [163, 166, 167, 169, 172],
    "xid-unknown": [1, 14, 65, 81, 87, 90, 142, 164, 999],
}
"""As NVIDIA's catalogue puts them into buckets, and as we decided where peers differ."""


@pytest.mark.parametrize(("name", "code"), [(name, code) for name, codes in XIDS.items() for code in codes])
def test_each_xid_has_its_rule(name: str, code: int) -> None:
    rule = default_rules().for_event("xid", code, fatal=False)
    assert rule is not None
    assert rule.name == name
    fatal = default_rules().for_event("xid", code, fatal=True)
    assert fatal is not None
    assert fatal.name == ("xid-nvlink-fatal" if name == "xid-nvlink" else name)


def test_no_rule_names_another_xid() -> None:
    named = {code for rule in default_rules().event if rule.kind == "xid" for code in rule.codes}
    assert named == set(itertools.chain(*XIDS.values())) - set(XIDS["xid-unknown"])


@pytest.mark.parametrize(
    ("code", "fatal", "name"),
    [
        (12020, False, "sxid-fatal-always"),
        (22003, True, "sxid-fatal-always"),
        (23017, False, "sxid-fatal-always"),
        (20034, True, "sxid-fatal"),
        (12028, False, "sxid"),
    ],
)
def test_each_sxid_has_its_rule(code: int, fatal: bool, name: str) -> None:
    rule = default_rules().for_event("sxid", code, fatal)
    assert rule is not None
    assert rule.name == name


NOT_JUDGED = {
    *("ecc_uncorrectable_aggregate", "ecc_corrected_aggregate", "row_remap_correctable", "clock_idle", "clock_sw_power_cap"),
    *("power_watts", "energy_joules", "utilization_ratio", "memory_used_bytes", "memory_total_bytes", "gpus_visible", "nvlinks_active"),
    *("pcie_width", "pcie_width_max", "pcie_gen", "pcie_gen_max"),
}
"""Normal, of the GPU's whole life, or what another reading is made from."""


def test_each_reading_is_judged_or_known_not_to_be() -> None:
    assert set(READINGS) - default_rules().by_reading.keys() == NOT_JUDGED


@pytest.mark.parametrize(("value", "action"), [(0, None), (1, "evacuate"), (2, "evacuate"), (3, "drain"), (4, "evacuate"), (5, "drain")])
def test_the_drivers_verdict(value: float, action: str | None) -> None:
    assert [str(rule.action) for rule in default_rules().by_reading["recovery_action"] if rule.holds(value)] == ([action] if action else [])


@pytest.mark.parametrize(("value", "action"), [(6, "evacuate"), (7, "evacuate"), (8, "drain"), (99, "drain")])
def test_the_drivers_newer_verdicts(value: float, action: str) -> None:
    assert [str(rule.action) for rule in default_rules().by_reading["recovery_action"] if rule.holds(value)] == [action]


def test_the_default_table_is_what_is_shown() -> None:
    assert parse_rules(default_toml()) == default_rules()
