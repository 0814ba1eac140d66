"""Walks through all write boundaries of a scenario: killed at each in turn, then started again. Prints what it has walked through.

A process of its own, which forks: obstore's threads do not live on in a fork, so only the forks may use it.

    python store_walk.py SCENARIO LOCATION SCRATCH
"""

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from holdfast import faults
from holdfast.bandwidth import Limiter
from holdfast.clock import Clock
from holdfast.directory import CheckpointDirectory
from holdfast.fence import Fence
from holdfast.store import FileStore, Store, open_store
from holdfast.store.transfer import copy_files
from holdfast.writer import HashingWriter
from store_bed import SMALL, describe, overwrite, put

FILES = {**SMALL, "rank1.pkl": bytes(range(256)) * (36_000 if "://" in sys.argv[2] else 5_000)}


def write(store: Store, scratch: Path, step: int, attempt: int, files: dict[str, bytes]) -> None:
    """A save: into the store where it is a file system, else through a first tier."""
    first = store if isinstance(store, FileStore) else FileStore(scratch, local=True)
    folder = f"step-{step:08d}.a{attempt}"
    for name, data in files.items():
        path = first.root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with HashingWriter(path, "sha256", Limiter(None, Clock())) as file:
            file.write(data)
    content = describe(files, step, attempt)
    if first is not store:
        copy_files(first, store, folder, content)
    store.publish(folder, content.to_bytes())


def nothing(_store: Store, _scratch: Path) -> None:
    pass


def save(store: Store, scratch: Path) -> None:
    write(store, scratch, 6, 0, FILES)


def elsewhere(_store: Store, scratch: Path) -> None:
    put(FileStore(scratch), 6, files=FILES)


def copy(store: Store, scratch: Path) -> None:
    copy_files(FileStore(scratch), store, "step-00000006.a0", describe(FILES, 6))
    store.publish("step-00000006.a0", describe(FILES, 6).to_bytes())


def good(store: Store, _scratch: Path) -> None:
    put(store, 6)


def retain(store: Store, _scratch: Path) -> None:
    CheckpointDirectory(store, lambda _text: None).prune(1)


def rotten(store: Store, _scratch: Path) -> None:
    put(store, 6)
    overwrite(store, "step-00000006.a0/rank0.pkl", b"?" * len(SMALL["rank0.pkl"] + b"6"))


def set_aside(store: Store, _scratch: Path) -> None:
    CheckpointDirectory(store, lambda _text: None).newest_verified()


def unfinished(store: Store, _scratch: Path) -> None:
    put(store, 6, publish=False)
    Fence(store, Clock()).take("7", 0)


def enter(store: Store, _scratch: Path) -> None:
    CheckpointDirectory(store, lambda _text: None).sweep(0)


SCENARIOS = {"save": (nothing, save), "copy": (elsewhere, copy), "retain": (good, retain), "set_aside": (rotten, set_aside)}
SCENARIOS["enter"] = (unfinished, enter)


def next_start(store: Store, scratch: Path, scenario: str, reached: list[str]) -> None:
    """The next attempt finds a good checkpoint, which is the new one from its publication on, and can save the next one."""
    fence = Fence(store, Clock())
    attempt = fence.take("7", None).turn
    directory = CheckpointDirectory(store, lambda _text: None)
    directory.sweep(attempt)
    found = directory.newest_verified()
    assert found is not None, "no checkpoint is left"
    there = scenario == "retain" or {"manifest-renamed", "published"} & set(reached)
    assert found[0].step == (6 if there else 4), (found[0].name, reached)
    fence.check()
    write(store, scratch, 8, attempt, SMALL)
    directory.check(directory.place(8, attempt))
    directory.prune(1)
    assert [one.step for one in directory.all()] == [8], directory.all()
    assert [one.step for one in directory.set_aside()] == ([6] if scenario == "set_aside" else [])


def forked(action: Callable[[], None]) -> int:
    """Run it in a child; its wait status."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitpid(child, 0)[1]


def main(scenario: str, location: str, scratch: str) -> None:
    prepare, act = SCENARIOS[scenario]
    log = Path(scratch) / "points"
    if "://" in location:
        import holdfast.store.objects  # noqa: F401  (once for all forks: its threads start with the first call only)
    number = 0
    walked: list[str] = []
    while True:
        number += 1
        place, own = f"{location}/{number}", Path(scratch) / str(number)

        def die(place: str = place, own: Path = own, number: int = number) -> None:
            store = open_store(place, patience_s=5)
            put(store, 2)
            put(store, 4)
            prepare(store, own)
            count = 0
            log.write_text("")
            one_by_one = threading.Lock()  # small files are copied by several threads

            def hook(name: str) -> None:
                nonlocal count
                with one_by_one:
                    count += 1
                    with log.open("a") as file:
                        file.write(name + "\n")
                    if count == number:
                        os.kill(os.getpid(), signal.SIGKILL)
                        signal.pause()

            faults.hook = hook
            act(store, own)

        status = forked(die)
        killed = status == signal.SIGKILL
        assert killed or status == 0, status
        reached = log.read_text().split()
        assert forked(lambda: next_start(open_store(place, patience_s=5), own, scenario, reached)) == 0, (number, reached)  # noqa: B023
        if not killed:
            break
        walked.append(reached[-1])
    print(json.dumps(walked))


if __name__ == "__main__":
    main(*sys.argv[1:])
