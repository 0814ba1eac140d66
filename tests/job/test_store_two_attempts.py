"""A newer attempt takes over at every write boundary of an older one: whatever the older one still does is harmless."""

from pathlib import Path

import pytest
from holdfast import faults
from holdfast.clock import Clock
from holdfast.directory import CheckpointDirectory
from holdfast.errors import Fenced, StoreError
from holdfast.fence import Fence
from holdfast.store import FileStore, Store
from holdfast.store.transfer import copy_files
from store_bed import SMALL, describe, memory, put

pytest.importorskip("obstore")


class Rushing:
    """Time that passes only where somebody waits, so that a lock held by a frozen process is given up at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self.clock = Clock(monotonic=lambda: self.now, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def older(store: Store, source: Store) -> None:
    """Attempt 0 saves step 6 and deletes what is too old."""
    fence = Fence(store, Rushing().clock)
    fence.take("7", 0)
    faults.point("taken")
    content = describe(SMALL, 6)
    fence.check()
    copy_files(source, store, "step-00000006.a0", content)
    faults.point("sent")
    with fence.held():
        faults.point("about to publish")
        store.publish("step-00000006.a0", content.to_bytes())
    with fence.held():
        CheckpointDirectory(store, lambda _text: None).prune(2, guard=fence.check)


def newer(store: Store) -> int:
    """Attempt 1 takes over, resumes, and publishes step 5; the step that it resumes from."""
    fence = Fence(store, Rushing().clock)
    fence.take("7", 1)
    directory = CheckpointDirectory(store, lambda _text: None)
    directory.sweep(1)
    found = directory.newest_verified()
    assert found is not None
    put(store, 5, 1)
    return found[0].step


def run(store: Store, source: Store, number: int, monkeypatch: pytest.MonkeyPatch) -> tuple[str, int] | None:
    """Both, the newer one at the older one's write boundary `number`; that one's name and the older one's fate, None past the end."""
    for step in (1, 2, 4):
        put(store, step)
    count = 0
    where: list[str] = []
    resumed: list[int] = []

    def hook(name: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            where.append(name)
            monkeypatch.setattr(faults, "hook", None)
            resumed.append(newer(store))

    monkeypatch.setattr("holdfast.store.transfer.SMALL_BYTES", -1)  # one after the other: the order is the same each time
    monkeypatch.setattr(faults, "hook", hook)
    try:
        older(store, source)
    except (Fenced, StoreError, OSError) as fault:
        where.append(type(fault).__name__)
    finally:
        monkeypatch.setattr(faults, "hook", None)
    return (" ".join(where), resumed[0]) if where else None


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_at_every_boundary(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = memory()
    put(source, 6, files=SMALL, publish=False)
    seen: list[str] = []
    for number in range(1, 100):
        store = FileStore(tmp_path / str(number)) if kind == "file" else memory()
        outcome = run(store, source, number, monkeypatch)
        if outcome is None:
            break
        seen.append(outcome[0])
        directory = CheckpointDirectory(store, lambda _text: None)
        assert outcome[1] in (4, 6)
        assert directory.place(5, 1).published, "an older attempt deletes nothing of a newer one's"
        directory.check(directory.place(5, 1))
        # the third start: what the older attempt may have published in the moment of the change is whole, or it is found to be bad
        Fence(store, Clock()).take("7", 2)
        directory.sweep(2)
        found = directory.newest_verified()
        assert found is not None
        assert (found[0].step, found[0].attempt) in {(5, 1), (6, 0)}
        for one in directory.published():
            directory.check(one)
    assert len(seen) > 15
    fenced = [name for name in seen if name.endswith(" Fenced")]
    assert {"taken Fenced", "sent Fenced"} <= set(fenced)
