"""The one table of Azure's error codes: what each means to us. Nobody else reads a vendor code.

Codes: "Error codes for Azure Spot Virtual Machines", "Common error messages when you manage virtual machines", "Troubleshoot allocation
failures" and "Understand how Azure Resource Manager throttles requests" in Microsoft's documentation. The class that the SDK raises follows
the HTTP status, which for want of capacity is 409 like for many other things: the code is looked at first.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from holdfast_controller.providers.base import Fault, FaultKind, ProviderError

CAPACITY_RETRY_S = 60.0
UNSOLD_RETRY_S = 3600.0
QUOTA_RETRY_S = 300.0
THROTTLE_RETRY_S = 10.0
TRANSIENT_RETRY_S = 5.0
RETRY_AFTER_MAX_S = 3600.0
"""The most of a Retry-After that is believed."""

EXISTS = "PreconditionFailed"
"""A resource that was to be made is there already (HTTP 412, whatever the code beside it)."""
ABSENT = frozenset({"ResourceNotFound", "NotFound", "EntityNotFound"})
"""The resource asked for is not there. ResourceGroupNotFound and SubscriptionNotFound say nothing of a machine."""
TIMEOUT = "CallTimeout"
"""Ours: no answer within the time that the caller had."""
FEWER = "FewerThanAsked"
"""Ours: a launch that Azure ended with fewer machines than asked for, with no word of why."""
SPENT_LAUNCH = "LaunchEnded"
"""Ours: machines of this launch have ended meanwhile; the same launch starts no others."""
MALFORMED = "MalformedAnswer"
"""Ours: an answer that is not what the API promises."""

_C, _Q, _T = FaultKind.CAPACITY, FaultKind.QUOTA, FaultKind.THROTTLE
_CONF, _A, _TR = FaultKind.CONFIG, FaultKind.AUTH, FaultKind.TRANSIENT

CODES: Mapping[str, tuple[FaultKind, float | None]] = {
    FEWER: (_C, CAPACITY_RETRY_S),
    "SkuNotAvailable": (_C, CAPACITY_RETRY_S),  # for spot: there is none now
    "AllocationFailed": (_C, CAPACITY_RETRY_S),
    "ZonalAllocationFailed": (_C, CAPACITY_RETRY_S),
    "OverconstrainedAllocationRequest": (_C, CAPACITY_RETRY_S),
    "OverconstrainedZonalAllocationRequest": (_C, CAPACITY_RETRY_S),
    "SpotPriceGreaterThanProvidedMaxPrice": (_C, CAPACITY_RETRY_S),
    "NotEnoughCapacity": (_C, CAPACITY_RETRY_S),
    "CapacityNotAvailable": (_C, CAPACITY_RETRY_S),
    "OutOfCapacity": (_C, CAPACITY_RETRY_S),
    "ReservationCapacityExceeded": (_C, CAPACITY_RETRY_S),
    "NotAvailableForSubscription": (_C, UNSOLD_RETRY_S),
    "AzureSpotIsNotSupportedForThisVMSize": (_C, UNSOLD_RETRY_S),
    "QuotaExceeded": (_Q, QUOTA_RETRY_S),
    "ResourceQuotaExceeded": (_Q, QUOTA_RETRY_S),
    "OperationQuotaExceeded": (_Q, QUOTA_RETRY_S),
    "SubscriptionQuotaExceeded": (_Q, QUOTA_RETRY_S),
    "NetworkInterfaceCountLimitReached": (_Q, QUOTA_RETRY_S),
    "SubnetIsFull": (_Q, QUOTA_RETRY_S),  # comes back when instances go, like a quota
    "TooManyRequests": (_T, THROTTLE_RETRY_S),
    "SubscriptionRequestsThrottled": (_T, THROTTLE_RETRY_S),
    "ResourceRequestsThrottled": (_T, THROTTLE_RETRY_S),
    "TenantRequestsThrottled": (_T, THROTTLE_RETRY_S),
    "OperationThrottled": (_T, THROTTLE_RETRY_S),
    "RateLimitExceeded": (_T, THROTTLE_RETRY_S),
    "AuthorizationFailed": (_A, None),
    "LinkedAuthorizationFailed": (_A, None),
    "AuthenticationFailed": (_A, None),
    "AuthenticationFailedMissingToken": (_A, None),
    "AuthenticationFailedInvalidHeader": (_A, None),
    "InvalidAuthenticationToken": (_A, None),
    "InvalidAuthenticationTokenTenant": (_A, None),
    "ExpiredAuthenticationToken": (_A, None),
    "ReadOnlyDisabledSubscription": (_A, None),
    "SubscriptionNotFound": (_A, None),
    "DisabledSubscription": (_A, None),
    "RequestDisallowedByPolicy": (_CONF, None),
    "MissingSubscriptionRegistration": (_CONF, None),
    "SubscriptionNotRegistered": (_CONF, None),
    "NoRegisteredProviderFound": (_CONF, None),
    "LocationNotAvailableForResourceType": (_CONF, None),
    "AzureSpotFeatureNotEnabledForSubscription": (_CONF, None),
    "MaxPriceValueInvalid": (_CONF, None),
    "ImageNotFound": (_CONF, None),
    "PlatformImageNotFound": (_CONF, None),
    "ResourceGroupNotFound": (_CONF, None),
    "ResourceNotFound": (_CONF, None),
    "NotFound": (_CONF, None),
    "EntityNotFound": (_CONF, None),
    "BadRequest": (_CONF, None),
    "PropertyChangeNotAllowed": (_CONF, None),
    "LinkedInvalidPropertyId": (_CONF, None),
    "MarketplacePurchaseEligibilityFailed": (_CONF, None),
    "ScopeLocked": (_CONF, None),
    EXISTS: (_CONF, None),
    SPENT_LAUNCH: (_TR, None),  # the same call never succeeds again, and nothing is wrong: a new launch id is due
    TIMEOUT: (_TR, TRANSIENT_RETRY_S),
    MALFORMED: (_TR, TRANSIENT_RETRY_S),
    "Conflict": (_TR, TRANSIENT_RETRY_S),
    "AnotherOperationInProgress": (_TR, TRANSIENT_RETRY_S),
    "OperationPreempted": (_TR, TRANSIENT_RETRY_S),
    "OperationPreemptedByAnotherOperation": (_TR, TRANSIENT_RETRY_S),
    "RetryableError": (_TR, TRANSIENT_RETRY_S),
    "RetryableErrorDueToAnotherOperation": (_TR, TRANSIENT_RETRY_S),
    "InternalServerError": (_TR, TRANSIENT_RETRY_S),
    "InternalExecutionError": (_TR, TRANSIENT_RETRY_S),
    "InternalOperationError": (_TR, TRANSIENT_RETRY_S),
    "InternalDiskManagementError": (_TR, TRANSIENT_RETRY_S),
    "NetworkingInternalOperationError": (_TR, TRANSIENT_RETRY_S),
    "OSProvisioningTimedOut": (_TR, TRANSIENT_RETRY_S),
    "OSProvisioningInternalError": (_TR, TRANSIENT_RETRY_S),
    "VMStartTimedOut": (_TR, TRANSIENT_RETRY_S),
    "ServerTimeout": (_TR, TRANSIENT_RETRY_S),
    "GatewayTimeout": (_TR, TRANSIENT_RETRY_S),
    "ServiceUnavailable": (_TR, TRANSIENT_RETRY_S),
}

_CONFIG_PREFIXES = ("Invalid", "Missing", "Malformed", "Unknown", "Unsupported")
_POOL_KINDS = frozenset({FaultKind.CAPACITY, FaultKind.QUOTA, FaultKind.CONFIG})
_NO_CREDENTIALS = ("ClientAuthentication", "CredentialUnavailable", "AuthenticationRequired")
_NO_ANSWER = ("ServiceRequest", "ServiceResponse", "IncompleteRead")
_VAGUE = "OperationNotAllowed"
"""Azure's word for quotas, for what cannot be done now, and for what can never be done: only its text tells them apart."""
_QUOTA_WORDS = re.compile(r"(?i)\bquota\b|\blimits?\b")
_LATER_WORDS = re.compile(r"(?i)in progress|marked for deletion|being (deleted|updated|created)|concurrent")


def fault_of(code: str, message: str, status: int = 0, pool: str = "", retry_after_s: float | None = None) -> Fault:
    """Return what an error code means; by the HTTP status where the code is unknown. Azure's own Retry-After goes before ours."""
    code = EXISTS if status == 412 else code
    kind, retry_s = _meaning(code, message, status)
    if retry_s is not None and retry_after_s is not None and kind in (FaultKind.THROTTLE, FaultKind.TRANSIENT):
        retry_s = min(max(retry_after_s, 1.0), RETRY_AFTER_MAX_S)
    return of_pool(Fault(kind, code, message[:2000], retry_s=retry_s), pool)


def of_pool(fault: Fault, pool: str) -> Fault:
    """Return the fault with the pool's name, where it says anything of the pool: a throttle does not."""
    return replace(fault, pool=pool) if fault.kind in _POOL_KINDS else fault


def _meaning(code: str, message: str, status: int) -> tuple[FaultKind, float | None]:
    if code in CODES:
        return CODES[code]
    if code == _VAGUE:
        return _vague(message)
    if code.startswith(_CONFIG_PREFIXES):
        return FaultKind.CONFIG, None
    return _by_status(status)


def _vague(message: str) -> tuple[FaultKind, float | None]:
    if _LATER_WORDS.search(message):
        return FaultKind.TRANSIENT, TRANSIENT_RETRY_S
    return (FaultKind.QUOTA, QUOTA_RETRY_S) if _QUOTA_WORDS.search(message) else (FaultKind.CONFIG, None)


def _by_status(status: int) -> tuple[FaultKind, float | None]:
    if status == 429:
        return FaultKind.THROTTLE, THROTTLE_RETRY_S
    if status in (401, 403):
        return FaultKind.AUTH, None
    if 400 <= status < 500 and status not in (408, 409):
        return FaultKind.CONFIG, None
    return FaultKind.TRANSIENT, TRANSIENT_RETRY_S


def said_fault(said: object, status: int = 0, pool: str = "", retry_after_s: float | None = None) -> Fault:
    """Return what an error object of ARM's (`code`, `message`, `details`, `innererror`) means: its first code that we know."""
    errors = [(code, message) for code, message in _nested(said) if code]
    known = next((each for each in errors if each[0] in CODES or each[0] == _VAGUE), None)
    code, message = known or (errors[0] if errors else ("", ""))
    return fault_of(code, message, status, pool, retry_after_s)


def _nested(said: object, depth: int = 3) -> Iterator[tuple[str, str]]:
    if not isinstance(said, Mapping) or depth == 0:
        return
    yield str(said.get("code") or ""), str(said.get("message") or "")
    details = said.get("details")
    for each in (*(details if isinstance(details, list) else ()), said.get("innererror")):
        yield from _nested(each, depth - 1)


def error_of(error: Exception) -> ProviderError:
    """Translate what the SDK raised. What is not the vendor's word (no credentials, no connection) goes by its class's name."""
    if isinstance(error, ProviderError):
        return error
    response: Any = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(status, int) and status >= 300:
        return ProviderError(said_fault(_body(response), status, retry_after_s=retry_after_s(response.headers)))
    name = type(error).__name__
    if name.startswith(_NO_CREDENTIALS):
        return ProviderError(Fault(FaultKind.AUTH, name, str(error)[:2000]))
    code = name if name.startswith(_NO_ANSWER) else MALFORMED
    return ProviderError(Fault(FaultKind.TRANSIENT, code, f"{name}: {error}"[:2000], retry_s=TRANSIENT_RETRY_S))


def _body(response: Any) -> object:
    """The error object of an answer; an answer without one says what its text says."""
    try:
        body = response.json()
    except Exception:  # whatever a body that is not JSON makes the SDK raise
        body = None
    said = body.get("error", body) if isinstance(body, Mapping) else None
    return said if isinstance(said, Mapping) else {"code": f"HTTP{response.status_code}", "message": "no error object in the answer"}


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return what an answer's Retry-After says, in seconds; None for none, and for a date, which ARM does not send."""
    text = str(headers.get("Retry-After", ""))
    return float(text) if re.fullmatch(r"\d{1,6}", text, re.ASCII) else None


def timeout_error(what: str, after_s: float) -> ProviderError:
    """Return the error of a call that gave no answer in time; whether it was carried out is unknown."""
    return ProviderError(fault_of(TIMEOUT, f"{what} gave no answer within {after_s:g} s"))
