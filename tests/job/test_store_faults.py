"""A store that refuses, is slow, cuts off or loses answers, and a disk that is full."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from holdfast import faults
from holdfast.bandwidth import Limiter
from holdfast.clock import Clock
from holdfast.directory import CheckpointDirectory
from holdfast.errors import BadCheckpointError, Fenced, StoreError
from holdfast.fence import Fence
from holdfast.manifest import Manifest
from holdfast.store import FileStore, Store
from holdfast.store.transfer import copy_files
from holdfast.writer import HashingWriter
from holdfast_sandbox.objects.control import ObjectStoreControl, running_object_store
from store_bed import BUCKET, SMALL, describe, environment, open_prefix, overwrite, put

pytest.importorskip("obstore")
FOLDER = "step-00000005.a0"
FILES = {**SMALL, "big": bytes(range(256)) * 33_000}  # two parts


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreControl]:
    with running_object_store(tmp_path_factory.mktemp("objects"), [BUCKET]) as control:
        yield control


@pytest.fixture
def control(server: ObjectStoreControl, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStoreControl]:
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    server.clear()
    yield server
    server.clear()


BOTH = pytest.mark.parametrize("store", ["s3", pytest.param("gs", marks=pytest.mark.long)], indirect=True)


@pytest.fixture(params=["s3", "gs"])
def store(request: pytest.FixtureRequest, control: ObjectStoreControl, tmp_path: Path) -> Store:
    return open_prefix(request.param, tmp_path.name)


@pytest.fixture
def local(tmp_path: Path) -> FileStore:
    made = FileStore(tmp_path / "local", local=True)
    put(made, 5, files=FILES)
    return made


CONTENT: Manifest = describe(FILES, 5)
PASSING: dict[str, dict[str, Any]] = {
    "refusals": {"mode": "error", "code": "SlowDown", "count": 4},
    "slow": {"mode": "slow", "seconds": 0.05, "count": 6},
    "a small file cut off": {"mode": "cut", "action": "PutObject", "bytes": 10, "count": 2},
    "parts cut off": {"mode": "cut", "action": "UploadPart", "bytes": 100_000, "count": 3},
    "the answer for a small file lost": {"mode": "hang", "action": "PutObject", "after": True, "count": 2},
    "the answer for a part lost": {"mode": "hang", "action": "UploadPart", "after": True, "count": 2},
    "the answer for the start lost": {"mode": "hang", "action": "CreateMultipartUpload", "after": True, "count": 1},
    "the answer for the end lost": {"mode": "hang", "action": "CompleteMultipartUpload", "after": True, "count": 1},
    "the end done, but an error told": {
        "mode": "error",
        "action": "CompleteMultipartUpload",
        "code": "InternalError",
        "after": True,
        "count": 1,
    },
}


@BOTH
@pytest.mark.parametrize("fault", PASSING)
def test_an_upload_outlives_what_passes(fault: str, store: Store, local: FileStore, control: ObjectStoreControl) -> None:
    control.fail(**PASSING[fault])
    copy_files(local, store, FOLDER, CONTENT)
    store.publish(FOLDER, CONTENT.to_bytes())
    CheckpointDirectory(store, pytest.fail).check(CheckpointDirectory(store, pytest.fail).place(5, 0))


@BOTH
@pytest.mark.parametrize(
    "fault",
    [
        {"mode": "error", "code": "SlowDown", "count": 4},
        {"mode": "slow", "seconds": 0.05, "count": 6},
        {"mode": "cut", "action": "GetObject", "bytes": 1000, "count": 4},
        {"mode": "hang", "action": "GetObject", "count": 3},
    ],
    ids=lambda fault: fault["mode"],
)
def test_a_download_outlives_what_passes(fault: dict[str, Any], store: Store, local: FileStore, control: ObjectStoreControl) -> None:
    copy_files(local, store, FOLDER, CONTENT)
    control.fail(**fault)
    back = FileStore(local.root / "back")
    copy_files(store, back, FOLDER, CONTENT)
    back.publish(FOLDER, CONTENT.to_bytes())
    CheckpointDirectory(back, pytest.fail).check(CheckpointDirectory(back, pytest.fail).place(5, 0))


@pytest.mark.parametrize(("code", "told"), [("SlowDown", "503"), ("AccessDenied", "refuses these credentials")])
@pytest.mark.parametrize("action", ["UploadPart", "PutObject", "GetObject"])
def test_what_lasts_is_named(action: str, code: str, told: str, local: FileStore, control: ObjectStoreControl, tmp_path: Path) -> None:
    store = open_prefix("s3", tmp_path.name, patience_s=0.3)
    if action == "GetObject":
        copy_files(local, store, FOLDER, CONTENT)
    control.fail("error", action=action, code=code)
    way = (store, FileStore(tmp_path / "back")) if action == "GetObject" else (local, store)
    with pytest.raises(StoreError, match=told) as caught:
        copy_files(*way, FOLDER, CONTENT)
    assert f"s3://{BUCKET}/{tmp_path.name}/{FOLDER}/" in str(caught.value)
    assert len(str(caught.value)) < 900


def test_an_upload_that_failed_leaves_no_parts_and_goes_on(local: FileStore, control: ObjectStoreControl, tmp_path: Path) -> None:
    store = open_prefix("s3", tmp_path.name, patience_s=0.3)
    control.fail("error", action="UploadPart")
    with pytest.raises(StoreError):
        copy_files(local, store, FOLDER, CONTENT)
    assert control.counts()["AbortMultipartUpload 204"] == 1
    assert set(store.files(FOLDER)) == set(SMALL)
    control.clear()
    copy_files(local, store, FOLDER, CONTENT)
    assert "PutObject" not in control.bytes_in(), "what was complete is not sent again"
    assert control.bytes_in()["UploadPart"] == len(FILES["big"])


def test_bytes_that_change_on_the_way_do_not_arrive(local: FileStore, control: ObjectStoreControl, tmp_path: Path) -> None:
    """What a store keeps wrongly after its own checks is found when it is read; a store that checks nothing is read back at once."""
    s3, gs = (open_prefix(scheme, f"{tmp_path.name}.{scheme}") for scheme in ("s3", "gs"))
    control.fail("corrupt", action="UploadPart", count=2)
    copy_files(local, s3, FOLDER, CONTENT)
    s3.publish(FOLDER, CONTENT.to_bytes())
    with pytest.raises(BadCheckpointError, match="big"):
        CheckpointDirectory(s3, pytest.fail).check(CheckpointDirectory(s3, pytest.fail).place(5, 0))
    control.fail("corrupt", action="UploadPart", count=1)
    with pytest.raises(StoreError, match=r"big came back with another sha256 hash than was sent; deleted"):
        copy_files(local, gs, FOLDER, CONTENT)
    assert "big" not in gs.files(FOLDER)


LOST: dict[str, dict[str, Any]] = {
    "lost": {"mode": "hang", "action": "PutObject", "after": True, "count": 1},
    "told as an error": {"mode": "error", "action": "PutObject", "code": "InternalError", "after": True, "count": 1},
    "told as an error, for ever": {"mode": "error", "action": "PutObject", "code": "InternalError", "after": True},
}


@pytest.mark.parametrize("fault", LOST)
def test_a_publication_whose_answer_is_lost_counts(fault: str, store: Store, control: ObjectStoreControl) -> None:
    control.fail(**LOST[fault])
    store.publish(FOLDER, b"mine")
    with pytest.raises(FileExistsError):
        store.publish(FOLDER, b"yours")
    assert store.read(f"{FOLDER}/manifest.json", 10) == b"mine"


@pytest.mark.parametrize("fault", LOST)
def test_a_fence_whose_answer_is_lost_is_taken(fault: str, store: Store, control: ObjectStoreControl) -> None:
    old = Fence(store, Clock())
    old.take("7", 0)
    control.fail(**LOST[fault])
    new = Fence(store, Clock())
    assert new.take("7", None).attempt == 1
    assert new.previous == old.owner
    new.check()
    with pytest.raises(Fenced, match="attempt 1 of job 7 has taken over"):
        old.check()


def test_whether_something_was_published_may_stay_unknown(control: ObjectStoreControl, tmp_path: Path) -> None:
    store = open_prefix("s3", tmp_path.name, patience_s=0.3)
    control.fail("error", prefix=tmp_path.name)
    with pytest.raises(StoreError, match="whether it was written cannot be seen"):
        store.publish(FOLDER, b"mine")


def test_a_store_that_does_not_answer_is_no_empty_directory(control: ObjectStoreControl, tmp_path: Path) -> None:
    store = open_prefix("s3", tmp_path.name, patience_s=0.3)
    put(store, 5)
    control.fail("error", action="GetObject")
    with pytest.raises(StoreError, match="is known to be good"):
        CheckpointDirectory(store, lambda _text: None).newest_verified()
    control.fail("error", action="ListObjectsV2")
    with pytest.raises(StoreError, match="503"):
        CheckpointDirectory(store, lambda _text: None).newest_verified()
    control.clear()
    assert CheckpointDirectory(store, pytest.fail).newest_verified() is not None


def test_a_bucket_that_does_not_exist_is_named(control: ObjectStoreControl) -> None:
    from holdfast.store import open_store

    store = open_store("s3://nowhere/run", patience_s=0.3)
    with pytest.raises(OSError, match="s3://nowhere/run") as caught:
        Fence(store, Clock()).take("7", 0)
    assert isinstance(caught.value, StoreError)


MEMORY = """
import os, re, sys
from pathlib import Path
from holdfast.hashing import file_hash
from holdfast.manifest import FileEntry, Manifest
from holdfast.store import FileStore, open_store
from holdfast.store.transfer import copy_files
local, target = FileStore(Path(sys.argv[1])), open_store(sys.argv[2])
folder = local.root / "step-00000001.a0"
folder.mkdir(parents=True)
with (folder / "big").open("wb") as file:
    for _ in range(24):
        file.write(os.urandom(4 << 20))
entry = FileEntry(96 << 20, file_hash(folder / "big", "sha256"), 0)
content = Manifest(1, 0, "7", 1, None, "sha256", 1.0, {"big": entry})
list(target.folders())
def peak_mib():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
before = peak_mib()
copy_files(local, target, folder.name, content)
copy_files(target, FileStore(local.root / "back"), folder.name, content)
print(peak_mib() - before)
"""


def test_memory_is_bounded(control: ObjectStoreControl, tmp_path: Path) -> None:
    """96 MiB there and back, with parts of 8 MiB, four at once."""
    argv = [sys.executable, "-c", MEMORY, str(tmp_path), f"s3://{BUCKET}/{tmp_path.name}"]
    ran = subprocess.run(argv, capture_output=True, text=True, check=True)
    print(ran.stdout)
    assert int(ran.stdout) < 70, f"{ran.stdout} MiB"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)], capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_costs_only_the_save_in_progress(full_disk: Path, tmp_path: Path) -> None:
    store, source = FileStore(full_disk), FileStore(tmp_path / "from")
    put(store, 4)
    files = {"rank0.pkl": b"x" * 100_000, "rank1.pkl": b"y" * 300_000}
    put(source, 5, files=files)
    with pytest.raises(OSError, match="No space left"):
        copy_files(source, store, FOLDER, describe(files, 5))
    assert set(store.files(FOLDER)) <= {"rank0.pkl"}
    (full_disk / "writer").mkdir()
    with pytest.raises(OSError, match="No space left"), HashingWriter(full_disk / "writer/a", "sha256", Limiter(None, Clock())) as file:
        file.write(b"z" * 300_000)
    (full_disk / "writer/a").unlink()
    directory = CheckpointDirectory(store, lambda _text: None)
    found = directory.newest_verified()
    assert found is not None
    assert found[0].step == 4
    directory.sweep(0)
    put(store, 6)
    assert [one.step for one in directory.prune(1)] == [4]


def test_a_disk_so_full_that_no_manifest_fits(full_disk: Path) -> None:
    store = FileStore(full_disk)
    put(store, 4)
    put(store, 5, publish=False)
    with pytest.raises(OSError, match="No space left"):
        (full_disk / "ballast").write_bytes(b"x" * 300_000)
    with pytest.raises(OSError, match="No space left"):
        store.publish(FOLDER, describe(SMALL, 5).to_bytes())
    with pytest.raises(OSError, match="No space left"):
        Fence(store, Clock()).take("7", 0)
    directory = CheckpointDirectory(store, lambda _text: None)
    directory.sweep(0)
    found = directory.newest_verified()
    assert found is not None
    assert found[0].step == 4


def test_a_bad_one_is_passed_over_even_if_it_cannot_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path)
    put(store, 4)
    put(store, 5)
    overwrite(store, f"{FOLDER}/rank0.pkl", b"?")

    def stuck(_name: str) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(faults, "hook", stuck)
    told: list[str] = []
    found = CheckpointDirectory(store, told.append).newest_verified()
    assert found is not None
    assert found[0].step == 4
    assert "could not be moved" in told[0]
