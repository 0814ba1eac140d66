import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from holdfast import hashing, manifest
from holdfast.bandwidth import Limiter, rate_from
from holdfast.clock import Clock
from holdfast.errors import BadCheckpointError, HoldfastError, SaveError
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


OLD = b"""{
 "algorithm": "sha256",
 "attempt": 2,
 "files": {
  "rank0.pkl": {
   "bytes": 3,
   "hash": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
   "rank": 0
  }
 },
 "hash": "d1434f6313d39d0f6a7f3de40a8567591982ba39c3032365e13f70a3e5f9a32e",
 "job_id": "7",
 "step": 120,
 "torch": null,
 "version": 1,
 "world_size": 1,
 "write_s": 0.5
}"""


def test_a_manifest_without_the_later_keys_is_read() -> None:
    content = manifest.parse(OLD)
    assert (content.step, content.attempt, content.parts, content.partial) == (120, 2, None, False)


def test_parts_are_under_the_hash() -> None:
    partial = replace(GOOD, parts=("model", "optimizer"), partial=True)
    assert manifest.parse(partial.to_bytes()) == partial
    with pytest.raises(BadCheckpointError, match="own hash"):
        manifest.parse(partial.to_bytes().replace(b'"partial": true', b'"partial": false'))


NAMES = {
    "rank0.pt": True,
    ".metadata": True,
    "__0_0.distcp": True,
    "model/sub/weights.bin": True,
    "tree/.zarray": True,
    "a b/+=@,(c)": True,
    "": False,
    "/etc/passwd": False,
    "../up": False,
    "a/../b": False,
    "a/./b": False,
    "a//b": False,
    "a/": False,
    ".hidden": False,
    ".metadata/x": False,
    "manifest.json": False,
    "manifest.json/x": False,
    "a\\b": False,
    "a\nb": False,
    "a\0b": False,
    "ä": False,
    "x" * 201: False,
    "/".join("x" * 17): False,
    "/".join(["x" * 150] * 4): False,
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files_stay_in_the_folder(name: str) -> None:
    content = replace(GOOD, files={name: FileEntry(3, "a" * 64, 0)})
    if NAMES[name]:
        assert manifest.parse(content.to_bytes()) == content
        return
    with pytest.raises(SaveError, match="cannot be called"):
        content.to_bytes()
    with pytest.raises(BadCheckpointError, match="bad entry"):
        manifest.parse(rehashed(json.loads(GOOD.to_bytes()) | {"files": {name: {"bytes": 3, "hash": "a" * 64, "rank": 0}}}))


def rehashed(content: dict[str, object]) -> bytes:
    """A manifest whose own hash is right, whatever is in it."""
    content.pop("hash", None)
    return json.dumps({**content, "hash": manifest._content_hash(content, "sha256")}).encode()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
KEYS = ["step", "attempt", "job_id", "world_size", "torch", "write_s", "files", "parts", "partial", "version", "algorithm", "extra"]


def read_anything(data: bytes) -> None:
    """Either a manifest in which everything has its type, or HoldfastError."""
    with contextlib.suppress(HoldfastError):
        content = manifest.parse(data)
        assert manifest.parse(content.to_bytes()) == content


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    read_anything(data)


@given(ANYTHING)
def test_any_json(value: object) -> None:
    read_anything(json.dumps(value).encode())


@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING, min_size=1))
def test_any_content_under_a_hash_that_is_right(changes: dict[str, object]) -> None:
    read_anything(rehashed(json.loads(GOOD.to_bytes()) | changes))


@given(st.dictionaries(st.text(max_size=30), ANYTHING | st.fixed_dictionaries({"bytes": ANYTHING, "hash": ANYTHING, "rank": ANYTHING})))
def test_any_files_under_a_hash_that_is_right(files: dict[str, object]) -> None:
    read_anything(rehashed(json.loads(GOOD.to_bytes()) | {"files": files}))


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"\xff\xfe{}", b'{"version": 1e999}'])
def test_what_breaks_parsers_is_bad(data: bytes) -> None:
    with pytest.raises(BadCheckpointError):
        manifest.parse(data)


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
