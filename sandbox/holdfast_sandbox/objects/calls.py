"""Which of S3's actions an HTTP request is."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from aiohttp import web

from holdfast_sandbox.objects.errors import StoreError

_IGNORED = {"x-id", "fetch-owner"}
_KNOWN = {
    "ListObjectsV2": {"list-type", "prefix", "delimiter", "continuation-token", "start-after", "max-keys", "encoding-type"},
    "ListMultipartUploads": {"uploads", "prefix", "max-uploads", "encoding-type"},
    "ListParts": {"uploadId", "max-parts", "part-number-marker"},
    "DeleteObjects": {"delete"},
    "GetBucketLocation": {"location"},
    "CreateMultipartUpload": {"uploads"},
    "CompleteMultipartUpload": {"uploadId"},
    "AbortMultipartUpload": {"uploadId"},
    "UploadPart": {"uploadId", "partNumber"},
    "UploadPartCopy": {"uploadId", "partNumber"},
}
_ON_BUCKET = {"PUT": "CreateBucket", "HEAD": "HeadBucket", "DELETE": "DeleteBucket"}
_ON_KEY = {"GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}
_ON_UPLOAD = {"GET": "ListParts", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}


@dataclass(frozen=True)
class Call:
    """One request. `copy_source` is what x-amz-copy-source or x-goog-copy-source says, decoded."""

    request: web.Request
    action: str
    bucket: str
    key: str
    query: Mapping[str, str]
    copy_source: str | None

    @property
    def headers(self) -> Mapping[str, str]:
        """The request's headers, in any case."""
        return self.request.headers


def call_of(request: web.Request) -> Call:
    """What a request asks for. Raises StoreError where that is nothing that this store has."""
    path, _, raw_query = request.raw_path.partition("?")
    bucket, _, key = path.removeprefix("/").partition("/")
    query = dict(parse_qsl(raw_query, keep_blank_values=True, max_num_fields=100))
    source = request.headers.get("x-amz-copy-source") or request.headers.get("x-goog-copy-source")
    call = Call(request, _action(request.method, bucket, key, query, source), bucket, unquote(key), query, source and unquote(source))
    unknown = [name for name in query if not name.lower().startswith("x-amz-")]
    unknown = [name for name in unknown if name not in _IGNORED | _KNOWN.get(call.action, set())]
    if unknown:
        raise StoreError("NotImplemented", f"{call.action} with {unknown[0][:60]!r} is not served.")
    return call


def _action(method: str, bucket: str, key: str, query: Mapping[str, str], source: str | None) -> str:
    if not bucket:
        found = "ListBuckets" if method == "GET" else None
    elif not key:
        found = _bucket_action(method, query)
    elif "uploadId" in query:
        found = ("UploadPartCopy" if source else "UploadPart") if method == "PUT" else _ON_UPLOAD.get(method)
    elif method == "PUT":
        found = "CopyObject" if source else "PutObject"
    else:
        found = "CreateMultipartUpload" if method == "POST" and "uploads" in query else _ON_KEY.get(method)
    if found is None:
        raise StoreError("MethodNotAllowed", "The specified method is not allowed against this resource.")
    return found


def _bucket_action(method: str, query: Mapping[str, str]) -> str | None:
    if method == "GET":
        return "GetBucketLocation" if "location" in query else "ListMultipartUploads" if "uploads" in query else "ListObjectsV2"
    return "DeleteObjects" if method == "POST" and "delete" in query else _ON_BUCKET.get(method)
