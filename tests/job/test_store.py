"""What every store must do, on a file system, in memory, in S3 and in Cloud Storage; moto's S3 is a second opinion."""

import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from holdfast.clock import Clock
from holdfast.directory import CheckpointDirectory
from holdfast.errors import BadCheckpointError, Fenced, ProtocolError, StoreError
from holdfast.fence import Fence, read_owner
from holdfast.store import FileStore, Store
from holdfast.store.transfer import copy_files
from holdfast.store.verification import verify
from holdfast_sandbox.objects.control import ObjectStoreControl, running_object_store
from store_bed import BUCKET, ENVIRONMENT, SMALL, describe, digest, environment, memory, open_prefix, overwrite, put

pytest.importorskip("obstore")
FOLDER = "step-00000005.a0"
BIG = bytes(range(256)) * 36_000  # above one part


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreControl]:
    with running_object_store(tmp_path_factory.mktemp("objects"), [BUCKET]) as control:
        yield control


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    url = "http://{}:{}".format(*running.get_host_and_port())
    urlopen(Request(f"{url}/{BUCKET}", method="PUT"), timeout=10).close()
    yield url
    running.stop()


@pytest.fixture(params=["file", "memory", "s3", "gs", pytest.param("moto", marks=pytest.mark.long)])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "file":
        return FileStore(tmp_path / "ck")
    if request.param == "memory":
        return memory()
    if request.param == "moto":
        found = {**ENVIRONMENT, "AWS_ENDPOINT_URL": request.getfixturevalue("moto")}
    else:
        found = environment(request.getfixturevalue("server"))
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return open_prefix("s3" if request.param == "moto" else request.param, tmp_path.name)


def directory(store: Store) -> CheckpointDirectory:
    return CheckpointDirectory(store, lambda _text: None)


def test_nothing_there(store: Store) -> None:
    assert (store.folders(), store.files(FOLDER), store.load("attempt.json", 100)) == ([], {}, None)
    assert not store.exists(FOLDER + "/manifest.json")
    assert not store.holds(FOLDER + "/a", 0, "sha256:" + digest(b""))
    with pytest.raises(FileNotFoundError):
        store.read("attempt.json", 100)
    store.remove(FOLDER)


@pytest.mark.parametrize("name", ["rank0.pt", ".metadata", "model/sub/w.bin", "model/.zarray", "o/a+b=c @,(d).e-f_"])
@pytest.mark.parametrize("data", [b"", b"x", BIG], ids=["empty", "small", "two parts"])
def test_a_file_comes_back(store: Store, name: str, data: bytes) -> None:
    place = f"{FOLDER}/{name}"
    store.write(place, iter([data[:1000], data[1000:]]), len(data), f"sha256:{digest(data)}")
    assert b"".join(bytes(chunk) for chunk in store.chunks(place)) == data
    assert store.files(FOLDER) == {name: len(data)}
    assert store.holds(place, len(data), f"sha256:{digest(data)}")
    assert not store.holds(place, len(data), f"sha256:{digest(data + b'x')}")
    assert not store.holds(place, len(data) + 1, f"sha256:{digest(data)}")


@pytest.mark.parametrize("size", [10, len(BIG)])
def test_what_breaks_off_leaves_no_file(store: Store, size: int) -> None:
    def broken() -> Iterator[bytes]:
        yield BIG[: size // 2]
        yield BIG[size // 2 : size - 1]
        raise BadCheckpointError("a", "rotten")

    with pytest.raises(BadCheckpointError, match="rotten"):
        store.write(f"{FOLDER}/a", broken(), size, "sha256:" + digest(BIG[:size]))
    assert store.files(FOLDER) == {}


def test_a_manifest_is_written_once(store: Store) -> None:
    put(store, 5, publish=False)
    store.publish(FOLDER, b"mine")
    store.publish(FOLDER, b"mine")  # an answer was lost: the same again is no fault
    with pytest.raises(FileExistsError, match="never written again"):
        store.publish(FOLDER, b"yours")
    with pytest.raises(FileExistsError):
        store.publish(FOLDER, b"mine, and more")
    assert store.read(f"{FOLDER}/manifest.json", 100) == b"mine"


def test_swap_takes_only_what_was_read(store: Store) -> None:
    with store.locked(Clock()):
        assert store.swap("attempt.json", b"one", None)
        assert not store.swap("attempt.json", b"other", None)
        found = store.load("attempt.json", 100)
        assert found is not None
        assert store.swap("attempt.json", b"two", found[1])
        assert not store.swap("attempt.json", b"three", found[1])
    assert store.read("attempt.json", 100) == b"two"


def test_reading_is_bounded(store: Store) -> None:
    store.swap("attempt.json", b"x" * 101, None)
    with pytest.raises(ProtocolError, match="larger than 100 bytes"):
        store.read("attempt.json", 100)
    with pytest.raises(ProtocolError):
        store.load("attempt.json", 100)
    assert len(store.read("attempt.json", 101)) == 101


def test_folders_and_their_state(store: Store) -> None:
    put(store, 1)
    put(store, 2, publish=False)
    put(store, 3)
    overwrite(store, "notes.txt", b"mine")
    bad = directory(store)
    bad.quarantine(bad.place(3, 0), BadCheckpointError("rank0.pkl", "rotten"))
    assert [found.name for found in bad.all()] == ["step-00000002.a0", "step-00000001.a0"]
    assert [found.name for found in bad.published()] == ["step-00000001.a0"]
    assert [found.name for found in bad.unfinished()] == ["step-00000002.a0"]
    assert [found.step for found in bad.set_aside()] == [3]
    assert bad.newest_verified() is not None
    bad.remove(bad.set_aside()[0])
    bad.remove(bad.place(1, 0))
    assert [found.name for found in store.folders()] == ["step-00000002.a0"]
    assert store.read("notes.txt", 10) == b"mine"


def test_a_bad_one_is_set_aside_and_the_one_before_taken(store: Store) -> None:
    told: list[tuple[str, str, str]] = []
    for step in (2, 4, 6):
        put(store, step)
    overwrite(store, "step-00000006.a0/model/sub/weights.bin", bytes(50))
    found = CheckpointDirectory(store, lambda _text: None, lambda *what: told.append(what)).newest_verified()
    assert found is not None
    assert (found[0].step, [(name, file) for name, file, _ in told]) == (4, [("step-00000006.a0", "model/sub/weights.bin")])
    assert [one.step for one in directory(store).set_aside()] == [6]
    assert found[1] == directory(store).read(found[0])


@pytest.mark.parametrize("missing", sorted(SMALL))
def test_a_missing_file_is_bad(store: Store, missing: str) -> None:
    put(store, 5, files={name: data for name, data in SMALL.items() if name != missing}, publish=False)
    store.publish(FOLDER, describe(SMALL, 5).to_bytes())
    with pytest.raises(BadCheckpointError, match=missing):
        directory(store).check(directory(store).place(5, 0))


def test_sweeping_takes_what_was_never_finished(store: Store) -> None:
    put(store, 1)
    for step, attempt in ((2, 0), (3, 1), (4, 2)):
        put(store, step, attempt, publish=False)
    directory(store).sweep(1)
    assert sorted(one.step for one in directory(store).all()) == [1, 4]
    directory(store).sweep(2)
    assert [one.step for one in directory(store).all()] == [1]


def test_retention_keeps_the_newest_and_every_kth(store: Store) -> None:
    for step in range(1, 11):
        put(store, step)
    assert [one.step for one in directory(store).prune(2, keep_every=4)] == [7, 6, 5, 3, 2, 1]
    assert [one.step for one in directory(store).all()] == [10, 9, 8, 4]
    assert directory(store).prune(2, keep_every=4) == []


def test_retention_leans_on_no_bad_and_no_partial_checkpoint(store: Store) -> None:
    for step in (1, 2, 3):
        put(store, step)
    put(store, 4, partial=True)
    assert [one.step for one in directory(store).prune(1)] == [2, 1], "the partial one stays, and the whole one that it lies on"
    put(store, 1)
    put(store, 5, files={"rank0.pkl": b"x"}, publish=False)
    store.publish("step-00000005.a0", describe(SMALL, 5).to_bytes())
    assert directory(store).prune(1) == []
    assert [one.step for one in directory(store).prune(2)] == [1]


def test_retention_stops_when_the_directory_changes_hands(store: Store) -> None:
    for step in (1, 2, 3, 4):
        put(store, step)
    fence = Fence(store, Clock())
    fence.take("7", 0)
    asked = 0

    def guard() -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            Fence(store, Clock(sleep=lambda _s: None)).take("7", 1)
        fence.check()

    with pytest.raises(Fenced):
        directory(store).prune(1, guard=guard)
    assert [one.step for one in directory(store).all()] == [4, 2, 1]


def test_of_many_that_take_the_fence_one_owns_it(store: Store) -> None:
    fences = [Fence(store, Clock()) for _ in range(8)]
    threads = [threading.Thread(target=fence.take, args=("7", None)) for fence in fences]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fence.owner.attempt for fence in fences) == list(range(8))
    assert read_owner(store) == max((fence.owner for fence in fences), key=lambda owner: owner.attempt)
    assert sum(fence.previous is None for fence in fences) == 1


@pytest.fixture(params=["file", "s3", "memory"])
def source(request: pytest.FixtureRequest, server: ObjectStoreControl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    return {"file": lambda: FileStore(tmp_path / "from"), "s3": lambda: open_prefix("s3", f"{tmp_path.name}.from"), "memory": memory}[
        request.param
    ]()


def test_copying_from_any_store_to_any_other(source: Store, store: Store) -> None:
    files = {**SMALL, "big": BIG}
    checkpoint = put(source, 5, files=files)
    content = directory(source).check(checkpoint)
    done: list[tuple[int, int]] = []
    copy_files(source, store, FOLDER, content, {"big", "empty"})
    assert directory(store).published() == []
    copy_files(source, store, FOLDER, content, progress=lambda *what: done.append(what))
    assert done[-1] == (content.size_bytes, content.size_bytes)
    assert [count for count, _ in done] == sorted(count for count, _ in done)
    store.publish(FOLDER, source.read(f"{FOLDER}/manifest.json", 10_000))
    assert directory(store).check(directory(store).place(5, 0)) == content
    copy_files(source, store, FOLDER, content)
    with pytest.raises(StoreError, match="never written again"):
        copy_files(source, store, FOLDER, describe(SMALL, 5))


@pytest.mark.parametrize("rotten", ["rank0.pkl", "big"])
def test_a_rotten_file_is_not_copied(store: Store, rotten: str, tmp_path: Path) -> None:
    source = FileStore(tmp_path / "from")
    files = {**SMALL, "big": BIG}
    put(source, 5, files=files)
    overwrite(source, f"{FOLDER}/{rotten}", files[rotten][:-1] + b"?")
    with pytest.raises(BadCheckpointError) as caught:
        copy_files(source, store, FOLDER, describe(files, 5))
    assert caught.value.file == rotten
    assert rotten not in store.files(FOLDER)


def test_verifying_tells_how_far_it_is(store: Store) -> None:
    put(store, 5, files={**SMALL, "big": BIG})
    done: list[tuple[int, int]] = []
    verify(store, FOLDER, describe({**SMALL, "big": BIG}, 5), progress=lambda *what: done.append(what))
    total = len(BIG) + sum(map(len, SMALL.values()))
    assert done[-1] == (total, total)
    assert len(done) >= len(SMALL)


def test_what_cannot_be_read_now_is_not_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stale handle of a shared file system says nothing about what is there."""

    def stale(path: Path, *_rest: object) -> bytes:
        raise OSError(116, "Stale file handle", str(path))

    store = FileStore(tmp_path)
    put(store, 5)
    Fence(store, Clock()).take("7", 3)
    monkeypatch.setattr("holdfast.store.files.read_regular", stale)
    with pytest.raises(StoreError, match="Stale file handle"):
        directory(store).newest_verified()
    with pytest.raises(OSError, match="Stale file handle"):
        Fence(store, Clock()).take("7", 2)
    monkeypatch.undo()
    assert [one.step for one in directory(store).published()] == [5]


def test_of_unreadable_checkpoints_none_is_thrown_away(store: Store) -> None:
    """To start afresh because the store does not answer would cost the whole run."""

    def dead(_checkpoint: object) -> object:
        raise OSError(5, "Input/output error")

    put(store, 5)
    with pytest.raises(StoreError, match=r"step-00000005\.a0.*Input/output error"):
        directory(store).newest_verified(dead)  # type: ignore[arg-type]
    assert directory(store).newest_verified() is not None
