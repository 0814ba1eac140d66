"""The one table of Google's error codes: what each means to us. Nobody else reads a vendor code.

Compute Engine has two sets: the `reason` of a refused HTTP request (lower camel case) and the `code` in the `error` of an operation that
was accepted and came to nothing (upper case). Capacity is nearly always the second. Sources: "Troubleshooting resource availability
errors" and "Handle API errors" of the Compute Engine documentation; ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS is the usual one today
(google/syzkaller#4385, CCExtractor/sample-platform#1165: both had matched the bare code only).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from holdfast_controller.providers.base import Fault, FaultKind, ProviderError

CAPACITY_RETRY_S = 60.0
UNSUPPORTED_RETRY_S = 3600.0
QUOTA_RETRY_S = 300.0
THROTTLE_RETRY_S = 5.0
TRANSIENT_RETRY_S = 2.0

TIMEOUT = "CallTimeout"
"""Ours: no answer within the time that the caller had."""
UNFINISHED = "OperationTimeout"
"""Ours: the launch was accepted, and its operation has not ended in time."""
FEWER = "FewerThanAsked"
"""Ours: fewer instances than asked for, and Compute Engine says no more."""
SPENT_LAUNCH = "LaunchSpent"
"""Ours: the launch was carried out before, and its instances, or some of them, have ended."""
MORE = "MoreThanAsked"
"""Ours: more instances of a launch live than it may have."""
NOT_LISTED = "NotListedYet"
"""Ours: the operation says that instances were made which the list does not have yet."""
OTHER_REQUEST = "LaunchIdReused"
"""Ours: the launch id was used before, for another request."""
PRICE_CAP = "PriceCapTooLow"
"""Ours: Google knows no price caps; the known price is above the pool's."""
UNKNOWN_PRICE = "PriceUnknown"
"""Ours: the pool has a price cap, and nothing says what an instance costs there."""

EXISTS = frozenset({"alreadyExists", "RESOURCE_ALREADY_EXISTS"})
NOT_FOUND = frozenset({"notFound", "RESOURCE_NOT_FOUND"})
NOT_READY = frozenset({"resourceNotReady", "RESOURCE_NOT_READY"})
VAGUE = frozenset({"VM_MIN_COUNT_NOT_REACHED"})
"""Codes that say that too few could be made, and not why: the single instances' operations do."""

_C, _Q, _T = FaultKind.CAPACITY, FaultKind.QUOTA, FaultKind.THROTTLE
_CONF, _A, _TR = FaultKind.CONFIG, FaultKind.AUTH, FaultKind.TRANSIENT

CODES: Mapping[str, tuple[FaultKind, float | None]] = {
    FEWER: (_C, CAPACITY_RETRY_S),
    PRICE_CAP: (_C, CAPACITY_RETRY_S),
    "ZONE_RESOURCE_POOL_EXHAUSTED": (_C, CAPACITY_RETRY_S),
    "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS": (_C, CAPACITY_RETRY_S),
    "REGION_RESOURCE_POOL_EXHAUSTED": (_C, CAPACITY_RETRY_S),
    "RESOURCE_POOL_EXHAUSTED": (_C, CAPACITY_RETRY_S),
    "RESOURCE_POOL_EXHAUSTED_WITH_DETAILS": (_C, CAPACITY_RETRY_S),
    "STOCKOUT": (_C, CAPACITY_RETRY_S),
    "GCE_STOCKOUT": (_C, CAPACITY_RETRY_S),
    "resourcePoolExhausted": (_C, CAPACITY_RETRY_S),
    "stockout": (_C, CAPACITY_RETRY_S),
    "VM_MIN_COUNT_NOT_REACHED": (_C, CAPACITY_RETRY_S),
    "UNSUPPORTED_OPERATION": (_C, UNSUPPORTED_RETRY_S),  # this machine type is not to be had in this zone
    "QUOTA_EXCEEDED": (_Q, QUOTA_RETRY_S),
    "quotaExceeded": (_Q, QUOTA_RETRY_S),
    "limitExceeded": (_Q, QUOTA_RETRY_S),
    "IP_SPACE_EXHAUSTED": (_Q, QUOTA_RETRY_S),  # comes back when instances go, like a quota
    "IP_SPACE_EXHAUSTED_WITH_DETAILS": (_Q, QUOTA_RETRY_S),
    "rateLimitExceeded": (_T, THROTTLE_RETRY_S),
    "RATE_LIMIT_EXCEEDED": (_T, THROTTLE_RETRY_S),
    "userRateLimitExceeded": (_T, THROTTLE_RETRY_S),
    "concurrentLimitExceeded": (_T, THROTTLE_RETRY_S),
    "CONCURRENT_OPERATIONS_QUOTA_EXCEEDED": (_T, THROTTLE_RETRY_S),  # a quota by name, and over as soon as an operation ends
    "RESOURCE_OPERATION_RATE_EXCEEDED": (_T, THROTTLE_RETRY_S),
    "forbidden": (_A, None),
    "accessNotConfigured": (_A, None),
    "authError": (_A, None),
    "unauthorized": (_A, None),
    "insufficientPermissions": (_A, None),
    "IAM_PERMISSION_DENIED": (_A, None),
    "PERMISSIONS_ERROR": (_A, None),
    "PERMISSION_DENIED": (_A, None),
    "SERVICE_DISABLED": (_A, None),
    "BILLING_DISABLED": (_A, None),
    "billingNotEnabled": (_A, None),
    "accountDisabled": (_A, None),
    "keyInvalid": (_A, None),
    OTHER_REQUEST: (_CONF, None),
    UNKNOWN_PRICE: (_CONF, None),
    "invalid": (_CONF, None),
    "badRequest": (_CONF, None),
    "required": (_CONF, None),
    "parseError": (_CONF, None),
    "notFound": (_CONF, None),
    "RESOURCE_NOT_FOUND": (_CONF, None),
    "alreadyExists": (_CONF, None),
    "RESOURCE_ALREADY_EXISTS": (_CONF, None),
    "conditionNotMet": (_CONF, None),
    "CONDITION_NOT_MET": (_CONF, None),  # a constraint of the organization's policy
    "INVALID_FIELD_VALUE": (_CONF, None),
    "INVALID_USAGE": (_CONF, None),
    "UNSUPPORTED_RESOURCE": (_CONF, None),
    "resourceInUseByAnotherResource": (_CONF, None),
    "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE": (_CONF, None),
    SPENT_LAUNCH: (_TR, None),  # the same call never succeeds again, and nothing is wrong: a new launch id is due
    MORE: (_TR, None),
    NOT_LISTED: (_TR, TRANSIENT_RETRY_S),
    TIMEOUT: (_TR, TRANSIENT_RETRY_S),
    UNFINISHED: (_TR, TRANSIENT_RETRY_S),
    "resourceNotReady": (_TR, TRANSIENT_RETRY_S),
    "RESOURCE_NOT_READY": (_TR, TRANSIENT_RETRY_S),
    "backendError": (_TR, TRANSIENT_RETRY_S),
    "internalError": (_TR, TRANSIENT_RETRY_S),
    "INTERNAL_ERROR": (_TR, TRANSIENT_RETRY_S),
    "UNREACHABLE": (_TR, TRANSIENT_RETRY_S),
}

_POOL_KINDS = frozenset({FaultKind.CAPACITY, FaultKind.QUOTA, FaultKind.CONFIG})
_NO_CREDENTIALS = ("DefaultCredentials", "MalformedError", "GoogleAuth", "RefreshError", "FileNotFound")


def fault_of(code: str, message: str, status: int = 0, pool: str = "") -> Fault:
    """Return what an error code means; by the HTTP status where the code is unknown."""
    kind, retry_s = _meaning(code, status)
    return of_pool(Fault(kind, code, message[:2000], retry_s=retry_s), pool)


def of_pool(fault: Fault, pool: str) -> Fault:
    """Return the fault with the pool's name, where it says anything of the pool: a throttle does not."""
    return replace(fault, pool=pool) if fault.kind in _POOL_KINDS else fault


def _meaning(code: str, status: int) -> tuple[FaultKind, float | None]:
    if code in CODES:
        return CODES[code]
    if status == 429:
        return FaultKind.THROTTLE, THROTTLE_RETRY_S
    if status in (401, 403):
        return FaultKind.AUTH, None
    if 400 <= status < 500 and status != 408:
        return FaultKind.CONFIG, None
    return FaultKind.TRANSIENT, TRANSIENT_RETRY_S


def error_of(error: Exception) -> ProviderError:
    """Translate what the client raised. What is not the vendor's word (no credentials, no connection) goes by its class's name."""
    status = getattr(error, "code", None)
    if isinstance(status, int) and hasattr(error, "errors"):  # google.api_core.exceptions.GoogleAPICallError
        message = str(getattr(error, "message", error))
        return ProviderError(fault_of(_reason(error) or f"HTTP{int(status)}", message, int(status)))
    name = type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        return ProviderError(Fault(FaultKind.CONFIG, name, f"{error}: pip install 'holdfast[gcp]'"))
    if name.startswith(_NO_CREDENTIALS) and not getattr(error, "retryable", False):
        return ProviderError(Fault(FaultKind.AUTH, name, str(error)[:2000]))
    return ProviderError(Fault(FaultKind.TRANSIENT, name, str(error)[:2000], retry_s=TRANSIENT_RETRY_S))


def _reason(error: Any) -> str:
    """Return the first reason that is in the table, or the first at all."""
    listed = error.errors if isinstance(error.errors, list | tuple) else ()
    reasons = [str(said["reason"]) for said in listed if isinstance(said, Mapping) and said.get("reason")]
    more = getattr(error, "reason", None)
    reasons += [more] if isinstance(more, str) and more else []
    return next((reason for reason in reasons if reason in CODES), reasons[0] if reasons else "")


def timeout_error(operation: str, after_s: float) -> ProviderError:
    """Return the error of a call that gave no answer in time; whether it was carried out is unknown."""
    return ProviderError(fault_of(TIMEOUT, f"{operation} gave no answer within {after_s:g} s"))
