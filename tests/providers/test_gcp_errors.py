"""What Google's error codes mean to us."""

import pytest
from google.api_core import exceptions as google
from google.auth import exceptions as auth
from google.cloud import compute_v1
from google.protobuf.json_format import ParseError
from holdfast_controller.providers.base import FaultKind
from holdfast_controller.providers.gcp_errors import CODES, error_of, fault_of, timeout_error
from holdfast_controller.providers.gcp_operations import DONE
from hypothesis import given
from hypothesis import strategies as st

CAPACITY, QUOTA, THROTTLE = FaultKind.CAPACITY, FaultKind.QUOTA, FaultKind.THROTTLE
CONFIG, AUTH, TRANSIENT = FaultKind.CONFIG, FaultKind.AUTH, FaultKind.TRANSIENT


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ZONE_RESOURCE_POOL_EXHAUSTED", 503, CAPACITY),
        ("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", 503, CAPACITY),
        ("RESOURCE_POOL_EXHAUSTED", 0, CAPACITY),
        ("STOCKOUT", 0, CAPACITY),
        ("VM_MIN_COUNT_NOT_REACHED", 0, CAPACITY),
        ("UNSUPPORTED_OPERATION", 400, CAPACITY),
        ("QUOTA_EXCEEDED", 403, QUOTA),
        ("quotaExceeded", 403, QUOTA),
        ("IP_SPACE_EXHAUSTED_WITH_DETAILS", 0, QUOTA),
        ("rateLimitExceeded", 403, THROTTLE),
        ("userRateLimitExceeded", 403, THROTTLE),
        ("RATE_LIMIT_EXCEEDED", 403, THROTTLE),
        ("CONCURRENT_OPERATIONS_QUOTA_EXCEEDED", 0, THROTTLE),
        ("forbidden", 403, AUTH),
        ("accessNotConfigured", 403, AUTH),
        ("authError", 401, AUTH),
        ("notFound", 404, CONFIG),
        ("invalid", 400, CONFIG),
        ("alreadyExists", 409, CONFIG),
        ("CONDITION_NOT_MET", 412, CONFIG),
        ("resourceNotReady", 400, TRANSIENT),
        ("backendError", 503, TRANSIENT),
        ("internalError", 500, TRANSIENT),
        ("Novelty", 429, THROTTLE),
        ("Novelty", 401, AUTH),
        ("Novelty", 403, AUTH),
        ("Novelty", 400, CONFIG),
        ("Novelty", 408, TRANSIENT),
        ("Novelty", 503, TRANSIENT),
        ("", 0, TRANSIENT),
    ],
)
def test_a_code_is_looked_at_before_the_status(code, status, kind):
    fault = fault_of(code, "why", status, "gcp/r/r-a/t/spot")
    assert fault.kind is kind
    assert (fault.retry_s is None) == (kind in (CONFIG, AUTH))
    assert bool(fault.pool) == (kind in (CAPACITY, QUOTA, CONFIG))


@given(st.sampled_from(sorted(CODES)), st.integers(0, 599))
def test_no_status_changes_what_a_known_code_means(code, status):
    assert fault_of(code, "", status) == fault_of(code, "")


def answered(status, *reasons, message="no"):
    errors = [{"reason": reason, "message": message} for reason in reasons]
    return google.from_http_status(status, message, errors=errors)


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (answered(403, "quotaExceeded"), QUOTA, "quotaExceeded"),
        (answered(403, "rateLimitExceeded"), THROTTLE, "rateLimitExceeded"),
        (answered(403, "novelty", "forbidden"), AUTH, "forbidden"),
        (answered(403), AUTH, "HTTP403"),
        (answered(502), TRANSIENT, "HTTP502"),
        (answered(400, "novelty"), CONFIG, "novelty"),
        (google.from_http_status(503, "no", errors=["nonsense", {"reason": 3}, {}]), TRANSIENT, "3"),
        (auth.DefaultCredentialsError("none"), AUTH, "DefaultCredentialsError"),
        (auth.RefreshError("revoked"), AUTH, "RefreshError"),
        (auth.RefreshError("later", retryable=True), TRANSIENT, "RefreshError"),
        (auth.TransportError("no route"), TRANSIENT, "TransportError"),
        (FileNotFoundError("key"), AUTH, "FileNotFoundError"),
        (ParseError("not JSON"), TRANSIENT, "ParseError"),
        (ModuleNotFoundError("google.cloud"), CONFIG, "ModuleNotFoundError"),
        (ConnectionError("refused"), TRANSIENT, "ConnectionError"),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "bad"), TRANSIENT, "UnicodeDecodeError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_client_raises(error, kind, code):
    fault = error_of(error).fault
    assert (fault.kind, fault.code) == (kind, code)
    assert (fault.retry_s is None) == (kind in (CONFIG, AUTH))


def test_messages_are_bounded():
    assert len(error_of(ValueError("x" * 9999)).fault.message) == 2000
    assert len(fault_of("invalid", "x" * 9999).message) == 2000


def test_a_time_out_says_what_gave_no_answer():
    fault = timeout_error("Instances.list", 1.5).fault
    assert (fault.kind, fault.retry_s is None) == (TRANSIENT, False)
    assert "Instances.list" in fault.message
    assert "1.5 s" in fault.message


def test_the_number_that_means_done_is_the_librarys():
    assert compute_v1.Operation.Status.DONE == DONE
