"""How a loop ends: with its last save or an error, by break, by an exception, with a log that cannot be written."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import holdfast
import pytest
from holdfast import coordinator, faults
from holdfast import run as run_module
from holdfast.jobdir import JobDirectory
from holdfast.peers import Peers
from holdfast.rehearsal import rehearse

Runs = Callable[..., holdfast.Run]


def events(path: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (path / "ck" / "attempts.jsonl").read_text().splitlines()]


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """The next so many writes find the disk full."""
    monkeypatch.setattr(coordinator, "FINAL_PAUSE_S", 0.0)

    def arrange(count: int) -> None:
        left = [count]

        def hook(name: str) -> None:
            if name == "file-written" and left[0]:
                left[0] -= 1
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(faults, "hook", hook)

    return arrange


def test_a_last_save_that_fails_is_an_error(
    runs: Runs, tally: Any, full: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    full(99)
    with pytest.raises(holdfast.SaveError, match="No space left"):
        list(runs(tally()).steps(3))
    assert "training goes on" not in capsys.readouterr().err


def test_a_last_save_is_tried_again(runs: Runs, tally: Any, full: Callable[[int], None], tmp_path: Path) -> None:
    full(2)
    assert list(runs(tally()).steps(3)) == [0, 1, 2]
    assert [path.name for path in (tmp_path / "ck").glob("step-*")] == ["step-00000003.a0"]


def test_a_periodic_save_of_the_last_step_is_its_last_save(runs: Runs, tally: Any, full: Callable[[int], None], tmp_path: Path) -> None:
    full(1)
    assert list(runs(tally(), every_steps=3).steps(3)) == [0, 1, 2]
    assert [path.name for path in (tmp_path / "ck").glob("step-*")] == ["step-00000003.a0"]


@pytest.mark.parametrize("what", ["asked", "notice"])
def test_the_last_save_comes_also_while_another_is_in_flight(runs: Runs, tally: Any, node: Any, tmp_path: Path, what: str) -> None:
    run = runs(tally())
    for step in run.steps(4):
        if step == 1:
            run.save()
        if step == 3:
            run.save() if what == "asked" else node.notify(action="save")
    assert "step-00000004.a0" in [path.name for path in (tmp_path / "ck").glob("step-*")]


def test_a_log_that_cannot_be_written_does_not_end_the_training(runs: Runs, tally: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    run = runs(tally(), every_steps=1)
    run.on_notice(lambda notice: None)
    monkeypatch.setattr(sys, "stderr", Full())
    run._board.tell("something")
    assert list(run.steps(3)) == [0, 1, 2]


def test_leaving_the_loop_on_a_notice_is_told_and_run_again(
    runs: Runs, tally: Any, node: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], until: Callable[..., Any]
) -> None:
    run = runs(tally(), every_steps=2, asynchronous=False)
    for step in run.steps(100):
        if step == 5:
            node.notify()
            until(lambda: run.should_stop)
        if run.should_stop:
            break
    status = node.report()
    assert (status["state"], status["stopped_on_notice"], status["steps_lost"], status["notice_id"]) == ("done", True, 1, "n1")
    assert "1 steps since the last checkpoint are lost" in capsys.readouterr().err
    assert events(tmp_path)[-1] == "left"


def test_leaving_the_loop_otherwise_is_no_reason_to_run_again(runs: Runs, tally: Any, node: Any) -> None:
    for step in runs(tally()).steps(100):
        if step == 5:
            break
    assert (node.report()["state"], node.report()["stopped_on_notice"]) == ("done", False)


def test_a_save_that_fails_after_break_is_told_and_raised_by_finish(runs: Runs, tally: Any, full: Callable[[int], None]) -> None:
    full(1)
    run = runs(tally())
    run.save()
    for step in run.steps(100):
        if step == 3:
            break
    with pytest.raises(holdfast.SaveError, match="No space left"):
        run.finish()
    run.finish()


def test_a_save_asked_for_in_the_step_that_breaks_is_told_not_to_be_there(
    runs: Runs, tally: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs(tally())
    for step in run.steps(100):
        if step == 3:
            run.save()
            break
    assert "the save that was asked for was not made" in capsys.readouterr().err


def test_save_saves_the_step_in_hand(runs: Runs, tally: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.agreement.LOOK_S", 60.0)
    run = runs(tally())
    for step in run.steps(100):
        if step == 41:
            run.save()
    assert "step-00000042.a0" in [path.name for path in (tmp_path / "ck").glob("step-*")]


def test_closing_twice_closes_nobody_elses_files(runs: Runs, tally: Any, node: Any, tmp_path: Path) -> None:
    run = runs(tally())
    run.close()
    with (tmp_path / "mine").open("w") as one, (tmp_path / "too").open("w") as other:
        run.close()
        one.write("x")
        other.write("x")
        one.flush()
        other.flush()


def ranks(monkeypatch: pytest.MonkeyPatch, act: Callable[[Peers], Any], count: int = 2) -> list[Any]:
    import threading

    from holdfast import process

    mine = threading.local()
    monkeypatch.setattr(process, "place", lambda environ: mine.peers.place)
    monkeypatch.setattr(run_module, "connect", lambda place: mine.peers)
    monkeypatch.setattr(JobDirectory, "find", staticmethod(lambda environ, warn: None))

    def one(peers: Peers) -> Any:
        mine.peers = peers
        return act(peers)

    return rehearse(count, one)


def test_a_loop_may_be_entered_again_after_an_error(monkeypatch: pytest.MonkeyPatch, tally: Any, tmp_path: Path) -> None:
    failures = [True]

    def hook(name: str) -> None:
        if name == "file-written" and failures and failures.pop():
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(faults, "hook", hook)

    def act(peers: Peers) -> int:
        run = holdfast.Run(tally(), directory=tmp_path / "ck", asynchronous=False)
        run.save()
        with pytest.raises(holdfast.SaveError):
            list(run.steps(50))
        list(run.steps(50))
        return run.step

    assert ranks(monkeypatch, act) == [50, 50]


def test_ranks_with_different_directories_are_refused_at_once(monkeypatch: pytest.MonkeyPatch, tally: Any, tmp_path: Path) -> None:
    def act(peers: Peers) -> str:
        run = holdfast.Run(tally(), directory=tmp_path / f"run-{peers.place.rank}")
        with pytest.raises(holdfast.HoldfastError, match="the ranks have different checkpoint directories") as caught:
            next(run.steps(5))
        return str(caught.value)

    assert len(set(ranks(monkeypatch, act))) == 1


def test_ranks_of_which_only_some_have_a_local_tier_are_refused(monkeypatch: pytest.MonkeyPatch, tally: Any, tmp_path: Path) -> None:
    def act(peers: Peers) -> bool:
        local = tmp_path / "disk" if peers.place.rank else None
        run = holdfast.Run(tally(), directory=tmp_path / "ck", local=local)
        with pytest.raises(holdfast.HoldfastError, match="only some have local="):
            next(run.steps(5))
        return True

    assert ranks(monkeypatch, act) == [True, True]


def test_tasks_of_an_array_do_not_share_a_directory(
    runs: Runs, tally: Any, slurm: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slurm(0)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    next(runs(tally()).steps(5))
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    with pytest.raises(holdfast.HoldfastError, match="another task of the array 7"):
        next(runs(tally()).steps(5))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    next(holdfast.Run(tally()).steps(5))
    assert (tmp_path / "checkpoints" / "task-3" / "attempt.json").exists()


def test_another_jobs_directory_is_taken_over_with_a_word(
    runs: Runs, tally: Any, slurm: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm(0)
    list(runs(tally()).steps(5))
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert list(runs(tally()).steps(5)) == []
    assert "was attempt 0 of job 7's: attempt 0 of job 8 goes on from its checkpoints" in capsys.readouterr().err


def test_the_same_attempt_may_start_twice_and_save_the_same_step(
    runs: Runs, tally: Any, slurm: Callable[[int], None], tmp_path: Path
) -> None:
    """torchrun starts its workers anew, or the batch script loops: Slurm's count stays, the folders differ."""
    slurm(2)
    list(runs(tally()).steps(5))
    (tmp_path / "ck" / "step-00000005.a2" / "rank0.pkl").write_bytes(b"damaged")
    again = runs(tally())
    assert list(again.steps(5)) == [0, 1, 2, 3, 4]
    assert again.attempt == 2
    assert sorted(path.name for path in (tmp_path / "ck").glob("*step-*")) == ["bad-step-00000005.a2", "step-00000005.a3"]


class Linked:
    def save_files(self, folder: Path) -> None:
        (folder / "weights").symlink_to("/etc/hostname")

    def load_files(self, folder: Path) -> None:
        raise AssertionError


def test_a_link_in_an_objects_folder_fails_the_save(runs: Runs) -> None:
    run = runs(Linked(), asynchronous=False)
    run.save()
    with pytest.raises(holdfast.SaveError, match="model/weights is no regular file"):
        list(run.steps(3))


def test_a_checkpoint_whose_publishing_only_seemed_to_fail_counts(
    runs: Runs, tally: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(coordinator, "FINAL_PAUSE_S", 0.0)
    failures = [True]

    def hook(name: str) -> None:
        if name == "manifest-renamed" and failures and failures.pop():
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(faults, "hook", hook)
    assert list(runs(tally()).steps(3)) == [0, 1, 2]
    assert [path.name for path in (tmp_path / "ck").glob("step-*")] == ["step-00000003.a0"]


def test_a_last_save_that_was_asked_for_is_tried_again_too(runs: Runs, tally: Any, full: Callable[[int], None]) -> None:
    full(1)
    run = runs(tally())
    for step in run.steps(3):
        if step == 2:
            run.save()
    assert run.step == 3


def test_a_second_loop_does_not_raise_the_firsts_fault(runs: Runs, tally: Any, full: Callable[[int], None], node: Any) -> None:
    full(1)
    run = runs(tally())
    run.save()
    for step in run.steps(100):
        if step == 3:
            break
    assert len(list(run.steps(100))) == 97
    assert node.report()["state"] == "done"


class Refuses:
    def save_files(self, folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    def load_files(self, folder: Path) -> None:
        raise AssertionError


def test_a_save_that_fails_before_it_is_copied_leaves_no_folder(runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(coordinator, "FINAL_PAUSE_S", 0.0)
    with pytest.raises(holdfast.SaveError, match="No space left"):
        list(runs(Refuses(), every_steps=1).steps(5))
    assert not list((tmp_path / "ck").glob("step-*"))


def test_deletions_do_not_give_way_for_ever(runs: Runs, tally: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves that follow each other faster than one is verified."""
    from holdfast import directory

    def slow(store: Any, folder: str, content: Any, names: Any = None, progress: Any = None) -> None:
        for done in range(20):
            time.sleep(0.002)
            progress(done, 20)

    monkeypatch.setattr(directory, "verify", slow)
    run = runs(tally(), every_steps=1, keep=2)
    most = 0
    for _ in run.steps(60):
        time.sleep(0.002)
        most = max(most, len(list((tmp_path / "ck").glob("step-*"))))
    assert most < 12


def test_should_stop_takes_no_lock(runs: Runs, tally: Any, node: Any, until: Callable[..., Any]) -> None:
    """So that a signal handler may ask it wherever the main thread is."""
    run = runs(tally())
    node.notify()
    until(lambda: run.should_stop)
    with run._watch._lock:
        assert run.should_stop
