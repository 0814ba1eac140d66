"""The object store's parts by themselves."""

import random
from itertools import pairwise
from pathlib import Path

import pytest
from holdfast_sandbox.objects import checksums
from holdfast_sandbox.objects.blob import Blob, Piece, sliced
from holdfast_sandbox.objects.chunked import AwsChunked
from holdfast_sandbox.objects.errors import StoreError
from holdfast_sandbox.objects.reading import span
from holdfast_sandbox.objects.uploads import begun

SIGNATURE = b";chunk-signature=" + b"a" * 64
BODY = b"5" + SIGNATURE + b"\r\nhello\r\n1A\r\n" + bytes(range(26)) + b"\r\n0" + SIGNATURE + b"\r\nx-amz-checksum-crc32:abc=\r\n\r\n"


def decode(body: bytes, cuts: list[int]) -> tuple[bytes, AwsChunked]:
    decoder, found = AwsChunked(), b""
    edges = [0, *cuts, len(body)]
    for start, end in pairwise(edges):
        found += b"".join(decoder.feed(body[start:end]))
    return found, decoder


def test_an_aws_chunked_body_comes_in_any_pieces() -> None:
    for seed in range(300):
        draw = random.Random(seed)
        found, decoder = decode(BODY, sorted(draw.choices(range(len(BODY)), k=draw.randrange(12))))
        assert found == b"hello" + bytes(range(26))
        assert (decoder.finished, decoder.trailers) == (True, {"x-amz-checksum-crc32": "abc="})


def test_an_aws_chunked_body_that_ends_early_is_not_finished() -> None:
    assert not any(decode(BODY[:size], [])[1].finished for size in range(len(BODY)))


@pytest.mark.parametrize(
    "body", [b"hello\r\n", b"2\r\nhello\r\n", b"0\r\n\r\nmore\r\n", b"a" * 20_000, b"0\r\n" + b"".join(b"%d:x\r\n" % n for n in range(30))]
)
def test_a_malformed_aws_chunked_body_is_refused(body: bytes) -> None:
    with pytest.raises(StoreError, match="malformed"):
        decode(body, [])


def test_slices_of_pieces(tmp_path: Path) -> None:
    content = bytes(range(200))
    blob = Blob(tmp_path)
    blob.path.write_bytes(content)
    pieces = [Piece(blob, 10, 5), Piece(blob, 100, 50), Piece(blob, 0, 1)]
    whole = content[10:15] + content[100:150] + content[:1]
    for start in range(len(whole)):
        for length in range(1, len(whole) - start + 1):
            found = b"".join(content[each.offset : each.offset + each.length] for each in sliced(pieces, start, length))
            assert found == whole[start : start + length]


def test_a_blob_goes_with_its_last_reference(tmp_path: Path) -> None:
    blob = Blob(tmp_path)
    blob.path.write_bytes(b"abc")
    path, piece = blob.path, Piece(blob, 0, 3)
    del blob
    assert path.exists()
    del piece
    assert not path.exists()


@pytest.mark.parametrize(
    ("header", "found"),
    [(None, None), ("bytes=0-0", (0, 1)), ("bytes=3-", (3, 7)), ("bytes=-4", (6, 4)), ("bytes=-40", (0, 10)), ("bytes=5-99", (5, 5))],
)
def test_ranges(header: str | None, found: tuple[int, int] | None) -> None:
    assert span(header, 10) == found


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=5-4", "bytes=-0"])
def test_ranges_that_hold_nothing(header: str) -> None:
    with pytest.raises(StoreError, match="InvalidRange"):
        span(header, 10)


@pytest.mark.parametrize("name", checksums.CRCS)
def test_the_crc_of_parts_is_that_of_the_whole(name: str) -> None:
    def value(data: bytes) -> bytes:
        digest = checksums.digest(name)
        digest.update(data)
        return digest.digest()

    parts = [b"one", b"", b"two" * 1000, b"3"]
    assert checksums.full_object(name, [(value(part), len(part)) for part in parts]) == checksums.encoded(value(b"".join(parts)))


def test_a_sha_has_no_full_object_checksum() -> None:
    with pytest.raises(StoreError, match="cannot be used"):
        begun("k", {"x-amz-checksum-algorithm": "SHA256", "x-amz-checksum-type": "FULL_OBJECT"}, {}, 0.0)
