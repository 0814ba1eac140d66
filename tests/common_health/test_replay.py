"""A recording is judged as the agent would have judged, whatever wrote it, and what it does not understand is named."""

import itertools
import json
import time
from collections.abc import Iterable
from typing import Any

import pytest
from holdfast_common.health.recording import MAX_LINE, Said, parse_entry
from holdfast_common.health.replay import MOST_BAD, Change, Replay
from holdfast_common.health.rules import default_rules, parse_rules
from hypothesis import given
from hypothesis import strategies as st

T0 = 1_764_000_000.0
PCI = "PCI:0000:3b:00"
UUID = "GPU-5c7b"
XID_79 = "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."


def line(after_s: float, **what: Any) -> str:
    return json.dumps({"at": T0 + after_s} | what)


def reading(after_s: float, name: str, value: float | None, state: str = "ok", gpu: str = UUID) -> str:
    return line(after_s, reading=name, gpu=gpu, value=value, state=state)


def xid(after_s: float, code: int, pid: int = 0, pci: str = "0000:3b:00") -> str:
    who = f"pid={pid}, name=python, " if pid else ""
    return line(after_s, kmsg=f"NVRM: Xid (PCI:{pci}): {code}, {who}Ch 00000008")


def job(after_s: float, job_id: int, pids: Iterable[int] = (), gpus: Iterable[str] = ()) -> str:
    return line(after_s, job={"job_id": job_id, "pids": list(pids), "gpus": list(gpus)})


def replayed(*lines: str, rules: str = "") -> list[Change]:
    return list(Replay(parse_rules(rules) if rules else default_rules()).run(lines))


def told(changes: list[Change]) -> list[tuple[float, str, str, str, str | None]]:
    return [
        (round(each.at - T0, 1), each.what, each.finding.rule, str(each.finding.action), each.node and str(each.node)) for each in changes
    ]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        (f"[  412.500000] {XID_79}", 412.5),
        (f"<6>[  412.500000] {XID_79}", 412.5),
        (f"[  412.500000] node-1 kernel: {XID_79}", 412.5),
        (f"6,1234,412500000,-;{XID_79}", 412.5),
        (f"2025-11-24T16:00:00,250000+00:00 {XID_79}", T0 + 0.25),
        (f"2025-11-24T17:00:00+0100 node-1 kernel: {XID_79}", T0),
        (f"2025-11-24T16:00:00Z {XID_79}\n", T0),
        (json.dumps({"at": T0, "kmsg": XID_79}), T0),
    ],
)
def test_each_form_of_a_kernel_line(text: str, at: float) -> None:
    assert parse_entry(text) == Said(at, XID_79)
    (change,) = replayed(text)
    assert (change.at, change.finding.rule, change.finding.gpu) == (at, "xid-79", PCI)


@pytest.mark.parametrize("text", ["", "\n", "-- Boot 4a5b --", "-- No entries --"])
def test_headings_and_empty_lines_say_nothing(text: str) -> None:
    assert parse_entry(text) is None


def test_what_begins_changes_and_ends_and_what_the_node_would_have_done() -> None:
    changes = replayed(
        reading(0, "persistence_off", 1),
        *(xid(600 * n, 94) for n in range(1, 6)),
        reading(3300, "persistence_off", 0),
        reading(3360, "persistence_off", 0),
        reading(100_000, "up", 1),
    )
    assert told(changes) == [
        (0, "began", "persistence-off", "note", "note"),
        (600, "began", "xid-contained", "note", "note"),
        *((600.0 * n, "changed", "xid-contained", "note", "note") for n in range(2, 5)),
        (3000, "changed", "xid-contained", "drain", "drain"),
        (3360, "ended", "persistence-off", "note", "drain"),
        (87_000, "ended", "xid-contained", "drain", None),
    ]


def test_a_condition_that_has_held_long_enough_is_found_when_that_was_read() -> None:
    changes = replayed(*(reading(15 * n, "temperature_celsius", 95) for n in range(60)))
    assert told(changes) == [(600, "began", "hot", "note", "note")]
    assert changes[0].finding.since == T0


def test_all_that_was_read_at_one_time_is_judged_together() -> None:
    changes = replayed(reading(0, "up", 0), reading(0, "row_remap_failed", 1), reading(0, "up", 0, gpu="GPU-2"))
    assert told(changes)[0] == (0, "began", "row-remap-failed", "replace", "replace")
    assert {each.node for each in changes} == {"replace"}


def test_a_dry_run_is_shown_and_asks_nothing_of_the_node() -> None:
    rules = 'version = 1\n[[event]]\nname = "all"\nkind = "xid"\naction = "replace"\ndry_run = true\nadvice = "a"\nnext = "n"\n'
    (change,) = replayed(xid(0, 79), rules=rules)
    assert (change.finding.action, change.finding.dry_run, change.node) == ("replace", True, None)


def test_gpus_are_known_by_their_address_once_it_is_told() -> None:
    where = line(0, gpus={UUID: "00000000:3B:00.0"})
    assert [each.finding.gpu for each in replayed(xid(0, 79))] == [PCI]
    assert [each.finding.gpu for each in replayed(where, xid(0, 79))] == [UUID]
    assert [each.finding.gpu for each in replayed(reading(0, "up", 0, gpu="0000:3B:00.0"), xid(1, 79))] == [PCI, PCI]


def test_jobs_are_blamed_by_process_and_by_gpu() -> None:
    where = line(0, gpus={UUID: "0000:3b:00.0"})
    by_pid = replayed(job(0, 7, [411]), job(0, 8, [412]), xid(1, 31, 411), xid(600, 31, 412))
    assert [(each.finding.action, each.finding.job_ids) for each in by_pid] == [("note", (7,)), ("drain", ())]
    by_gpu = replayed(where, job(0, 7, gpus=[UUID]), xid(1, 31), job(2, 7), job(3, 8, gpus=["0000:3b:00.0"]), xid(600, 31))
    assert [(each.finding.action, each.finding.job_ids) for each in by_gpu] == [("note", (7,)), ("drain", ())]


def test_of_two_jobs_on_a_gpu_none_is_blamed() -> None:
    (change,) = replayed(job(0, 7, gpus=[PCI]), job(0, 8, gpus=[PCI]), xid(1, 31))
    assert change.finding.job_ids == ()


def test_a_message_of_several_lines_is_one() -> None:
    margin = " " * 15
    gone = ["[  412.500000] NVRM: The NVIDIA GPU 0000:3b:00.0", f"{margin}NVRM: (PCI ID: 10de:26b5) installed in this system has"]
    replay = Replay(default_rules())
    changes = list(replay.run([f"{margin}of a message before", *gone, f"{margin}NVRM: fallen off the bus and is not responding.", "bad"]))
    assert [(each.finding.rule, each.finding.gpu) for each in changes] == [("off-bus", PCI)]
    assert (replay.lines, next(iter(replay.bad_lines))[0]) == (5, 5)


def test_a_margin_without_end_is_bounded() -> None:
    replay = Replay(default_rules())
    assert list(replay.run(["[1.5] x", *[" " * 8 + "y" * 1000] * 1000, xid(0, 43)])) != []
    assert (replay.lines, replay.bad) == (1002, 0)


BAD = [
    ("what", "has no time"),
    ("{", "is no JSON object"),
    ("[1]", "has no time"),
    ('{"at": 1}', "must have one of kmsg, reading, job, gpus"),
    ('{"at": 1, "kmsg": "x", "reading": "up"}', "must have one of"),
    ('{"kmsg": "x"}', "at: Field required"),
    ('{"at": "1", "kmsg": "x"}', "at: Input should be a valid number"),
    ('{"at": -1, "kmsg": "x"}', "at: "),
    ('{"at": NaN, "kmsg": "x"}', ""),
    ('{"at": 1, "kmsg": "x", "more": 1}', "more: Extra inputs"),
    ('{"at": 1, "reading": "upp", "value": 1}', "did you mean 'up'"),
    ('{"at": 1, "reading": "up", "value": null}', "has a value where its state is ok"),
    ('{"at": 1, "reading": "up", "value": 1, "state": "failed"}', "has a value where its state is ok"),
    ('{"at": 1, "job": {"job_id": 0}}', "job.job_id: "),
    ("2025-13-40T99:00:00+00:00 x", ""),
    ("x" * (MAX_LINE + 1), f"is longer than {MAX_LINE} characters"),
    ('{"a":' * 5_000, "is no JSON object"),
]


@pytest.mark.parametrize(("text", "fault"), BAD, ids=[text[:40] for text, _ in BAD])
def test_a_bad_line_is_named_and_the_rest_goes_on(text: str, fault: str) -> None:
    replay = Replay(default_rules())
    changes = list(replay.run([xid(0, 43), text, xid(1, 79)]))
    assert [each.finding.rule for each in changes] == ["xid-ignored", "xid-79"]
    assert (replay.bad, replay.lines, replay.events) == (1, 3, 2)
    ((number, said),) = replay.bad_lines
    assert number == 2
    assert fault in said
    assert len(said) < 400


def test_of_many_bad_lines_all_are_counted_and_the_last_are_named() -> None:
    replay = Replay(default_rules())
    assert list(replay.run(["bad"] * 1000)) == []
    assert (replay.bad, len(replay.bad_lines), replay.bad_lines[-1][0]) == (1000, MOST_BAD, 1000)


def test_a_line_of_an_earlier_time_does_not_turn_time_back() -> None:
    changes = replayed(xid(100, 43), xid(0, 79))
    assert [round(each.at - T0) for each in changes] == [100, 100]


@given(st.lists(st.text(max_size=60) | st.sampled_from([xid(0, 79), reading(0, "up", 0), job(0, 7, [1]), f"[1.5] {XID_79}"]), max_size=20))
def test_whatever_is_recorded_it_ends(lines: list[str]) -> None:
    replay = Replay(default_rules())
    for change in replay.run(lines):
        assert change.what in ("began", "changed", "ended")
    assert replay.lines == len(lines)


def test_a_large_log_is_read_in_a_short_time() -> None:
    lines = (f"[{n / 10:.6f}] usb 1-1: new device number {n}" for n in itertools.count())
    began = time.process_time()
    assert list(Replay(default_rules()).run(itertools.islice(lines, 100_000))) == []
    assert time.process_time() - began < 5.0
