"""One process, from the notice to the parked state and beyond."""

import itertools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import holdfast
import pytest
from holdfast import parking, reports

Runs = Callable[..., holdfast.Run]


def events(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "ck" / "attempts.jsonl").read_text().splitlines()]


class Clocks:
    """Wall time that the test sets; the rest is real."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.clock = holdfast.Clock(wall=lambda: time.time() + self.ahead_s)


def test_save_on_advice_and_go_on(runs: Runs, tally: Any, node: Any, tmp_path: Path) -> None:
    counter = tally()
    told: list[str] = []
    run = runs(counter)
    run.on_notice(lambda notice: told.append(notice.id))
    for step in run.steps(8):
        counter.train(step)
        if step == 2:
            node.notify(id="a1", kind="advise", action="save")
    assert told == ["a1"]
    assert sorted(path.name for path in (tmp_path / "ck").glob("step-*")) == ["step-00000003.a0", "step-00000008.a0"]
    assert not run.should_stop
    status = node.report()
    assert (status["state"], status["notice_id"], status["stopped_on_notice"]) == ("done", "a1", False)
    assert [line["why"] for line in events(tmp_path) if line["event"] == "save_ended"] == ["notice", "final"]


def test_a_reclaim_that_was_cancelled(
    runs: Runs, tally: Any, node: Any, tmp_path: Path, quick_parking: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parked until a minute past the deadline, then on with training; the next notice parks again."""
    clocks, counter = Clocks(), tally()
    run = runs(counter, clock=clocks.clock, every_s=1e9)
    parked: list[dict[str, Any]] = []
    still: list[str] = []

    def agent() -> None:
        for number in (1, 2):
            while (rank := node.report("rank.0")).get("state") != "parked" or rank["notice_id"] != f"n{number}":
                time.sleep(0.005)
            parked.append({**node.report(), "rank": rank})
            time.sleep(0.05)
            still.append(node.report()["state"])
            clocks.ahead_s += 185

    watcher = threading.Thread(target=agent)
    watcher.start()
    for step in run.steps(6):
        counter.train(step)
        if step in (1, 3):
            node.notify(id=f"n{(step + 1) // 2}", deadline=time.time() + clocks.ahead_s + 120)
    watcher.join()
    assert [(report["saved_step"], report["checkpoint"]) for report in parked] == [(2, "step-00000002.a0"), (4, "step-00000004.a0")]
    assert all(report["stopped_on_notice"] and report["saved_tier"] == "shared" and report["bytes"] > 0 for report in parked)
    assert still == ["parked", "parked"]
    assert [report["rank"]["state"] for report in parked] == ["parked", "parked"]
    assert [report["rank"]["saved_step"] for report in parked] == [2, 4]
    told = capsys.readouterr().err
    assert "saved at step 2, safe to kill (notice n1: reclaimed)" in told
    assert "notice n1: still alive a minute past its deadline, going on from step 2" in told
    status = node.report()
    assert (status["state"], status["stopped_on_notice"], status["step"]) == ("done", False, 6)
    assert [line["event"] for line in events(tmp_path) if "parked" in line["event"]] == ["parked", "unparked"] * 2


def test_a_notice_that_is_withdrawn(
    runs: Runs, tally: Any, node: Any, tmp_path: Path, quick_parking: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is taken away: a parked process goes on at once, another does not park at all; should it come again, it counts."""
    counter = tally()
    run = runs(counter, every_s=1e9)
    file = node.path / "node" / "notice.json"

    def agent() -> None:
        while node.report("rank.0").get("state") != "parked":
            time.sleep(0.005)
        file.unlink()

    stopping = []
    for step in run.steps(6):
        counter.train(step)
        if step == 1:  # withdrawn within the step
            node.notify(id="again")
            run._watch.poll()  # as its thread does within a second, or when it is woken
            stopping.append(run.should_stop)
            file.unlink()
            run._watch.poll()
            stopping.append(run.should_stop)
        if step == 3:
            node.notify(id="again")
            threading.Thread(target=agent).start()
    assert stopping == [True, False]
    assert [(line["event"], line["step"]) for line in events(tmp_path) if "parked" in line["event"]] == [("parked", 4), ("unparked", 4)]
    assert "notice again: it was withdrawn, going on from step 4" in capsys.readouterr().err
    assert node.report()["state"] == "done"


def test_a_new_notice_while_parked_prolongs_it(runs: Runs, tally: Any, node: Any, quick_parking: None) -> None:
    clocks, counter = Clocks(), tally()
    run = runs(counter, clock=clocks.clock)
    seen: list[str] = []

    def agent() -> None:
        while node.report("rank.0").get("state") != "parked":
            time.sleep(0.005)
        node.notify(id="n2", deadline=time.time() + 1000)
        while node.report("rank.0")["notice_id"] != "n2":
            time.sleep(0.005)
        seen.append(node.report()["notice_id"])
        clocks.ahead_s = 500  # past the first one's deadline
        time.sleep(0.1)
        seen.append(node.report()["state"])
        clocks.ahead_s = 1100

    watcher = threading.Thread(target=agent)
    watcher.start()
    for step in run.steps(4):
        counter.train(step)
        if step == 1:
            node.notify()
    watcher.join()
    assert seen == ["n2", "parked"]
    assert node.report()["state"] == "done"


def test_a_notice_from_before_readiness(runs: Runs, tally: Any, node: Any, quick_parking: None, tmp_path: Path) -> None:
    """It is there before the process: nothing is trained, the state that was loaded is the state that is saved."""
    counter = tally()
    for step in runs(counter, every_steps=3).steps(3):
        counter.train(step)
    clocks = Clocks()
    node.notify()
    run = runs(tally(), clock=clocks.clock)
    threading.Thread(target=lambda: (time.sleep(0.1), setattr(clocks, "ahead_s", 200.0))).start()
    assert next(run.steps(9)) == 3
    before = [line for line in events(tmp_path) if line["attempt"] == 1]
    assert [line["event"] for line in before if line["event"] in ("notice_seen", "resumed", "parked", "save_began", "first_step")] == [
        "notice_seen",
        "resumed",
        "parked",
        "first_step",
    ]


def test_a_notice_during_a_save_parks_at_that_step(
    runs: Runs, tally: Any, node: Any, quick_parking: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is saved when the save in hand ends: no further step, and no second save, fits the window better."""
    clocks = Clocks()

    def reclaim(name: str) -> None:
        if name == "file-opened" and clocks.ahead_s == 0:
            node.notify()
            clocks.ahead_s = 200

    monkeypatch.setattr("holdfast.faults.hook", reclaim)
    assert list(runs(tally(), every_steps=2, asynchronous=False, clock=clocks.clock).steps(4)) == [0, 1, 2, 3]
    told = [(line["event"], line["step"]) for line in events(tmp_path) if line["event"] in ("save_began", "parked")]
    assert told == [("save_began", 2), ("parked", 2), ("save_began", 4)]


def test_a_notice_at_the_very_end_lets_the_run_finish(runs: Runs, tally: Any, node: Any) -> None:
    counter = tally()
    for step in runs(counter).steps(3):
        counter.train(step)
        if step == 2:
            node.notify()
    status = node.report()
    assert (status["state"], status["saved_step"], status["stopped_on_notice"], status["notice_id"]) == ("done", 3, False, "n1")


def test_saving_is_announced_before_the_first_byte(runs: Runs, tally: Any, node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    announced: list[dict[str, Any]] = []

    def look(name: str) -> None:
        if name == "folder-made":
            announced.append({**node.report("rank.0"), "status": node.report()["state"]})

    monkeypatch.setattr("holdfast.faults.hook", look)
    counter = tally()
    for step in runs(counter, every_steps=2, asynchronous=False, save_bandwidth_mib_s=1.0).steps(4):
        counter.train(step)
    assert [(report["state"], report["status"]) for report in announced] == [("saving", "saving")] * 2
    assert all(report["save_expected_s"] > 0 for report in announced)


def test_the_reports_have_the_keys_of_the_protocol(runs: Runs, tally: Any, node: Any) -> None:
    import os

    from holdfast import process

    counter = tally()
    run = runs(counter)
    ready = node.report("rank.0")
    assert (ready["pid"], ready["state"], ready["wake_signal"]) == (os.getpid(), "ready", 10)
    assert ready["started"] == pytest.approx(process.started(), abs=0.05)
    for step in run.steps(2):
        run.log(loss=0.25, text="x", bad=float("nan"))
        counter.train(step)
    assert set(node.report("rank.0")) == {
        *("v", "pid", "started", "rank", "world_size", "wake_signal", "state", "notice_id", "step", "step_s"),
        *("saved_step", "save_expected_s"),
    }
    assert set(node.report()) == {
        *("v", "state", "notice_id", "step", "total_steps", "saved_step", "saving_step", "saved_tier", "bytes", "checkpoint", "attempt"),
        *("stopped_on_notice", "steps_lost", "message", "metrics"),
    }
    assert node.report()["total_steps"] == 2


def test_a_failing_callback_costs_nothing(runs: Runs, tally: Any, node: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs(tally())
    run.on_notice(lambda notice: {}[notice.id])
    node.notify(action="save")
    assert list(run.steps(2)) == [0, 1]
    assert "on_notice callback failed: KeyError" in capsys.readouterr().err
    assert node.report()["saved_step"] == 2


def test_a_failed_save_on_notice_is_tried_again(runs: Runs, tally: Any, node: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = itertools.count(0, 0.3)
    failures = iter([True, True])

    def full(name: str) -> None:
        if name == "file-written" and next(failures, False):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("holdfast.faults.hook", full)
    node.notify(action="save")
    run = runs(tally(), clock=holdfast.Clock(monotonic=lambda: next(now)))
    assert list(run.steps(30)) == list(range(30))
    ended = [(line["why"], line["ok"]) for line in events(tmp_path) if line["event"] == "save_ended"]
    assert ended == [("notice", False), ("notice", False), ("notice", True), ("final", True)]


def test_periodic_saves_by_time(runs: Runs, tally: Any, tmp_path: Path) -> None:
    now = [0.0]
    for _ in runs(tally(), every_s=10, keep=20, asynchronous=False, clock=holdfast.Clock(monotonic=lambda: now[0])).steps(12):
        now[0] += 4
    assert [int(path.name[5:13]) for path in sorted((tmp_path / "ck").glob("step-*"))] == [3, 6, 9, 12]


def test_outside_holdfast_nothing_is_written_but_checkpoints(
    runs: Runs, tally: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(threading.enumerate())
    run = holdfast.Run(tally())
    assert list(run.steps(2)) == [0, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    assert run.attempt == 0
    assert set(threading.enumerate()) <= before


def test_a_script_that_has_finished_finishes_again_at_once(runs: Runs, tally: Any) -> None:
    counter = tally()
    for step in runs(counter).steps(3):
        counter.train(step)
    again = tally()
    assert list(runs(again).steps(3)) == []
    assert again.value == counter.value


def test_leaving_the_loop_early_is_done(runs: Runs, tally: Any, node: Any) -> None:
    for _ in runs(tally()).steps(100):
        break
    assert node.report()["state"] == "done"


@pytest.mark.parametrize("keys", [{"keep": 0}, {"every_steps": 0}, {"every_s": 0}, {"save_bandwidth_mib_s": -1}])
def test_arguments_that_cannot_work_are_refused(runs: Runs, keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|above 0|finite"):
        runs(**keys)


def test_objects_without_state_are_refused(runs: Runs) -> None:
    with pytest.raises(TypeError, match="sampler has no state_dict"):
        runs(sampler=object())


def test_what_a_parked_rank_says_is_told_before(runs: Runs, tally: Any, node: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its node may end it at once: whenever the rank's file says that it is parked, status.json and the timeline have said so."""
    clocks, wrong = Clocks(), []
    write = reports.replace

    def replace(path: Path, data: bytes) -> None:
        write(path, data)
        rank, status = node.report("rank.0"), node.report()
        if rank.get("state") == "parked":
            told = [line["event"] for line in events(tmp_path)][-1] in ("parked", "unparked")
            if not told or (status["state"], status["stopped_on_notice"], status["notice_id"]) != ("parked", True, rank["notice_id"]):
                wrong.append((rank, status))
            seen.append(path.name)
            clocks.ahead_s = 200

    seen: list[str] = []
    monkeypatch.setattr(reports, "replace", replace)
    monkeypatch.setattr(parking, "ROUND_S", 0.01)
    counter = tally()
    for step in runs(counter, clock=clocks.clock).steps(4):
        counter.train(step)
        if step == 1:
            node.notify()
    assert "rank.0.json" in seen
    assert wrong == []
