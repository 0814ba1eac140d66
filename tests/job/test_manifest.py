import contextlib
import json
from pathlib import Path

import pytest
from holdfast import hashing, manifest
from holdfast.bandwidth import Limiter, rate_from
from holdfast.clock import Clock
from holdfast.errors import BadCheckpointError, HoldfastError
from holdfast.manifest import FileEntry, Manifest
from holdfast.writer import HashingWriter
from hypothesis import given
from hypothesis import strategies as st

GOOD = Manifest(
    step=120,
    attempt=2,
    job_id="7",
    world_size=2,
    torch=None,
    algorithm="sha256",
    write_s=0.5,
    files={"rank0.pkl": FileEntry(3, "a" * 64, 0), "rank1.pkl": FileEntry(4, "b" * 64, 1)},
)


def test_a_manifest_comes_back_as_it_was_written() -> None:
    assert manifest.parse(GOOD.to_bytes()) == GOOD
    assert GOOD.size_bytes == 7


@given(st.data())
def test_any_flipped_bit_is_found(data: st.DataObject) -> None:
    content = bytearray(GOOD.to_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(BadCheckpointError):
        assert manifest.parse(bytes(content)) == GOOD  # white space may have changed, nothing else


@pytest.mark.parametrize(
    "changes",
    [
        {"step": 121},
        {"files": {}},
        {"version": 2},
        {"algorithm": "md5"},
        {"files": {"../../etc/passwd": {"bytes": 3, "hash": "a" * 64, "rank": 0}}},
        {"write_s": "soon"},
    ],
)
@pytest.mark.parametrize("rehash", [False, True])
def test_an_edited_manifest_is_bad(changes: dict[str, object], rehash: bool) -> None:
    content = json.loads(GOOD.to_bytes()) | changes
    if rehash and changes != {"step": 121}:
        del content["hash"]
        content["hash"] = manifest._content_hash(content, "sha256")
    with pytest.raises(BadCheckpointError):
        manifest.parse(json.dumps(content).encode())


def test_a_hash_that_is_not_installed_is_not_a_bad_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise ImportError(name)

    content = GOOD.to_bytes().replace(b'"sha256"', b'"xxh3-128"')
    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(HoldfastError, match="pip install xxhash") as caught:
        manifest.parse(content)
    assert not isinstance(caught.value, BadCheckpointError)


@pytest.mark.parametrize("algorithm", hashing.ALGORITHMS)
def test_the_writer_hashes_what_it_writes(tmp_path: Path, algorithm: str) -> None:
    pieces = [b"x" * 10, b"y" * 3_000_000, b"", b"z" * 1_000_000, bytes(range(256)) * 5000]
    with HashingWriter(tmp_path / "file", algorithm, Limiter(None, Clock())) as file:
        for piece in pieces:
            assert file.write(piece) == len(piece)
    data = (tmp_path / "file").read_bytes()
    assert data == b"".join(pieces)
    assert (file.size_bytes, file.digest) == (len(data), hashing.file_hash(tmp_path / "file", algorithm))
    with pytest.raises(FileExistsError):
        HashingWriter(tmp_path / "file", algorithm, Limiter(None, Clock()))


def test_the_limiter_keeps_its_rate() -> None:
    slept: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    limiter = Limiter(2.0, Clock(monotonic=lambda: now[0], sleep=sleep))
    total = 0
    while total < 10 * 1024 * 1024:
        limiter.take(limiter.slice_bytes)
        total += limiter.slice_bytes
    assert now[0] == pytest.approx(5.0, rel=0.05)
    assert max(slept) < 0.25


@pytest.mark.parametrize("text", ["fast", "0", "-1", "nan", "inf"])
def test_a_bad_bandwidth_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"MiB/s"):
        Limiter(rate_from(None, {"HOLDFAST_SAVE_BANDWIDTH_MIB_S": text}), Clock())


def test_the_argument_goes_before_the_environment() -> None:
    assert rate_from(3.0, {"HOLDFAST_SAVE_BANDWIDTH_MIB_S": "4"}) == 3.0
    assert rate_from(None, {"HOLDFAST_SAVE_BANDWIDTH_MIB_S": "4"}) == 4.0
    assert rate_from(None, {}) is None
