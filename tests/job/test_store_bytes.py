"""Every byte of a small checkpoint changed in turn, every file cut at every length, removed, or something else: never loaded silently."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast.directory import CheckpointDirectory
from holdfast.errors import BadCheckpointError
from holdfast.store import FileStore, Store
from store_bed import SMALL, describe, memory, overwrite, put

FOLDER = "step-00000005.a0"


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        return FileStore(tmp_path)
    pytest.importorskip("obstore")
    return memory()


def contents(store: Store) -> dict[str, bytes]:
    """All files of the checkpoint, its manifest included."""
    put(store, 5, files=SMALL)
    return {**SMALL, "manifest.json": describe(SMALL, 5).to_bytes()}


def refused(store: Store) -> str:
    """The file on which the checkpoint fails."""
    directory = CheckpointDirectory(store, lambda _text: None)
    with pytest.raises(BadCheckpointError) as caught:
        directory.check(directory.place(5, 0))
    return caught.value.file


@pytest.mark.parametrize("mask", [0x01, pytest.param(0x80, marks=pytest.mark.long)])
def test_every_byte_changed_in_turn(mask: int, store: Store) -> None:
    files = contents(store)
    tried = 0
    for name, data in files.items():
        for position in range(len(data)):
            changed = bytearray(data)
            changed[position] ^= mask
            overwrite(store, f"{FOLDER}/{name}", bytes(changed))
            assert refused(store) == name, (name, position)
            tried += 1
        overwrite(store, f"{FOLDER}/{name}", data)
    assert tried == sum(map(len, files.values())) > 700
    CheckpointDirectory(store, pytest.fail).check(CheckpointDirectory(store, pytest.fail).place(5, 0))


def test_every_file_cut_at_every_length_and_grown(store: Store) -> None:
    files = contents(store)
    for name, data in files.items():
        for cut in [data[:length] for length in range(len(data))] + [data + b"\0", data + data]:
            if cut != data:
                overwrite(store, f"{FOLDER}/{name}", cut)
                assert refused(store) == name, (name, len(cut))
        overwrite(store, f"{FOLDER}/{name}", data)


def test_other_files_are_ignored(store: Store) -> None:
    contents(store)
    for name in ("rank7.pkl", "model/more.bin", ".rank0.pkl.part"):
        overwrite(store, f"{FOLDER}/{name}", b"?")
    CheckpointDirectory(store, pytest.fail).check(CheckpointDirectory(store, pytest.fail).place(5, 0))


def test_a_manifest_of_another_checkpoint_is_bad(store: Store) -> None:
    contents(store)
    overwrite(store, f"{FOLDER}/manifest.json", describe(SMALL, 4).to_bytes())
    assert refused(store) == "manifest.json"


def to_link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [to_link, to_pipe, to_directory, Path.unlink], ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", [*SMALL, "manifest.json"])
def test_what_is_no_regular_file_is_bad(change: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    contents(store)
    (tmp_path / FOLDER / "model").mkdir(exist_ok=True)
    change(tmp_path / FOLDER / name)
    assert refused(store) == name


def test_a_linked_folder_within_is_not_followed(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    contents(store)
    (tmp_path / FOLDER / "model").rename(tmp_path / "elsewhere")
    (tmp_path / FOLDER / "model").symlink_to(tmp_path / "elsewhere")
    assert refused(store) == "model/sub/weights.bin"
