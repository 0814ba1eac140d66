"""The one table of AWS's error codes: what each means to us. Nobody else reads a vendor code.

Codes: EC2's "Error codes for the Amazon EC2 API"; AWS ParallelCluster's list of codes that mean capacity (its pull request 673) and its
lesson that a throttle must not be taken for one (734). EC2 sends capacity errors as *server* errors (HTTP 500), so the code is
looked at first and the status only where the code is unknown.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from holdfast_controller.providers.base import Fault, FaultKind, ProviderError

CAPACITY_RETRY_S = 60.0
UNSUPPORTED_RETRY_S = 3600.0
QUOTA_RETRY_S = 300.0
THROTTLE_RETRY_S = 5.0
TRANSIENT_RETRY_S = 2.0

SPENT_LAUNCH = "IdempotentInstanceTerminated"
"""Since January 2025 EC2 answers so to a token whose instances have been terminated (boto3#4406)."""
OTHER_LAUNCH = "IdempotentParameterMismatch"
"""The token was used for a call that said something else: settings have changed since, and what that call has started may live."""
UNKNOWN_INSTANCE = "InvalidInstanceID.NotFound"
UNKNOWN_TEMPLATE = frozenset({"InvalidLaunchTemplateName.NotFoundException", "InvalidLaunchTemplateId.NotFound"})
TIMEOUT = "CallTimeout"
"""Ours: no answer within the time that the caller had."""
FEWER = "FewerThanAsked"
"""Ours: EC2 starts what it can between MinCount and MaxCount, and says nothing of the rest."""

_C, _Q, _T = FaultKind.CAPACITY, FaultKind.QUOTA, FaultKind.THROTTLE
_CONF, _A, _TR = FaultKind.CONFIG, FaultKind.AUTH, FaultKind.TRANSIENT

CODES: Mapping[str, tuple[FaultKind, float | None]] = {
    FEWER: (_C, CAPACITY_RETRY_S),
    "InsufficientCapacity": (_C, CAPACITY_RETRY_S),
    "InsufficientInstanceCapacity": (_C, CAPACITY_RETRY_S),
    "InsufficientHostCapacity": (_C, CAPACITY_RETRY_S),
    "InsufficientReservedInstanceCapacity": (_C, CAPACITY_RETRY_S),
    "InsufficientCapacityOnHost": (_C, CAPACITY_RETRY_S),
    "InsufficientVolumeCapacity": (_C, CAPACITY_RETRY_S),
    "InsufficientAddressCapacity": (_C, CAPACITY_RETRY_S),
    "ReservationCapacityExceeded": (_C, CAPACITY_RETRY_S),
    "UnfulfillableCapacity": (_C, CAPACITY_RETRY_S),
    "SpotMaxPriceTooLow": (_C, CAPACITY_RETRY_S),
    "Unsupported": (_C, UNSUPPORTED_RETRY_S),  # this type is not sold in this zone
    "MaxSpotInstanceCountExceeded": (_Q, QUOTA_RETRY_S),
    "InstanceLimitExceeded": (_Q, QUOTA_RETRY_S),
    "VcpuLimitExceeded": (_Q, QUOTA_RETRY_S),
    "VolumeLimitExceeded": (_Q, QUOTA_RETRY_S),
    "MaxIOPSLimitExceeded": (_Q, QUOTA_RETRY_S),
    "ResourceLimitExceeded": (_Q, QUOTA_RETRY_S),
    "ResourceCountExceeded": (_Q, QUOTA_RETRY_S),
    "NetworkInterfaceLimitExceeded": (_Q, QUOTA_RETRY_S),
    "MaxFleetCountExceeded": (_Q, QUOTA_RETRY_S),
    "InstanceCreditSpecification.NotSupported": (_CONF, None),
    "InsufficientFreeAddressesInSubnet": (_Q, QUOTA_RETRY_S),  # comes back when instances go, like a quota
    "RequestLimitExceeded": (_T, THROTTLE_RETRY_S),
    "Throttling": (_T, THROTTLE_RETRY_S),
    "ThrottlingException": (_T, THROTTLE_RETRY_S),
    "ThrottledException": (_T, THROTTLE_RETRY_S),
    "EC2ThrottledException": (_T, THROTTLE_RETRY_S),
    "RequestThrottled": (_T, THROTTLE_RETRY_S),
    "RequestThrottledException": (_T, THROTTLE_RETRY_S),
    "TooManyRequestsException": (_T, THROTTLE_RETRY_S),
    "BandwidthLimitExceeded": (_T, THROTTLE_RETRY_S),
    "PriorRequestNotComplete": (_T, THROTTLE_RETRY_S),
    "UnauthorizedOperation": (_A, None),
    "AuthFailure": (_A, None),
    "AccessDenied": (_A, None),
    "AccessDeniedException": (_A, None),
    "Blocked": (_A, None),
    "AccountDisabled": (_A, None),
    "OptInRequired": (_A, None),
    "PendingVerification": (_A, None),
    "MissingAuthenticationToken": (_A, None),
    "InvalidClientTokenId": (_A, None),
    "UnrecognizedClientException": (_A, None),
    "SignatureDoesNotMatch": (_A, None),
    "IncompleteSignature": (_A, None),
    "ExpiredToken": (_A, None),
    "ExpiredTokenException": (_A, None),
    "RequestExpired": (_A, None),
    OTHER_LAUNCH: (_CONF, None),
    "UnsupportedOperation": (_CONF, None),
    "OperationNotPermitted": (_CONF, None),
    "RequestResourceCountExceeded": (_CONF, None),
    "TagLimitExceeded": (_CONF, None),
    "UnknownParameter": (_CONF, None),
    "DryRunOperation": (_CONF, None),
    SPENT_LAUNCH: (_TR, None),  # the same call never succeeds again, and nothing is wrong: a new launch id is due
    TIMEOUT: (_TR, TRANSIENT_RETRY_S),
    "InternalError": (_TR, TRANSIENT_RETRY_S),
    "InternalFailure": (_TR, TRANSIENT_RETRY_S),
    "ServiceUnavailable": (_TR, TRANSIENT_RETRY_S),
    "Unavailable": (_TR, TRANSIENT_RETRY_S),
    "RequestTimeout": (_TR, TRANSIENT_RETRY_S),
    "ConcurrentTagAccess": (_TR, TRANSIENT_RETRY_S),
}

_CONFIG_PREFIXES = ("Invalid", "Missing", "Malformed", "Unknown", "Incorrect")
_POOL_KINDS = frozenset({FaultKind.CAPACITY, FaultKind.QUOTA, FaultKind.CONFIG})
_NO_CREDENTIALS = ("NoCredentials", "PartialCredentials", "CredentialRetrieval", "TokenRetrieval", "UnauthorizedSSO", "ProfileNotFound")
_BAD_CALL = ("ParamValidation", "NoRegion", "InvalidRegion", "InvalidEndpoint", "InvalidConfig", "ConfigParse", "UnknownService")
_INSTANCE_ID = re.compile(r"\bi-[0-9a-f]{8,17}\b")


def fault_of(code: str, message: str, status: int = 0, pool: str = "") -> Fault:
    """Return what an error code means; by the HTTP status where the code is unknown."""
    kind, retry_s = _meaning(code.removeprefix("Client.").removeprefix("Server."), status)
    return of_pool(Fault(kind, code, message[:2000], retry_s=retry_s), pool)


def of_pool(fault: Fault, pool: str) -> Fault:
    """Return the fault with the pool's name, where it says anything of the pool: a throttle does not."""
    return replace(fault, pool=pool) if fault.kind in _POOL_KINDS else fault


def _meaning(code: str, status: int) -> tuple[FaultKind, float | None]:
    if code in CODES:
        return CODES[code]
    if code.startswith(_CONFIG_PREFIXES):
        return FaultKind.CONFIG, None
    if status == 429:
        return FaultKind.THROTTLE, THROTTLE_RETRY_S
    if status in (401, 403):
        return FaultKind.AUTH, None
    if 400 <= status < 500:
        return FaultKind.CONFIG, None
    return FaultKind.TRANSIENT, TRANSIENT_RETRY_S


def error_of(error: Exception) -> ProviderError:
    """Translate what boto3 raised. What is not the vendor's word (no credentials, no connection) goes by its class's name."""
    if isinstance(error, ProviderError):
        return error
    response: Any = getattr(error, "response", None)
    if isinstance(response, Mapping) and "Error" in response:
        said = response["Error"]
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return ProviderError(fault_of(str(said.get("Code", "")), str(said.get("Message", "")), int(status)))
    name = type(error).__name__
    if name.startswith(_NO_CREDENTIALS):
        return ProviderError(Fault(FaultKind.AUTH, name, str(error)))
    if name.startswith(_BAD_CALL):
        return ProviderError(Fault(FaultKind.CONFIG, name, str(error)))
    return ProviderError(Fault(FaultKind.TRANSIENT, name, str(error), retry_s=TRANSIENT_RETRY_S))


def timeout_error(operation: str, after_s: float) -> ProviderError:
    """Return the error of a call that gave no answer in time; whether it was carried out is unknown."""
    return ProviderError(fault_of(TIMEOUT, f"{operation} gave no answer within {after_s:g} s"))


def named_ids(message: str) -> frozenset[str]:
    """Return the instance ids that an error message names."""
    return frozenset(_INSTANCE_ID.findall(message))
