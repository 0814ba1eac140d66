"""The object store's actions. Each answers one call; what goes wrong on demand, and how errors look, is `endpoint`'s business."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from aiohttp.client_exceptions import ClientPayloadError

from holdfast_sandbox.objects import checksums, listing, reading, uploads
from holdfast_sandbox.objects.blob import Piece, sliced
from holdfast_sandbox.objects.body import Expectations, Received, Sink, receive
from holdfast_sandbox.objects.buckets import Bucket, Buckets, Condition, Stored
from holdfast_sandbox.objects.calls import Call
from holdfast_sandbox.objects.errors import HungUpError, StoreError
from holdfast_sandbox.objects.faults import Fault, Faults
from holdfast_sandbox.objects.wire import BODY_BYTES_MAX, Content, document, entries, http_date, iso

Act = Callable[[Call, Fault | None], Awaitable[web.StreamResponse]]
_OWN = ("content-type", "content-encoding", "content-disposition", "content-language", "cache-control", "expires")
_DELETE_MAX = 1000


class Service:
    """Buckets in memory, bodies below `directory`."""

    def __init__(self, directory: Path, buckets: Buckets, faults: Faults, min_part_bytes: int) -> None:
        self.bytes_in: Counter[str] = Counter()
        self._directory = directory
        self._buckets = buckets
        self._faults = faults
        self._min_part_bytes = min_part_bytes

    def act(self, action: str) -> Act:
        """The method for an action."""
        found: Act = getattr(self, _METHODS[action])
        return found

    def _bucket(self, call: Call) -> Bucket:
        return self._buckets.get(call.bucket)

    async def list_buckets(self, call: Call, _: Fault | None) -> web.StreamResponse:
        """ListBuckets."""
        found = [{"Name": name, "CreationDate": iso(bucket.created)} for name, bucket in sorted(self._buckets.all.items())]
        owner: Content = {"ID": "sandbox", "DisplayName": "sandbox"}
        return _xml("ListAllMyBucketsResult", {"Owner": owner, "Buckets": {"Bucket": found}})

    async def create_bucket(self, call: Call, _: Fault | None) -> web.StreamResponse:
        """CreateBucket."""
        await call.request.read()
        self._buckets.create(call.bucket)
        return web.Response(headers={"Location": f"/{call.bucket}"})

    async def head_bucket(self, call: Call, _: Fault | None) -> web.StreamResponse:
        """HeadBucket."""
        self._bucket(call)
        return web.Response(headers={"x-amz-bucket-region": "us-east-1"})

    async def delete_bucket(self, call: Call, _: Fault | None) -> web.StreamResponse:
        """DeleteBucket."""
        self._buckets.remove(call.bucket)
        return web.Response(status=204)

    async def bucket_location(self, call: Call, _: Fault | None) -> web.StreamResponse:
        """GetBucketLocation: us-east-1, which S3 says by saying nothing."""
        self._bucket(call)
        return _xml("LocationConstraint", {})

    async def list_objects(self, call: Call, _: Fault | None) -> web.StreamResponse:
        """ListObjectsV2."""
        return _xml("ListBucketResult", listing.objects(call.bucket, self._bucket(call), call.query))

    async def read_object(self, call: Call, fault: Fault | None) -> web.StreamResponse:
        """GetObject and HeadObject."""
        return await reading.send(call.request, self._bucket(call).get(call.key), self._faults.limits, fault)

    async def put_object(self, call: Call, fault: Fault | None) -> web.StreamResponse:
        """PutObject: the condition is looked at when the whole body is there, as it must hold then."""
        bucket, condition = self._bucket(call), Condition.of(call.headers)
        body = await self._receive(call, fault, None)
        value, crc32c = checksums.encoded(body.values[body.named]), checksums.encoded(body.values["crc32c"])
        stored = Stored([body.piece], body.etag, body.named, value, uploads.FULL_OBJECT, crc32c, _own(call))
        return _written(bucket.put(call.key, stored, condition))

    async def copy_object(self, call: Call, _: Fault | None) -> web.StreamResponse:
        """CopyObject; the bytes are shared."""
        source = self._source(call)
        headers = _own(call) if call.headers.get("x-amz-metadata-directive", "").upper() == "REPLACE" else source.headers
        copy = Stored(source.pieces, source.etag, source.algorithm, source.checksum, source.checksum_type, source.crc32c, headers)
        stored = self._bucket(call).put(call.key, copy, Condition.of(call.headers))
        return _xml(
            "CopyObjectResult", {"ETag": stored.etag, "LastModified": iso(stored.modified)}, reading.described(stored, checksum=False)
        )

    def _source(self, call: Call) -> Stored:
        bucket, _, key = (call.copy_source or "").removeprefix("/").partition("/")
        return self._buckets.get(bucket).get(key)

    async def delete_object(self, call: Call, _: Fault | None) -> web.StreamResponse:
        """DeleteObject: no error where there is none, as on S3."""
        self._bucket(call).delete(call.key, Condition.of(call.headers))
        return web.Response(status=204)

    async def delete_objects(self, call: Call, _: Fault | None) -> web.StreamResponse:
        """DeleteObjects."""
        bucket, wanted = self._bucket(call), entries(await _small(call), "Delete", "Object")
        if not 1 <= len(wanted) <= _DELETE_MAX or not all(each.get("Key") for each in wanted):
            raise StoreError("MalformedXML", f"Name between 1 and {_DELETE_MAX} keys.")
        for each in wanted:
            bucket.delete(each["Key"], Condition())
        return _xml("DeleteResult", {"Deleted": [{"Key": each["Key"]} for each in wanted]})

    async def create_upload(self, call: Call, _: Fault | None) -> web.StreamResponse:
        """CreateMultipartUpload."""
        upload = uploads.begun(call.key, call.headers, _own(call), time.time())
        upload_id = self._bucket(call).begin(upload)
        headers = {} if upload.algorithm is None else {"x-amz-checksum-algorithm": upload.algorithm.upper()}
        if upload.algorithm is not None and upload.checksum_type is not None:
            headers["x-amz-checksum-type"] = upload.checksum_type
        said: dict[str, Content] = {"Bucket": call.bucket, "Key": call.key, "UploadId": upload_id}
        return _xml("InitiateMultipartUploadResult", said, headers)

    async def upload_part(self, call: Call, fault: Fault | None) -> web.StreamResponse:
        """UploadPart."""
        bucket, upload_id, part = self._bucket(call), call.query["uploadId"], uploads.part_number(call.query)
        body = await self._receive(call, fault, bucket.upload(upload_id, call.key).algorithm)
        bucket.upload(upload_id, call.key).parts[part] = (body, time.time())
        value = checksums.encoded(body.values[body.named])
        return web.Response(headers={"ETag": body.etag, f"x-amz-checksum-{body.named}": value})

    async def upload_part_copy(self, call: Call, _: Fault | None) -> web.StreamResponse:
        """UploadPartCopy: reads the source once more for its checksums, and shares nothing."""
        upload, part, source = (
            self._bucket(call).upload(call.query["uploadId"], call.key),
            uploads.part_number(call.query),
            self._source(call),
        )
        start, length = reading.span(call.headers.get("x-amz-copy-source-range"), source.size) or (0, source.size)
        named = {"Content-Length": str(length)}
        body = await asyncio.to_thread(self._copied, list(sliced(source.pieces, start, length)), Expectations(named, upload.algorithm))
        now = time.time()
        upload.parts[part] = (body, now)
        return _xml("CopyPartResult", {"ETag": body.etag, "LastModified": iso(now)})

    def _copied(self, pieces: list[Piece], wanted: Expectations) -> Received:
        sink = Sink(self._directory, wanted)
        try:
            for piece in pieces:
                with piece.blob.path.open("rb") as file:
                    file.seek(piece.offset)
                    sink.write([file.read(piece.length)])
        finally:
            sink.close()
        return sink.received()

    async def complete_upload(self, call: Call, _: Fault | None) -> web.StreamResponse:
        """CompleteMultipartUpload; where the condition does not hold the upload stays."""
        bucket, upload_id = self._bucket(call), call.query["uploadId"]
        wanted = entries(await _small(call), "CompleteMultipartUpload", "Part")
        upload = bucket.upload(upload_id, call.key)
        stored = uploads.completed(upload, wanted, call.headers, self._min_part_bytes)
        stored = bucket.put(call.key, stored, Condition.of(call.headers))
        del bucket.uploads[upload_id]
        said: dict[str, Content] = {"Location": f"/{call.bucket}/{call.key}", "Bucket": call.bucket, "Key": call.key, "ETag": stored.etag}
        said |= {f"Checksum{stored.algorithm.upper()}": stored.checksum, "ChecksumType": stored.checksum_type}
        return _xml("CompleteMultipartUploadResult", said, {"x-goog-generation": str(stored.generation)})

    async def abort_upload(self, call: Call, _: Fault | None) -> web.StreamResponse:
        """AbortMultipartUpload."""
        bucket = self._bucket(call)
        bucket.upload(call.query["uploadId"], call.key)
        del bucket.uploads[call.query["uploadId"]]
        return web.Response(status=204)

    async def list_parts(self, call: Call, _: Fault | None) -> web.StreamResponse:
        """ListParts."""
        upload_id = call.query["uploadId"]
        return _xml("ListPartsResult", listing.parts(call.bucket, upload_id, self._bucket(call).upload(upload_id, call.key), call.query))

    async def list_uploads(self, call: Call, _: Fault | None) -> web.StreamResponse:
        """ListMultipartUploads."""
        return _xml("ListMultipartUploadsResult", listing.uploads(call.bucket, self._bucket(call), call.query))

    async def _receive(self, call: Call, fault: Fault | None, algorithm: str | None) -> Received:
        sink = Sink(self._directory, Expectations(call.headers, algorithm))
        await receive(call.request, sink, self._faults.limits, fault)
        self.bytes_in[call.action] += sink.length
        received = sink.received()
        if fault is not None and fault.mode == "corrupt":
            received.piece.blob.corrupt()
        return received


_METHODS = {
    "ListBuckets": "list_buckets",
    "CreateBucket": "create_bucket",
    "HeadBucket": "head_bucket",
    "DeleteBucket": "delete_bucket",
    "GetBucketLocation": "bucket_location",
    "ListObjectsV2": "list_objects",
    "GetObject": "read_object",
    "HeadObject": "read_object",
    "PutObject": "put_object",
    "CopyObject": "copy_object",
    "DeleteObject": "delete_object",
    "DeleteObjects": "delete_objects",
    "CreateMultipartUpload": "create_upload",
    "UploadPart": "upload_part",
    "UploadPartCopy": "upload_part_copy",
    "CompleteMultipartUpload": "complete_upload",
    "AbortMultipartUpload": "abort_upload",
    "ListParts": "list_parts",
    "ListMultipartUploads": "list_uploads",
}


def _own(call: Call) -> dict[str, str]:
    """The headers that stay with an object."""
    found = {name.lower(): value for name, value in call.headers.items()}
    if "content-encoding" in found:
        found["content-encoding"] = ",".join(each for each in found["content-encoding"].split(",") if each.strip() != "aws-chunked")
    return {name: value for name, value in found.items() if value and (name in _OWN or name.startswith(("x-amz-meta-", "x-goog-meta-")))}


async def _small(call: Call) -> bytes:
    """A body that carries a list."""
    body = b""
    try:
        while data := await call.request.content.readany():
            body += data
            if len(body) > BODY_BYTES_MAX:
                raise StoreError("EntityTooLarge", "The XML is too large.")
    except (ClientPayloadError, ConnectionError) as fault:
        raise HungUpError from fault
    return body


def _xml(root: str, content: dict[str, Content], headers: dict[str, str] | None = None) -> web.Response:
    kept = {name: value for name, value in (headers or {}).items() if name.lower() != "content-type"}
    return web.Response(body=document(root, content), headers=kept, content_type="application/xml")


def _written(stored: Stored) -> web.Response:
    headers = reading.described(stored, checksum=True) | {"Last-Modified": http_date(stored.modified)}
    return web.Response(
        headers={name: value for name, value in headers.items() if name.lower().startswith(("etag", "x-amz-ch", "x-goog-"))}
    )
