"""The pure part: from what a cloud says at one look to notices that appear and are cancelled."""

import pytest
from holdfast_common.errors import InputError
from holdfast_common.notice import Notice, NoticeKind
from holdfast_nodeagent.notices.aws import parse_instance_action, parse_maintenance, parse_rebalance
from holdfast_nodeagent.notices.base import MAX_PER_KIND, Answer, Change, Seen, Unclear, follow, notice_id, strongest
from holdfast_nodeagent.userdata import UserData, parse_user_data

NOW = 1_700_000_000.0


def step(active: Change | None, answer: Answer, now: float = NOW) -> Change:
    return follow(active.active if active else {}, "spot", answer, now, "i-1")


def preempt(in_s: float) -> tuple[Seen, ...]:
    return (Seen(NoticeKind.PREEMPT, NOW + in_s, "taken back"),)


def test_a_notice_appears_once() -> None:
    first = step(None, preempt(120))
    assert [notice.deadline for notice in first.appeared] == [NOW + 120]
    again = step(first, preempt(120), NOW + 1)
    assert again.appeared == again.cancelled == ()
    assert again.active["spot"][0].received == NOW


def test_its_id_is_the_same_for_a_new_process_and_another_for_another_instance() -> None:
    assert step(None, preempt(120), NOW).appeared[0].id == step(None, preempt(120), NOW + 50).appeared[0].id
    assert notice_id("i-1", NoticeKind.PREEMPT, NOW) != notice_id("i-2", NoticeKind.PREEMPT, NOW)


def test_absence_cancels_and_an_unclear_answer_changes_nothing() -> None:
    first = step(None, preempt(120))
    assert step(first, Unclear("slow")) == Change(first.active)
    gone = step(first, ())
    assert gone.cancelled == first.appeared
    assert gone.active["spot"] == ()


@pytest.mark.parametrize(("moved_s", "is_new"), [(30, False), (60, False), (61, True), (3600, True), (-1, True), (-60, True)])
def test_a_deadline_that_moves(moved_s: float, is_new: bool) -> None:
    first = step(None, preempt(120))
    change = step(first, preempt(120 + moved_s))
    assert bool(change.appeared) is is_new
    assert (change.cancelled == first.appeared) is is_new
    assert len(change.active["spot"]) == 1


def test_two_events_of_one_time_are_one_notice() -> None:
    event = Seen(NoticeKind.MAINTENANCE, NOW + 9000, "reboot")
    assert len(step(None, (event, event)).appeared) == 1


@pytest.mark.parametrize("step_s", [61.0, -61.0])
def test_a_deadline_that_moves_at_each_unclear_look_fills_no_memory(step_s: float) -> None:
    change, earliest = step(None, preempt(50_000)), NOW + 50_000
    for number in range(1, 500):
        at = 50_000 + number * step_s
        change = step(change, Unclear("another event is malformed", preempt(at)))
        earliest = min(earliest, NOW + at)
        deadlines = [notice.deadline for notice in change.active["spot"]]
        assert len(deadlines) <= MAX_PER_KIND + 1
        assert min(deadlines) == earliest  # what must be acted on first
        assert NOW + at in deadlines  # and what the cloud says now
    assert {notice.id for notice in change.cancelled}.isdisjoint(notice.id for notice in change.active["spot"])


def test_many_notices_of_one_kind_push_out_none_of_another() -> None:
    many = tuple(Seen(NoticeKind.MAINTENANCE, NOW + 1000.0 * number, "reboot") for number in range(100, 0, -1))
    for answer in ((*many, *preempt(90_000)), Unclear("odd", (*many, *preempt(90_000)))):
        kept = step(None, answer).active["spot"]
        assert [notice.deadline for notice in kept if notice.kind is NoticeKind.PREEMPT] == [NOW + 90_000]
        expected = [NOW + 1000.0 * number for number in range(1, MAX_PER_KIND + 1)]
        assert sorted(notice.deadline for notice in kept if notice.kind is NoticeKind.MAINTENANCE) == expected
        assert step(Change({"spot": kept}), answer, NOW + 1).appeared == ()


def test_the_strongest_is_the_one_that_evacuates_then_the_earliest() -> None:
    advice = Notice("a", NoticeKind.ADVISE, NOW - 5, NOW)
    late = Notice("b", NoticeKind.PREEMPT, NOW + 120, NOW)
    early = Notice("c", NoticeKind.PREEMPT, NOW + 30, NOW)
    assert strongest([advice, late, early], NOW) == early
    assert strongest([advice], NOW) == advice
    assert strongest([], NOW) is None


def test_instance_action() -> None:
    for action in ("terminate", "stop", "hibernate"):
        (seen,) = parse_instance_action(f'{{"action":"{action}","time":"2020-04-24T17:11:44Z"}}'.encode())
        assert (seen.kind, seen.at) == (NoticeKind.PREEMPT, 1587748304.0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"action":"terminate"}',
        b'{"action":"dance","time":"2020-04-24T17:11:44Z"}',
        b'{"action":"terminate","time":"2020-04-24"}',
        b'{"action":"terminate","time":"2020-13-24T17:11:44Z"}',
        b'{"action":"terminate","time":17}',
        b'{"action":["terminate"],"time":"2020-04-24T17:11:44Z"}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_malformed_instance_action_is_no_notice_and_not_its_absence(body: bytes) -> None:
    with pytest.raises(InputError):
        parse_instance_action(body)


def test_rebalance() -> None:
    (seen,) = parse_rebalance(b'{"noticeTime":"2020-10-16T19:18:24Z"}')
    assert (seen.kind, seen.at) == (NoticeKind.ADVISE, 1602875904.0)


def test_maintenance_as_list_or_single_object() -> None:
    event = b'{"NotBefore":"21 Jan 2019 09:00:43 GMT","Code":"system-reboot","EventId":"e","State":"active","Description":"d"}'
    for body in (b"[" + event + b"]", event):
        answer = parse_maintenance(body)
        assert isinstance(answer, tuple)
        (seen,) = answer
        assert (seen.kind, seen.at, seen.reason) == (NoticeKind.MAINTENANCE, 1548061243.0, "EC2 has scheduled system-reboot")
    assert parse_maintenance(b"[]") == ()
    assert parse_maintenance(event.replace(b"active", b"completed")) == ()


DUE = b'{"NotBefore":"21 Jan 2019 09:00:43 GMT","Code":"instance-retirement"}'


@pytest.mark.parametrize(
    "odd", [b"3", b'{"Code":"x"}', b'{"Code":"x","NotBefore":"soon GMT"}', b'{"NotBefore":"21 Jan 2019 09:00:43 GMT"}', b'"\\ud800"']
)
def test_an_odd_maintenance_event_hides_no_other_and_withdraws_none(odd: bytes) -> None:
    for body in (b"[" + odd + b"," + DUE + b"]", b"[" + DUE + b"," + odd + b"]"):
        answer = parse_maintenance(body)
        assert isinstance(answer, Unclear)
        assert "events/maintenance/scheduled: " in answer.fault
        assert [(seen.kind, seen.at) for seen in answer.seen] == [(NoticeKind.MAINTENANCE, 1548061243.0)]
    alone = parse_maintenance(odd)
    assert isinstance(alone, Unclear)
    assert alone.seen == ()


def test_events_that_are_over_hide_none_that_is_to_come() -> None:
    over = b",".join([DUE.replace(b"}", b',"State":"completed"}')] * 200)
    answer = parse_maintenance(b"[" + over + b"," + DUE + b"]")
    assert isinstance(answer, tuple)
    assert [seen.at for seen in answer] == [1548061243.0]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 50_000])
def test_what_is_no_list_of_maintenance_is_refused(body: bytes) -> None:
    with pytest.raises(InputError):
        parse_maintenance(body)


def test_user_data_alone_or_as_a_line() -> None:
    part = b'{"holdfast": {"v": 1, "cluster": "lab", "launch_id": "l-1", "launch_token": "t"}}'
    expected = UserData("lab", "l-1", "t")
    assert parse_user_data(part) == expected
    assert parse_user_data(b"#cloud-config\npackages: [munge]\n#holdfast " + part + b"\n") == expected
    for odd in (b"", b"#!/bin/sh\n", b'{"holdfast": {"v": 2, "cluster": "lab"}}', b"[1]", b'{"holdfast": {"v": 1, "cluster": 3}}'):
        assert parse_user_data(odd) == UserData()
