"""An error as S3 answers it: a code, and the HTTP status that belongs to it."""

from xml.sax.saxutils import escape

STATUS = {
    "NoSuchKey": 404,
    "NoSuchBucket": 404,
    "NoSuchUpload": 404,
    "PreconditionFailed": 412,
    "ConditionalRequestConflict": 409,
    "BucketAlreadyOwnedByYou": 409,
    "BucketNotEmpty": 409,
    "InvalidRange": 416,
    "NotModified": 304,
    "MethodNotAllowed": 405,
    "MissingContentLength": 411,
    "NotImplemented": 501,
    "InternalError": 500,
    "SlowDown": 503,
    "ServiceUnavailable": 503,
    "AccessDenied": 403,
    "ExpiredToken": 400,
}
"""What is not listed is a client error, 400."""


class StoreError(Exception):
    """A request that is refused."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = STATUS.get(code, 400)

    def xml(self, resource: str, request_id: str) -> str:
        """The body of the answer."""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{escape(self.code)}</Code><Message>{escape(self.message)}</Message>"
            f"<Resource>{escape(resource)}</Resource><RequestId>{request_id}</RequestId></Error>"
        )


class HungUpError(Exception):
    """The connection is to be dropped without an answer."""
