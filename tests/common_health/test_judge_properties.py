"""What holds of a judge whatever it is told: order within a moment, bounds, dry runs, and a restart at any time."""

import json
from dataclasses import replace

from health_sequences import T0, told
from holdfast_common.health.blows import MOST_EVENTS, MOST_STRIKES
from holdfast_common.health.judge import MOST_PLACES, Judge
from holdfast_common.health.model import Finding, GpuEvent, Sample, worst
from holdfast_common.health.rules import MOST_SAMPLES, Rules, default_rules
from hypothesis import given
from hypothesis import strategies as st

NAMES = ["up", "recovery_action", "pcie_replays", "nvlink_replay_errors", "clock_sw_thermal", "thermal_margin_celsius", "disk_free_ratio"]
CODES = [13, 31, 63, 69, 74, 79, 94, 149, 154, 999]
GPUS = st.sampled_from(["", "GPU-0", "GPU-1"])
VALUES = st.sampled_from([0.0, 1.0, 2.0, 40.0, 1000.0, float("nan"), float("inf")])
AFTER_S = st.one_of(st.sampled_from([0.0, 5.0, 30.0, 60.0, 600.0, 3600.0, 86_400.0, -600.0]), st.floats(0, 700))
DRY = Rules.model_validate(
    default_rules().model_dump()
    | {key: [rule | {"dry_run": True} for rule in default_rules().model_dump()[key]] for key in ("reading", "event")}
)


@st.composite
def moments(draw: st.DrawFn) -> list[list[Sample | GpuEvent]]:
    """What is told at one time after the other; of one thing, one reading at a time."""
    at, told_ = T0, []
    for after_s in draw(st.lists(AFTER_S, min_size=1, max_size=12)):
        at = max(0.0, at + after_s)
        things = draw(st.dictionaries(st.tuples(st.sampled_from(NAMES), GPUS), st.one_of(st.none(), VALUES), max_size=4))
        samples = [Sample(at, name, value, gpu, "ok" if value is not None else "failed") for (name, gpu), value in things.items()]
        events = draw(
            st.dictionaries(
                st.sampled_from(["GPU-0", "GPU-1"]), st.tuples(st.sampled_from(CODES), st.booleans(), st.integers(0, 3)), max_size=2
            )
        )
        heard = [GpuEvent(at, "xid", code, gpu, fatal=fatal, job_id=job) for gpu, (code, fatal, job) in events.items()]
        told_.append([*samples, *heard])
    return told_


def looked(judge: Judge, steps: list[list[Sample | GpuEvent]]) -> list[tuple[Finding, ...]]:
    """What is found after each step."""
    now, found = T0, []
    for step in steps:
        now = step[0].at if step else now
        found.append(told(judge, *step).findings(now))
    return found


@given(moments(), st.randoms(use_true_random=False))
def test_the_order_within_a_moment_does_not_matter(steps: list[list[Sample | GpuEvent]], chance: object) -> None:
    shuffled = [sorted(step, key=lambda _: chance.random()) for step in steps]  # type: ignore[attr-defined]
    assert looked(Judge(default_rules()), shuffled) == looked(Judge(default_rules()), steps)


@given(moments())
def test_rules_that_only_say_so_never_ask_for_anything(steps: list[list[Sample | GpuEvent]]) -> None:
    for real, dry in zip(looked(Judge(default_rules()), steps), looked(Judge(DRY), steps), strict=True):
        assert worst(dry) is None
        assert all(finding.dry_run for finding in dry)
        assert {replace(finding, dry_run=False) for finding in dry} == set(real)


@given(moments(), st.integers(0, 11))
def test_a_restart_between_any_two_moments_loses_no_finding(steps: list[list[Sample | GpuEvent]], place: int) -> None:
    before, after = Judge(default_rules()), Judge(default_rules())
    looked(before, steps[:place])
    assert after.restore(json.loads(json.dumps(before.saved())))
    now = max((each.at for step in steps[:place] for each in step), default=T0)
    assert after.findings(now) == before.findings(now)
    assert after.saved() == before.saved()


@given(moments())
def test_findings_are_sorted_each_once_and_change_nothing(steps: list[list[Sample | GpuEvent]]) -> None:
    judge = Judge(default_rules())
    for found, step in zip(looked(judge, steps), steps, strict=True):
        assert len({finding.key for finding in found}) == len(found)
        order = [(finding.dry_run, -finding.action.rank) for finding in found]
        assert order == sorted(order)
        assert step is not None
    now = max((each.at for step in steps for each in step), default=T0)
    saved = judge.saved()
    assert judge.findings(now) == judge.findings(now)
    assert judge.saved() == saved


def test_a_flood_of_everything_is_bounded() -> None:
    judge = Judge(default_rules())
    for n in range(MOST_SAMPLES + 100):
        judge.take(Sample(T0 + n * 0.3, "clock_sw_thermal", 1.0, "GPU-0"))
    for n in range(MOST_PLACES + 100):
        judge.hear(GpuEvent(T0 + n * 200.0, "xid", 31, "GPU-0", job_id=n + 1))
        judge.hear(GpuEvent(T0 + n * 200.0, "xid", 94, f"PCI:{n:08x}:00:00"))
    saved = judge.saved()
    assert len(saved["levels"]) + len(saved["blows"]) <= MOST_PLACES
    assert max(len(level["history"]) for level in saved["levels"]) == MOST_SAMPLES
    assert max(len(blow["jobs"]) for blow in saved["blows"]) == MOST_EVENTS
    assert max(len(each["times"]) for each in saved["strikes"]) == MOST_STRIKES
    assert Judge(default_rules()).restore(json.loads(json.dumps(saved)))
