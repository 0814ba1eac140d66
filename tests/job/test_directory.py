import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import holdfast
import pytest
from holdfast import faults
from holdfast.directory import CheckpointDirectory

Runs = Callable[..., holdfast.Run]


@pytest.fixture
def trained(runs: Runs, tally: Any, tmp_path: Path) -> Path:
    """Checkpoints of steps 2, 4 and 6, by attempt 0."""
    counter = tally()
    for step in runs(counter, every_steps=2).steps(6):
        counter.train(step)
    return tmp_path / "ck"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def resumed_step(runs: Runs, tally: Any) -> int:
    """The step at which a new attempt resumes, with the state of that step."""
    counter, fresh = tally(), tally()
    run = runs(counter)
    steps = run.steps(1000)
    first = next(steps)
    steps.close()  # type: ignore[attr-defined]
    for step in range(first):
        fresh.train(step)
    assert counter.value == fresh.value
    return first


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped byte": (lambda folder: flip(folder / "rank0.pkl"), "rank0.pkl"),
    "truncated": (lambda folder: (folder / "rank0.pkl").write_bytes((folder / "rank0.pkl").read_bytes()[:-1]), "rank0.pkl"),
    "missing file": (lambda folder: (folder / "rank0.pkl").unlink(), "rank0.pkl"),
    "edited manifest": (
        lambda folder: (folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes().replace(b'"step": 6', b'"step": 7')),
        "manifest.json",
    ),
    "empty manifest": (lambda folder: (folder / "manifest.json").write_bytes(b""), "manifest.json"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_checkpoint_is_named_quarantined_and_passed_over(
    fault: str, trained: Path, runs: Runs, tally: Any, node: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, named = FAULTS[fault]
    spoil(trained / "step-00000006.a0")
    assert resumed_step(runs, tally) == 4
    warning = next(line for line in capsys.readouterr().err.splitlines() if "is bad" in line)
    assert "step-00000006.a0" in warning
    assert named in warning
    bad = trained / "bad-step-00000006.a0"
    assert f'"file": "{named}"' in (bad / "reason.json").read_text()
    assert not (trained / "step-00000006.a0").exists()


def test_the_warning_stands_in_the_status(trained: Path, runs: Runs, tally: Any, node: Any) -> None:
    for name in ("step-00000006.a0", "step-00000004.a0", "step-00000002.a0"):
        flip(trained / name / "rank0.pkl")
    assert resumed_step(runs, tally) == 0
    assert "step-00000002.a0 is bad: rank0.pkl" in node.report()["message"]


def test_a_checkpoint_without_manifest_was_never_finished(trained: Path, runs: Runs, tally: Any) -> None:
    (trained / "step-00000006.a0" / "manifest.json").unlink()
    assert resumed_step(runs, tally) == 4
    assert not (trained / "step-00000006.a0").exists()


def test_an_unreadable_checkpoint_is_not_taken_for_bad(trained: Path, runs: Runs, tally: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = CheckpointDirectory.read

    def read(self: CheckpointDirectory, checkpoint: Any) -> Any:
        if checkpoint.step == 6:
            raise OSError(5, "Input/output error")
        return whole(self, checkpoint)

    monkeypatch.setattr(CheckpointDirectory, "read", read)
    assert resumed_step(runs, tally) == 4
    assert (trained / "step-00000006.a0" / "manifest.json").exists()


def test_later_attempts_win_and_names_are_never_used_again(trained: Path, runs: Runs, tally: Any) -> None:
    counter = tally()
    run = runs(counter, every_steps=1, keep=10)
    for step in run.steps(8):
        counter.train(step)
    names = sorted(path.name for path in trained.glob("step-*"))
    assert names[-2:] == ["step-00000007.a1", "step-00000008.a1"]
    assert run.attempt == 1


def test_the_newest_are_kept(runs: Runs, tally: Any, tmp_path: Path) -> None:
    for _ in runs(tally(), every_steps=1, keep=2).steps(7):
        pass
    assert sorted(path.name for path in (tmp_path / "ck").glob("step-*")) == ["step-00000006.a0", "step-00000007.a0"]


def test_a_checkpoint_stops_being_one_before_its_files_go(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[list[str]] = []
    folder = trained / "step-00000002.a0"
    monkeypatch.setattr(faults, "hook", lambda name: left.append([path.name for path in folder.iterdir()]) if folder.exists() else None)
    CheckpointDirectory(trained, lambda _text: None).prune(keep=2)
    assert left == [["rank0.pkl"]]
    assert not folder.exists()


def test_the_last_good_checkpoint_outlives_retention(trained: Path, runs: Runs, tally: Any) -> None:
    directory = CheckpointDirectory(trained, lambda _text: None)
    for step in (4, 6):
        flip(trained / f"step-{step:08d}.a0" / "rank0.pkl")
    directory.prune(keep=2)
    assert (trained / "step-00000002.a0" / "manifest.json").exists()
    assert resumed_step(runs, tally) == 2


def test_a_published_folder_is_never_written_into(runs: Runs, tally: Any, slurm: Callable[[int], None]) -> None:
    slurm(0)
    counter = tally()
    run = runs(counter, every_steps=5)
    steps = run.steps(100)
    for step in steps:
        counter.train(step)
        if step == 3:
            content = b"an orphan's"
            folder = run._path / "step-00000005.a0"
            folder.mkdir(parents=True)
            (folder / "manifest.json").write_bytes(content)
        if step == 5:
            break
    assert (folder / "manifest.json").read_bytes() == content
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]


def test_other_things_in_the_directory_are_left_alone(trained: Path, runs: Runs, tally: Any) -> None:
    (trained / "step-00000009.a0").symlink_to(trained / "step-00000002.a0")
    (trained / "step-notes.txt").write_text("mine")
    (trained / "step-1.a0").mkdir()
    assert resumed_step(runs, tally) == 6
    assert (trained / "step-notes.txt").read_text() == "mine"
    assert (trained / "step-1.a0").is_dir()


def test_a_save_that_fails_is_told_and_training_goes_on(
    runs: Runs, tally: Any, node: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(name: str) -> None:
        if name == "file-written":
            raise OSError(28, "No space left on device")

    counter = tally()
    run = runs(counter, every_steps=2, asynchronous=False)
    for step in run.steps(6):
        counter.train(step)
        monkeypatch.setattr(faults, "hook", full if step == 1 else None)
    assert "the save at step 2 failed, training goes on" in capsys.readouterr().err
    assert sorted(path.name for path in run._path.glob("step-*")) == ["step-00000004.a0", "step-00000006.a0"]
    assert node.report()["saved_step"] == 6


def test_a_save_that_was_asked_for_raises(runs: Runs, tally: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unpicklable:
        def __reduce__(self) -> str:
            raise pickle.PicklingError("no")

    counter = tally()
    run = runs(counter, asynchronous=False)
    steps = run.steps(6)
    next(steps)
    counter.value = Unpicklable()
    run.save()
    with pytest.raises(holdfast.SaveError, match="PicklingError"):
        next(steps)
    assert not list(run._path.glob("step-*"))
