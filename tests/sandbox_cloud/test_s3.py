"""The object store through boto3; where moto has the same action, it is asked as well and has to agree."""

import base64
import zlib
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from holdfast_sandbox.objects.control import running_object_store
from s3_bed import MIB, client, moto, refused


@pytest.fixture(scope="module")
def sandbox_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_object_store(tmp_path_factory.mktemp("objects"), ["first"]) as store:
        yield store.endpoint_url


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    with moto() as url:
        yield url


@pytest.fixture
def s3(sandbox_url: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The sandbox's store with an empty bucket `bkt`; moto's where a test asks for it."""
    made = client(request.getfixturevalue("moto_url") if getattr(request, "param", "") == "moto" else sandbox_url)
    made.create_bucket(Bucket="bkt")
    yield made
    for each in made.list_objects_v2(Bucket="bkt").get("Contents", []):
        made.delete_object(Bucket="bkt", Key=each["Key"])
    made.delete_bucket(Bucket="bkt")
    made.close()


BOTH = pytest.mark.parametrize("s3", ["sandbox", "moto"], indirect=True)


def put(s3: Any, key: str, body: bytes = b"hello world", **more: Any) -> Any:
    return s3.put_object(Bucket="bkt", Key=key, Body=body, **more)


def get(s3: Any, key: str, **more: Any) -> bytes:
    found: bytes = s3.get_object(Bucket="bkt", Key=key, **more)["Body"].read()
    return found


@BOTH
def test_put_get_head(s3: Any) -> None:
    said = put(s3, "a/ü +%/x", Metadata={"job": "4711"}, ContentType="text/plain")
    assert said["ETag"] == '"5eb63bbbe01eeed093cb22bb8f5acdc3"'
    assert said["ChecksumCRC32"] == base64.b64encode(zlib.crc32(b"hello world").to_bytes(4, "big")).decode()
    assert get(s3, "a/ü +%/x") == b"hello world"
    head = s3.head_object(Bucket="bkt", Key="a/ü +%/x", ChecksumMode="ENABLED")
    assert (head["ContentLength"], head["Metadata"], head["ContentType"]) == (11, {"job": "4711"}, "text/plain")
    assert head["ChecksumCRC32"] == said["ChecksumCRC32"]


@BOTH
def test_ranges(s3: Any) -> None:
    put(s3, "k")
    assert get(s3, "k", Range="bytes=6-8") == b"wor"
    assert get(s3, "k", Range="bytes=-3") == b"rld"
    assert s3.get_object(Bucket="bkt", Key="k", Range="bytes=6-99")["ContentRange"] == "bytes 6-10/11"
    with refused("InvalidRange", 416):
        get(s3, "k", Range="bytes=11-")


@BOTH
def test_what_is_not_there(s3: Any) -> None:
    with refused("NoSuchKey", 404):
        get(s3, "none")
    with refused("404", 404):
        s3.head_object(Bucket="bkt", Key="none")
    with refused("NoSuchBucket", 404):
        s3.list_objects_v2(Bucket="none")
    assert s3.delete_object(Bucket="bkt", Key="none")["ResponseMetadata"]["HTTPStatusCode"] == 204


@BOTH
def test_an_exclusive_create(s3: Any) -> None:
    put(s3, "k", b"first", IfNoneMatch="*")
    with refused("PreconditionFailed", 412):
        put(s3, "k", b"second", IfNoneMatch="*")
    assert get(s3, "k") == b"first"


@BOTH
def test_reads_under_a_condition(s3: Any) -> None:
    etag = put(s3, "k")["ETag"]
    assert get(s3, "k", IfMatch=etag) == b"hello world"
    with refused("PreconditionFailed", 412):
        get(s3, "k", IfMatch='"other"')
    with refused("304", 304):
        get(s3, "k", IfNoneMatch=etag)


def test_a_replacement_under_a_condition(s3: Any) -> None:
    with refused("NoSuchKey", 404):
        put(s3, "k", IfMatch='"any"')
    etag = put(s3, "k", b"one")["ETag"]
    second = put(s3, "k", b"two", IfMatch=etag)["ETag"]
    with refused("PreconditionFailed", 412):
        put(s3, "k", b"three", IfMatch=etag)
    with refused("PreconditionFailed", 412):
        s3.delete_object(Bucket="bkt", Key="k", IfMatch=etag)
    s3.delete_object(Bucket="bkt", Key="k", IfMatch=second)


@BOTH
def test_lists(s3: Any) -> None:
    keys = [f"run/step-{step}/{name}" for step in (1, 2, 3) for name in ("m", "r0")] + ["other"]
    for key in keys:
        put(s3, key)
    assert [each["Key"] for each in s3.list_objects_v2(Bucket="bkt")["Contents"]] == sorted(keys)
    found = s3.list_objects_v2(Bucket="bkt", Prefix="run/", Delimiter="/")
    assert [each["Prefix"] for each in found["CommonPrefixes"]] == ["run/step-1/", "run/step-2/", "run/step-3/"]
    assert "Contents" not in found
    pages = list(s3.get_paginator("list_objects_v2").paginate(Bucket="bkt", PaginationConfig={"PageSize": 3}))
    assert [[each["Key"] for each in page["Contents"]] for page in pages] == [sorted(keys)[i : i + 3] for i in (0, 3, 6)]
    assert [page["IsTruncated"] for page in pages] == [True, True, False]
    assert s3.list_objects_v2(Bucket="bkt", StartAfter="other", MaxKeys=1)["Contents"][0]["Key"] == "run/step-1/m"


def test_pages_of_common_prefixes(s3: Any) -> None:
    for step in range(5):
        put(s3, f"step-{step}/a")
        put(s3, f"step-{step}/b")
    pages = list(s3.get_paginator("list_objects_v2").paginate(Bucket="bkt", Delimiter="/", PaginationConfig={"PageSize": 2}))
    assert [[each["Prefix"] for each in page["CommonPrefixes"]] for page in pages] == [
        ["step-0/", "step-1/"],
        ["step-2/", "step-3/"],
        ["step-4/"],
    ]


@BOTH
def test_deleting_many(s3: Any) -> None:
    for key in ("a", "b <&>", "c"):
        put(s3, key)
    said = s3.delete_objects(Bucket="bkt", Delete={"Objects": [{"Key": "a"}, {"Key": "b <&>"}, {"Key": "none"}]})
    assert {each["Key"] for each in said["Deleted"]} >= {"a", "b <&>"}
    assert [each["Key"] for each in s3.list_objects_v2(Bucket="bkt")["Contents"]] == ["c"]


@BOTH
def test_copies(s3: Any) -> None:
    etag = put(s3, "a b", Metadata={"x": "1"})["ETag"]
    said = s3.copy_object(Bucket="bkt", Key="c", CopySource={"Bucket": "bkt", "Key": "a b"})
    assert said["CopyObjectResult"]["ETag"] == etag
    s3.delete_object(Bucket="bkt", Key="a b")
    assert get(s3, "c") == b"hello world"
    assert s3.head_object(Bucket="bkt", Key="c")["Metadata"] == {"x": "1"}


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_every_checksum_is_verified_and_given_back(s3: Any, algorithm: str) -> None:
    field = f"Checksum{algorithm}"
    said = put(s3, "k", ChecksumAlgorithm=algorithm)
    assert s3.get_object(Bucket="bkt", Key="k", ChecksumMode="ENABLED")[field] == said[field]
    put(s3, "k2", **{field: said[field]})
    with refused("BadDigest", 400):
        put(s3, "k3", b"hello worlD", **{field: said[field]})
    with refused("InvalidDigest", 400):
        put(s3, "k3", **{field: "AAA="})
    assert s3.list_objects_v2(Bucket="bkt")["KeyCount"] == 2


def test_an_upload_that_is_not_there(s3: Any) -> None:
    with refused("NoSuchUpload", 404):
        s3.upload_part(Bucket="bkt", Key="k", UploadId="none", PartNumber=1, Body=b"")


def test_content_md5(s3: Any) -> None:
    with refused("BadDigest", 400):
        put(s3, "k", ContentMD5=base64.b64encode(b"0" * 16).decode())


def send(url: str, key: str, pieces: list[bytes], **headers: str) -> tuple[int, bytes]:
    """A PUT by hand, its body in pieces."""
    connection = HTTPConnection(url.removeprefix("http://"), timeout=10)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("PUT", f"/bkt/{key}", iter(pieces), named)
    reply = connection.getresponse()
    found = reply.status, reply.read()
    connection.close()
    return found


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({}, 200, b""),
        ({"trailer": b"x-amz-checksum-crc32:AAAAAA==\r\n"}, 400, b"BadDigest"),
        ({"trailer": b""}, 400, b"MalformedTrailerError"),
        ({"last": b""}, 400, b"IncompleteBody"),
        ({"length": "2000001"}, 400, b"IncompleteBody"),
        ({"signature": b";chunk-signature=" + b"0" * 64}, 200, b""),
    ],
)
def test_an_aws_chunked_body_with_a_trailer(sandbox_url: str, s3: Any, change: dict[str, Any], status: int, code: bytes) -> None:
    data = bytes(range(250)) * 8000
    right = b"x-amz-checksum-crc32:" + base64.b64encode(zlib.crc32(data).to_bytes(4, "big")) + b"\r\n"
    signature, trailer, last = change.get("signature", b""), change.get("trailer", right), change.get("last", b"0")
    parts = [b"%x" % len(part) + signature + b"\r\n" + part + b"\r\n" for part in (data[:70_000], data[70_000:])]
    headers = {"x_amz_content_sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "x_amz_trailer": "x-amz-checksum-crc32"}
    headers |= {"x_amz_decoded_content_length": change.get("length", str(len(data))), "Content_Encoding": "aws-chunked"}
    found = send(sandbox_url, "k", [*parts, *([last + signature + b"\r\n", trailer, b"\r\n"] if last else [])], **headers)
    assert found[0] == status
    assert b"<Code>" + code in found[1] if code else found[1] == b""
    if status == 200:
        assert get(s3, "k") == data
        assert "ContentEncoding" not in s3.head_object(Bucket="bkt", Key="k")
    else:
        assert s3.list_objects_v2(Bucket="bkt")["KeyCount"] == 0


def test_a_signed_payload_is_verified(sandbox_url: str, s3: Any) -> None:
    wrong = send(sandbox_url, "k", [b"body"], Content_Length="4", x_amz_content_sha256="0" * 64)
    assert wrong[0] == 400
    assert b"XAmzContentSHA256Mismatch" in wrong[1]
    assert send(sandbox_url, "k", [b"body"])[0] == 411, "neither a length nor aws-chunked"


def test_s3_adds_a_checksum_of_its_own(sandbox_url: str, s3: Any) -> None:
    quiet = client(sandbox_url, request_checksum_calculation="when_required")
    put(quiet, "k")
    quiet.close()
    assert len(base64.b64decode(s3.head_object(Bucket="bkt", Key="k", ChecksumMode="ENABLED")["ChecksumCRC64NVME"])) == 8


@BOTH
def test_a_multipart_upload(s3: Any) -> None:
    upload = s3.create_multipart_upload(Bucket="bkt", Key="big", ChecksumAlgorithm="CRC32")["UploadId"]
    bodies, parts = [b"a" * 5 * MIB, b"b" * 5 * MIB, b"c"], []
    for number, body in enumerate(bodies, 1):
        said = s3.upload_part(Bucket="bkt", Key="big", UploadId=upload, PartNumber=number, Body=body, ChecksumAlgorithm="CRC32")
        parts.append({"PartNumber": number, "ETag": said["ETag"], "ChecksumCRC32": said["ChecksumCRC32"]})
    assert [each["Size"] for each in s3.list_parts(Bucket="bkt", Key="big", UploadId=upload)["Parts"]] == [5 * MIB, 5 * MIB, 1]
    assert [each["UploadId"] for each in s3.list_multipart_uploads(Bucket="bkt")["Uploads"]] == [upload]
    with refused("NoSuchKey", 404):
        get(s3, "big")
    said = s3.complete_multipart_upload(Bucket="bkt", Key="big", UploadId=upload, MultipartUpload={"Parts": parts})
    assert said["ETag"].endswith('-3"')
    assert get(s3, "big") == b"".join(bodies)
    assert get(s3, "big", Range=f"bytes={5 * MIB - 2}-{5 * MIB + 1}") == b"aabb"
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="bkt")


def test_a_multipart_upload_that_is_refused(s3: Any) -> None:
    def attempt(*bodies: bytes, **more: Any) -> None:
        upload = s3.create_multipart_upload(Bucket="bkt", Key="big")["UploadId"]
        parts = [
            {"PartNumber": number, "ETag": s3.upload_part(Bucket="bkt", Key="big", UploadId=upload, PartNumber=number, Body=body)["ETag"]}
            for number, body in enumerate(bodies, 1)
        ]
        wanted = more.pop("parts", parts)
        try:
            s3.complete_multipart_upload(Bucket="bkt", Key="big", UploadId=upload, MultipartUpload={"Parts": wanted}, **more)
        finally:
            s3.abort_multipart_upload(Bucket="bkt", Key="big", UploadId=upload)

    with refused("EntityTooSmall", 400):
        attempt(b"small", b"last")
    with refused("InvalidPart", 400):
        attempt(b"one", parts=[{"PartNumber": 1, "ETag": '"other"'}])
    with refused("InvalidPart", 400):
        attempt(b"one", parts=[{"PartNumber": 2, "ETag": '"other"'}])
    with refused("InvalidPartOrder", 400):
        attempt(b"one", parts=[{"PartNumber": 2, "ETag": '"x"'}, {"PartNumber": 1, "ETag": '"x"'}] * 2)
    put(s3, "big", b"first")
    with refused("PreconditionFailed", 412):
        attempt(b"second", IfNoneMatch="*")
    assert get(s3, "big") == b"first"


def test_s3transfer_up_down_and_across(s3: Any, tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096 * 12
    (tmp_path / "up").write_bytes(data)
    settings = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    s3.upload_file(str(tmp_path / "up"), "bkt", "k", Config=settings)
    s3.copy({"Bucket": "bkt", "Key": "k"}, "bkt", "k2", Config=settings)
    s3.download_file("bkt", "k2", str(tmp_path / "down"), Config=settings)
    assert (tmp_path / "down").read_bytes() == data


def test_what_the_store_lacks_is_refused_not_ignored(s3: Any) -> None:
    put(s3, "k")
    with refused("NotImplemented", 501):
        s3.get_object_acl(Bucket="bkt", Key="k")
    with refused("NotImplemented", 501):
        get(s3, "k", VersionId="7")
    with refused("NotImplemented", 501):
        s3.list_objects(Bucket="bkt")


def test_buckets(s3: Any) -> None:
    put(s3, "k")
    assert {each["Name"] for each in s3.list_buckets()["Buckets"]} == {"bkt", "first"}
    with refused("BucketAlreadyOwnedByYou", 409):
        s3.create_bucket(Bucket="bkt")
    with refused("BucketNotEmpty", 409):
        s3.delete_bucket(Bucket="bkt")
    s3.head_bucket(Bucket="bkt")
    assert s3.get_bucket_location(Bucket="bkt")["LocationConstraint"] is None
