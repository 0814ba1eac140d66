"""Training goes on while a checkpoint is written: what a notice, a failure or the end does to a save in flight."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import holdfast
import pytest
from holdfast import faults

Runs = Callable[..., holdfast.Run]


class Gate:
    """Holds the saving thread at a fault point until it is opened."""

    def __init__(self, point: str) -> None:
        self.point = point
        self.reached, self.open = threading.Event(), threading.Event()
        self.fault: Exception | None = None

    def __call__(self, name: str) -> None:
        if name == self.point:
            self.reached.set()
            assert self.open.wait(20)
            if self.fault is not None:
                fault, self.fault = self.fault, None
                raise fault


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate("file-written")
    monkeypatch.setattr(faults, "hook", made)
    yield made
    made.open.set()


def events(path: Path, *names: str) -> list[tuple[Any, ...]]:
    lines = [json.loads(line) for line in (path / "ck" / "attempts.jsonl").read_text().splitlines()]
    return [(line["event"], line["step"]) for line in lines if line["event"] in names]


def test_training_goes_on_and_later_values_do_not_reach_the_file(runs: Runs, tally: Any, gate: Gate, tmp_path: Path) -> None:
    counter = tally()
    run = runs(counter)
    for step in run.steps(8):
        counter.train(step)
        if step == 1:
            run.save()
        if step == 5:
            assert gate.reached.wait(5)
            assert events(tmp_path, "save_ended") == [], "the save of step 2 is still being written"
            gate.open.set()
    assert events(tmp_path, "save_began", "save_ended") == [("save_began", 2), ("save_ended", 2), ("save_began", 8), ("save_ended", 8)]
    again = tally()
    for name in (tmp_path / "ck").glob("step-00000008*"):
        (name / "manifest.json").unlink()
    assert next(runs(again).steps(9)) == 2
    expected = tally()
    expected.train(0)
    expected.train(1)
    assert again.value == expected.value


def test_a_notice_waits_for_the_save_in_flight_and_then_saves_its_own_step(
    runs: Runs, tally: Any, node: Any, gate: Gate, quick_parking: None, tmp_path: Path
) -> None:
    counter = tally()
    ahead = [0.0]
    run = runs(counter, clock=holdfast.Clock(wall=lambda: time.time() + ahead[0]))
    threading.Timer(0.2, gate.open.set).start()
    for step in run.steps(6):
        counter.train(step)
        if step == 1:
            run.save()
        if step == 3:
            assert gate.reached.wait(5)
            node.notify()
            threading.Timer(0.6, lambda: ahead.__setitem__(0, 200.0)).start()
    told = events(tmp_path, "save_began", "parked")
    assert told[:3] == [("save_began", 2), ("save_began", 4), ("parked", 4)]


def test_a_failed_save_in_flight_is_told_and_the_next_one_tries_again(
    runs: Runs, tally: Any, gate: Gate, node: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate.fault = OSError(28, "No space left on device")
    run = runs(tally(), every_steps=2)
    for step in run.steps(6):
        if step == 2:
            assert gate.reached.wait(5)
            gate.open.set()
    assert "the save at step 2 failed, training goes on" in capsys.readouterr().err
    assert node.report()["saved_step"] == 6
    assert [path.name for path in sorted((tmp_path / "ck").glob("step-*"))] == ["step-00000004.a0", "step-00000006.a0"]


def test_a_failed_save_that_was_asked_for_raises_in_the_loop_or_at_its_end(runs: Runs, tally: Any, gate: Gate) -> None:
    gate.fault = OSError(28, "No space left on device")
    run = runs(tally())
    run.save()

    def train() -> None:
        for step in run.steps(1000):
            time.sleep(0.001)
            if step == 3:
                gate.open.set()

    with pytest.raises(holdfast.SaveError, match="No space left"):
        train()
    assert run.step < 1000


def test_a_save_in_flight_is_finished_when_the_loop_is_left(runs: Runs, tally: Any, gate: Gate, tmp_path: Path) -> None:
    run = runs(tally())
    threading.Timer(0.2, gate.open.set).start()
    for step in run.steps(100):
        if step == 3:
            break
        run.save()
    assert [path.name for path in (tmp_path / "ck").glob("step-*/manifest.json")] == ["manifest.json"]


def test_seconds_count_only_once_a_save_is_over(runs: Runs, tally: Any, gate: Gate, tmp_path: Path) -> None:
    """A save that takes longer than the interval is not followed by one that waits for it."""
    run = runs(tally(), every=0.02)
    for step in run.steps(40):
        time.sleep(0.005)
        if step == 30:
            assert [name for name, _ in events(tmp_path, "save_began")] == ["save_began"]
            gate.open.set()
    assert len(events(tmp_path, "save_ended")) >= 2


def test_at_a_period_the_save_before_is_waited_for(runs: Runs, tally: Any, gate: Gate, tmp_path: Path) -> None:
    run = runs(tally(), every_steps=2, keep=9)
    threading.Timer(0.2, gate.open.set).start()
    for _ in run.steps(6):
        pass
    assert [path.name[5:13] for path in sorted((tmp_path / "ck").glob("step-*"))] == ["00000002", "00000004", "00000006"]


def test_too_little_time_keeps_the_last_checkpoint_and_says_what_is_lost(
    runs: Runs, tally: Any, node: Any, quick_parking: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full save takes about 2 s here; the notice leaves half a second beyond the margin."""
    counter = tally()
    ahead = [0.0]
    clock = holdfast.Clock(wall=lambda: time.time() + ahead[0])

    def slow(name: str) -> None:
        if name == "file-written":
            time.sleep(1.0)

    faults.hook = slow
    try:
        run = runs(counter, every_steps=3, clock=clock, asynchronous=False)
        for step in run.steps(6):
            counter.train(step)
            if step == 4:
                node.notify(deadline=time.time() + 3.5)
                threading.Timer(0.3, lambda: ahead.__setitem__(0, 200.0)).start()
    finally:
        faults.hook = None
    assert events(tmp_path, "save_began", "parked") == [("save_began", 3), ("parked", 5), ("save_began", 6)]
    told = capsys.readouterr().err
    assert "the checkpoint of step 3 stands, 2 steps lost" in told
    assert "safe to kill, 2 steps since step 3 are lost" in told


def test_frameworks_may_own_the_loop(runs: Runs, tally: Any, node: Any) -> None:
    counter = tally()
    run = runs(counter)
    assert run.start(4) == 0
    for step in range(4):
        counter.train(step)
        run.step_done()
    run.finish()
    assert (node.report()["state"], node.report()["saved_step"]) == ("done", 4)
    again = tally()
    second = runs(again)
    assert second.start(4) == 4
    assert again.value == counter.value


class Words:
    """A loader of four batches in each epoch."""

    def __init__(self) -> None:
        self.position = 0

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[int]:
        first = True
        while first or self.position % 4:
            first = False
            self.position += 1
            yield self.position - 1

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def test_epochs_go_on_in_the_middle_of_one_and_are_done_when_their_body_is(runs: Runs, tally: Any) -> None:
    def train(stop_at: int | str | None) -> list[tuple[int, int | str]]:
        seen: list[tuple[int, int | str]] = []
        run = runs(tally(), loader=Words(), every_steps=1, asynchronous=False)
        for epoch in run.epochs(3):
            for batch in run.batches():
                seen.append((epoch, batch))
                if batch == stop_at:
                    return seen
            if stop_at == f"validation {epoch}":
                return seen
            seen.append((epoch, "validated"))
        return seen

    assert train(5) == [(0, 0), (0, 1), (0, 2), (0, 3), (0, "validated"), (1, 4), (1, 5)]
    assert train("validation 1") == [(1, 5), (1, 6), (1, 7)]
    assert train(None) == [(1, "validated"), (2, 8), (2, 9), (2, 10), (2, 11), (2, "validated")]
    assert train(None) == [(2, "validated")]


def test_epochs_need_a_loader_with_a_length(runs: Runs, tally: Any) -> None:
    with pytest.raises(TypeError, match="epochs need a loader with a length"):
        next(runs(tally()).epochs(3))
