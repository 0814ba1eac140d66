"""Sealed files: what a sidecar says of a file, whatever happens to either."""

import os
import shutil
import zipfile
from pathlib import Path

import pytest
from holdfast.wrap import seal


def write(path: Path, content: bytes, *, as_zip: bool = False) -> None:
    with seal.writing(str(path)) as temporary:
        if as_zip:
            with zipfile.ZipFile(temporary, "w") as archive:
                archive.writestr("data", content)
        else:
            Path(temporary).write_bytes(content)


@pytest.fixture(params=["/", "sub"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "sub" if request.param == "sub" else tmp_path
    folder.mkdir(exist_ok=True)
    return folder / "model 1\n'é.pt"


def test_what_was_written_verifies_and_nothing_else_is_left(path: Path) -> None:
    write(path, b"one")
    write(path, b"two")
    assert path.read_bytes() == b"two"
    assert seal.check(str(path))
    assert sorted(os.listdir(path.parent)) == [".holdfast", path.name]
    assert os.listdir(path.parent / ".holdfast") == [path.name + ".json"]


@pytest.mark.parametrize("as_zip", [False, True])
def test_no_flipped_byte_passes_for_what_was_saved(tmp_path: Path, as_zip: bool) -> None:
    path = tmp_path / "m.pt"
    write(path, b"weights", as_zip=as_zip)
    whole = path.read_bytes()
    times = path.stat().st_mtime_ns
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        os.utime(path, ns=(times, times))  # a fault of the disk: no time changes
        with pytest.raises(seal.DamagedFile, match="not what was saved"):
            seal.check(str(path))


def test_a_flipped_byte_in_a_file_that_was_rewritten_is_found_by_its_own_crcs(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    write(path, b"weights" * 10, as_zip=True)
    whole = path.read_bytes()
    at = whole.index(b"weights")
    path.write_bytes(whole[:at] + b"W" + whole[at + 1 :])
    with pytest.raises(seal.DamagedFile, match="CRC"):
        seal.check(str(path))
    path.write_bytes(whole[:-30])
    with pytest.raises(seal.DamagedFile, match="no whole zip file"):
        seal.check(str(path))


def test_a_file_that_another_program_has_rewritten_is_judged_by_itself(tmp_path: Path) -> None:
    path, other = tmp_path / "last.pt", tmp_path / "best.pt"
    write(path, b"old", as_zip=True)
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("data", b"new")
    shutil.copyfile(other, path)
    assert seal.check(str(path)) is False, "no word of the sidecar's, and no fault"
    write(path, b"old")
    path.write_bytes(b"has no checksums of its own")
    with pytest.raises(seal.DamagedFile, match=r"last\.pt: it is not what was saved \(27 bytes, saved were 3"):
        seal.check(str(path))


def test_every_byte_of_a_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    write(path, b"weights")
    place = Path(seal.sidecar(str(path)))
    whole = place.read_bytes()
    for at in range(len(whole)):
        place.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(seal.DamagedFile):
            seal.check(str(path))
    place.write_bytes(b"[" * 60_000)
    with pytest.raises(seal.DamagedFile, match="sidecar is damaged"):
        seal.check(str(path))


def test_a_renamed_file_keeps_its_seal(tmp_path: Path) -> None:
    path, temporary = tmp_path / "m.pt", tmp_path / "m.pt.tmp"
    write(temporary, b"one")
    temporary.replace(path)
    assert seal.check(str(path))
    times = path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.write(b"ONE")
    os.utime(path, ns=(times, times))
    with pytest.raises(seal.DamagedFile):
        seal.check(str(path))


def test_without_a_sidecar_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(b"x")
    assert seal.check(str(tmp_path / "m.pt")) is False


@pytest.mark.parametrize("name", ["begun", "file-written", "file-durable", "sidecar-written", "sidecar-published"])
def test_a_write_that_fails_leaves_the_old_file_and_its_seal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = tmp_path / "m.pt"
    write(path, b"old")

    def fault(point: str) -> None:
        if point == name:
            raise RuntimeError("full")

    monkeypatch.setattr(seal, "fault", fault)
    with pytest.raises(RuntimeError, match="full"):
        write(path, b"new")
    assert path.read_bytes() == b"old"
    assert seal.check(str(path))
    assert sorted(os.listdir(tmp_path)) == [".holdfast", "m.pt"]
    assert len(os.listdir(tmp_path / ".holdfast")) == 1


def test_links_modes_and_what_is_no_file(tmp_path: Path) -> None:
    real, link = tmp_path / "real.pt", tmp_path / "link.pt"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link.symlink_to("real.pt")
    target = seal.replaceable(str(link))
    assert target == str(real)
    write(Path(target), b"new")
    assert (link.is_symlink(), real.read_bytes(), real.stat().st_mode & 0o777) == (True, b"new", 0o640)
    os.mkfifo(tmp_path / "pipe")
    assert [seal.replaceable(str(path)) for path in (tmp_path / "pipe", "/dev/null", tmp_path)] == [None] * 3


def test_the_longest_name(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write(path, b"content")
    assert path.read_bytes() == b"content"
    assert seal.check(str(path)) is False, "its sidecar's name would be too long"


def test_untouched_is_told_without_reading(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    assert not seal.untouched(str(path))
    write(path, b"weights")
    assert seal.untouched(str(path))
    path.write_bytes(b"WEIGHTS")
    os.utime(path, ns=(1, 1))
    assert not seal.untouched(str(path))
