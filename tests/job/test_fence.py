import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import holdfast
import pytest
from holdfast.bandwidth import Limiter
from holdfast.clock import Clock
from holdfast.fence import Fence, read_owner
from holdfast.peers import Alone
from holdfast.process import Job
from holdfast.retention import Keep
from holdfast.saver import Saver
from holdfast.state import Training
from holdfast.tiers import tiers

Runs = Callable[..., holdfast.Run]
Slurm = Callable[[int], None]


@pytest.fixture
def superseded(runs: Runs, tally: Any, slurm: Slurm) -> Any:
    """Attempt 0's loop, in its fourth step, after attempt 1 has entered."""
    slurm(0)
    steps = runs(tally(), every_steps=2, keep=1, asynchronous=False).steps(100)
    for _ in range(4):
        next(steps)
    slurm(1)
    next(runs(tally(), every_steps=2).steps(100))
    return steps


def folders(path: Path) -> list[str]:
    return sorted(found.name for found in path.glob("step-*"))


def test_an_older_attempt_cannot_publish(superseded: Any, tmp_path: Path) -> None:
    before = folders(tmp_path / "ck")
    with pytest.raises(holdfast.Fenced, match="attempt 1 of job 7 has taken over"):
        next(superseded)
    assert folders(tmp_path / "ck") == before == ["step-00000002.a0"]


def saver(path: Path, attempt: int) -> Saver:
    made = Saver(tiers(path, None, {}), Alone(), Limiter(None, Clock()), Clock(), lambda _text: None)
    made.enter(Job("7", attempt, "n"))
    return made


def save(saver: Saver, step: int, training: Training, keep: int = 99) -> None:
    saver.begin(step, training, keep=Keep(keep), ended=lambda saved, fault: None).result()


def test_an_older_attempt_cannot_delete(tmp_path: Path, tally: Any) -> None:
    training = Training({"model": tally()}, {})
    old = saver(tmp_path, 0)
    for step in (1, 2, 3):
        save(old, step, training)
    saver(tmp_path, 1)
    with pytest.raises(holdfast.Fenced):
        save(old, 4, training, keep=1)
    assert len(folders(tmp_path)) == 3


def test_fencing_between_writing_and_publishing(tmp_path: Path, tally: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old = saver(tmp_path, 0)

    def overtaken(name: str) -> None:
        if name == "folder-synced":
            Fence(tmp_path, Clock()).take("7", 1)

    monkeypatch.setattr("holdfast.faults.hook", overtaken)
    with pytest.raises(holdfast.Fenced):
        save(old, 5, Training({"model": tally()}, {}))
    assert not (tmp_path / "step-00000005.a0" / "manifest.json").exists()


def test_an_older_attempt_cannot_enter(runs: Runs, tally: Any, slurm: Slurm) -> None:
    slurm(2)
    next(runs(tally()).steps(10))
    slurm(1)
    with pytest.raises(holdfast.Fenced, match="attempt 2 of job 7 owns"):
        next(runs(tally()).steps(10))


def test_a_restarted_process_of_the_same_attempt_takes_over(tmp_path: Path) -> None:
    first, second = Fence(tmp_path, Clock()), Fence(tmp_path, Clock())
    assert [(owner.attempt, owner.turn) for owner in (first.take("7", 1), second.take("7", 1))] == [(1, 1), (1, 2)]
    second.check()
    with pytest.raises(holdfast.Fenced):
        first.check()


def test_another_job_may_go_on_from_a_directory(tmp_path: Path) -> None:
    Fence(tmp_path, Clock()).take("7", 5)
    later = Fence(tmp_path, Clock())
    assert (later.take("8", 0).attempt, later.owner.turn) == (0, 6)
    later.check()
    assert later.previous is not None
    assert later.previous.job_id == "7"


def test_attempts_are_counted_outside_slurm(tmp_path: Path) -> None:
    assert [Fence(tmp_path, Clock()).take("", None).attempt for _ in range(3)] == [0, 1, 2]


def test_a_directory_whose_owner_is_gone_is_not_ours(tmp_path: Path) -> None:
    fence = Fence(tmp_path, Clock())
    fence.take("7", 0)
    (tmp_path / "attempt.json").unlink()
    with pytest.raises(holdfast.Fenced, match="gone"):
        fence.check()


def test_a_damaged_fence_is_taken_anew(tmp_path: Path) -> None:
    (tmp_path / "attempt.json").write_bytes(b"{")
    fence = Fence(tmp_path, Clock())
    assert fence.take("7", 3).attempt == 3
    fence.check()


def test_a_frozen_holder_of_the_lock_does_not_stop_the_next_attempt(tmp_path: Path) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    old = Fence(tmp_path, Clock())
    old.take("7", 0)
    with old.held():
        new = Fence(tmp_path, Clock(monotonic=lambda: now[0], sleep=sleep))
        assert new.take("7", 1).attempt == 1
    assert now[0] == pytest.approx(10, abs=0.1)


def test_the_fence_is_exclusive(tmp_path: Path) -> None:
    """Of eight that take it at once exactly one owns it afterwards, and what is on disk is that one's."""
    fences = [Fence(tmp_path, Clock()) for _ in range(8)]
    threads = [threading.Thread(target=fence.take, args=("7", 1)) for fence in fences]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    owner = read_owner(tmp_path)
    assert [fence.owner for fence in fences].count(owner) == 1  # type: ignore[arg-type]
    assert sum(fence.previous is None for fence in fences) == 1
