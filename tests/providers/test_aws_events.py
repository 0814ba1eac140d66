"""EC2's interruption warnings: what a message must say, and how long it stands. No server."""

import json

import pytest
from holdfast_controller.providers.aws_events import AHEAD_MAX_S, OVER_S, WARNINGS_MAX, Warnings
from hypothesis import given
from hypothesis import strategies as st

NOON = 1_795_521_600.0  # 2026-11-24T12:00:00Z
IID = "i-0123456789abcdef0"
WARNING = "EC2 Spot Instance Interruption Warning"


def body(kind=WARNING, time="2026-11-24T12:00:00Z", instance_id=IID, source="aws.ec2", region="us-east-1", **detail):
    said = {"instance-id": instance_id} | ({"instance-action": "terminate"} if kind == WARNING else {})
    said |= {key.replace("_", "-"): value for key, value in detail.items()}
    return json.dumps({"version": "0", "id": "1", "detail-type": kind, "source": source, "time": time, "region": region, "detail": said})


def taken(*bodies, now=NOON):
    warnings = Warnings()
    for each in bodies:
        warnings.take(each, now)
    return warnings


def test_a_warning_says_two_minutes_before():
    (reclaim,) = taken(body()).standing(NOON)
    assert (reclaim.instance_id, reclaim.deadline, reclaim.reason) == (IID, NOON + 120, "EC2 has warned of terminate")


def test_hibernation_begins_at_once():
    (reclaim,) = taken(body(instance_action="hibernate")).standing(NOON)
    assert reclaim.deadline == NOON


def test_a_repeated_or_later_warning_changes_nothing_and_an_earlier_one_does():
    warnings = taken(body(), body(), body(time="2026-11-24T12:00:30Z"))
    assert [each.deadline for each in warnings.standing(NOON)] == [NOON + 120]
    warnings.take(body(time="2026-11-24T11:59:30Z"), NOON)
    assert [each.deadline for each in warnings.standing(NOON)] == [NOON + 90]


def test_a_warning_stands_a_while_past_its_deadline():
    warnings = taken(body())
    assert warnings.standing(NOON + 120 + OVER_S - 1)
    assert warnings.standing(NOON + 120 + OVER_S) == ()
    assert warnings.standing(NOON) == (), "what is over is forgotten"


def test_what_lay_in_the_queue_for_too_long_is_over():
    assert taken(body(), now=NOON + 3600).standing(NOON + 3600) == ()


def test_what_ec2s_list_has_named_and_names_no_longer_is_over():
    warnings = taken(body())
    warnings.compare("us-east-1", set())
    assert warnings.standing(NOON), "a list may lag behind the warning"
    warnings.compare("us-east-1", {IID})
    warnings.compare("us-west-2", set())
    assert warnings.standing(NOON), "another region's list says nothing of it"
    warnings.compare("us-east-1", set())
    assert warnings.standing(NOON) == ()


@pytest.mark.parametrize("state", ["shutting-down", "terminated", "stopping", "stopped"])
def test_an_instance_that_ends_is_not_taken_any_more(state):
    change = body("EC2 Instance State-change Notification", state=state)
    warnings = taken(body(), change)
    assert warnings.standing(NOON) == ()
    assert warnings.refused == 0


def test_other_events_of_instances_are_no_reclaims():
    warnings = taken(body("EC2 Instance Rebalance Recommendation"), body("EC2 Instance State-change Notification", state="running"), body())
    assert len(warnings.standing(NOON)) == 1
    assert warnings.refused == 0


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "null",
        "[]",
        "{",
        body().replace("aws.ec2", "my.app"),
        body(kind="Scheduled Event"),
        body(instance_id="../../x"),
        body(instance_id=7),
        body(time="yesterday"),
        body(time="2026-13-24T12:00:00Z"),
        body(time="2026-11-24T12:20:00Z"),
        body(instance_action="x" * 33),
        body() + " " * 262_144,
        json.dumps({"Type": "Notification", "Message": body()}),
        "\ud800",
    ],
    ids=lambda text: repr(text[:40]),
)
def test_what_is_no_event_is_counted_and_forgotten(bad):
    warnings = taken(bad)
    assert warnings.standing(NOON) == ()
    assert warnings.refused == 1
    assert AHEAD_MAX_S < 1200


@given(
    st.text(max_size=300)
    | st.recursive(st.none() | st.text() | st.floats(), lambda inner: st.dictionaries(st.text(), inner)).map(json.dumps)
)
def test_nothing_that_comes_can_break_it(text):
    assert taken(text).standing(NOON) == ()


def test_warnings_have_a_bound():
    warnings = Warnings()
    for number in range(WARNINGS_MAX + 5):
        warnings.take(body(instance_id=f"i-{number:017x}"), NOON)
    standing = warnings.standing(NOON)
    assert len(standing) == WARNINGS_MAX
    assert standing[0].instance_id == f"i-{5:017x}", "the oldest go first"
