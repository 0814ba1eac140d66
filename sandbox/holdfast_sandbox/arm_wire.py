"""Azure Resource Manager's way of speaking: paths, errors, pages, times. JSON in, JSON out.

Shapes are those of the REST API that azure-mgmt-compute 39 speaks (2026-04-01), read from the other side.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

Json = dict[str, Any]
PAGE_SIZE = 50
TAGS_MAX = 50
TAG_NAME_MAX = 512
TAG_VALUE_MAX = 256
_TAG_NAME = re.compile(r"[^<>%&\\?/\x00-\x1f]{1,512}")
_RESERVED = re.compile(r"(?i)(microsoft|azure|windows)")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_])?")

# HTTP status by error code; what is not listed is a bad request, 400.
STATUS = {
    "AuthenticationFailed": 401,
    "InvalidAuthenticationToken": 401,
    "ExpiredAuthenticationToken": 401,
    "AuthorizationFailed": 403,
    "LinkedAuthorizationFailed": 403,
    "RequestDisallowedByPolicy": 403,
    "ResourceNotFound": 404,
    "ResourceGroupNotFound": 404,
    "NotFound": 404,
    "OperationNotAllowed": 409,
    "QuotaExceeded": 409,
    "SkuNotAvailable": 409,
    "AllocationFailed": 409,
    "ZonalAllocationFailed": 409,
    "OverconstrainedAllocationRequest": 409,
    "OverconstrainedZonalAllocationRequest": 409,
    "SpotPriceGreaterThanProvidedMaxPrice": 409,
    "PropertyChangeNotAllowed": 409,
    "Conflict": 409,
    "PreconditionFailed": 412,
    "TooManyRequests": 429,
    "SubscriptionRequestsThrottled": 429,
    "OperationThrottled": 429,
    "InternalServerError": 500,
    "ServiceUnavailable": 503,
}


class ArmError(Exception):
    """An error as ARM answers it: a code, a message, and the HTTP status that belongs to the code."""

    def __init__(self, code: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = STATUS.get(code, 400)
        self.retry_after_s = 5 if retry_after_s is None and self.status == 429 else retry_after_s

    def body(self) -> Json:
        """The error as JSON."""
        return {"error": {"code": self.code, "message": self.message}}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; no body for None."""

    body: Json | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def parsed_body(content: bytes) -> Json:
    """The JSON object of a request; raises ArmError for anything else."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise ArmError("InvalidRequestContent", "The request content was invalid and could not be deserialized.")
    return body


def checked_name(name: str) -> str:
    """The name of a machine or a set; raises ArmError for one that Azure would not take."""
    if not _NAME.fullmatch(name):
        raise ArmError("InvalidParameter", f"The entity name '{name[:80]}' is invalid according to its validation rule.")
    return name


def checked_tags(tags: Any) -> dict[str, str]:
    """The tags of a request; raises ArmError for what Azure would not take. Names are compared without regard to case."""
    if tags is None:
        return {}
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        raise ArmError("InvalidRequestContent", "The tags must be an object of strings.")
    if len(tags) > TAGS_MAX:
        raise ArmError("InvalidTags", f"A resource has at most {TAGS_MAX} tags.")
    for name, value in tags.items():
        if not _TAG_NAME.fullmatch(name) or _RESERVED.match(name):
            raise ArmError("InvalidTagNameCharacters", f"The tag name '{name[:80]}' has reserved characters or a reserved prefix.")
        if len(value) > TAG_VALUE_MAX:
            raise ArmError("InvalidTagValueLength", f"The value of tag '{name[:80]}' is longer than {TAG_VALUE_MAX}.")
    if len({name.lower() for name in tags}) != len(tags):
        raise ArmError("InvalidTags", "Tag names are not case-sensitive; one is given twice.")
    return dict(tags)


def part(body: Mapping[str, Any], *path: str) -> Any:
    """What stands at a path in nested objects; None where one of them is missing or is no object."""
    found: Any = body
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def same(left: str, right: str) -> bool:
    """Whether two resource ids or names mean the same: ARM does not look at their case."""
    return left.lower() == right.lower()


def time_text(unix_s: float) -> str:
    """A time as Azure writes it."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="microseconds")


def page(items: Iterable[tuple[str, Json]], query: Mapping[str, str], here: str) -> Json:
    """One page of items sorted by their keys, and the link to the next.

    The link says after which key to go on, so that items that come or go between two pages disturb nothing. Raises ArmError.
    """
    after = _after(query["$skiptoken"]) if "$skiptoken" in query else None
    rest = sorted(((key, item) for key, item in items if after is None or key > after), key=lambda pair: pair[0])
    body: Json = {"value": [item for _, item in rest[:PAGE_SIZE]]}
    if len(rest) > PAGE_SIZE:
        token = base64.urlsafe_b64encode(f"after:{rest[PAGE_SIZE - 1][0]}".encode()).decode()
        following = {**query, "$skiptoken": token}
        body["nextLink"] = f"{here}?{urlencode(following, quote_via=quote)}"
    return body


def _after(token: str) -> str:
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    if not text.startswith("after:"):
        raise ArmError("InvalidParameter", "The skip token is not valid.")
    return text.removeprefix("after:")
