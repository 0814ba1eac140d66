"""What Azure's error codes mean to us."""

import json
from types import SimpleNamespace

import pytest
from azure.core import exceptions as azure
from holdfast_controller.providers.azure_errors import CODES, EXISTS, error_of, fault_of, retry_after_s, said_fault, timeout_error
from holdfast_controller.providers.base import Fault, FaultKind, ProviderError
from hypothesis import given
from hypothesis import strategies as st

CAPACITY, QUOTA, THROTTLE = FaultKind.CAPACITY, FaultKind.QUOTA, FaultKind.THROTTLE
CONFIG, AUTH, TRANSIENT = FaultKind.CONFIG, FaultKind.AUTH, FaultKind.TRANSIENT


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("SkuNotAvailable", 409, CAPACITY),
        ("AllocationFailed", 409, CAPACITY),
        ("ZonalAllocationFailed", 200, CAPACITY),
        ("OverconstrainedAllocationRequest", 409, CAPACITY),
        ("OverconstrainedZonalAllocationRequest", 409, CAPACITY),
        ("SpotPriceGreaterThanProvidedMaxPrice", 409, CAPACITY),
        ("NotAvailableForSubscription", 409, CAPACITY),
        ("QuotaExceeded", 409, QUOTA),
        ("SubnetIsFull", 400, QUOTA),
        ("TooManyRequests", 429, THROTTLE),
        ("SubscriptionRequestsThrottled", 429, THROTTLE),
        ("OperationThrottled", 409, THROTTLE),
        ("AuthorizationFailed", 403, AUTH),
        ("InvalidAuthenticationToken", 401, AUTH),
        ("LinkedAuthorizationFailed", 403, AUTH),
        ("InvalidParameter", 400, CONFIG),
        ("LinkedInvalidPropertyId", 400, CONFIG),
        ("ResourceNotFound", 404, CONFIG),
        ("ResourceGroupNotFound", 404, CONFIG),
        ("RequestDisallowedByPolicy", 403, CONFIG),
        ("MissingSubscriptionRegistration", 409, CONFIG),
        ("InternalServerError", 500, TRANSIENT),
        ("RetryableError", 429, TRANSIENT),
        ("Conflict", 409, TRANSIENT),
        ("LaunchEnded", 0, TRANSIENT),
        ("Novelty", 429, THROTTLE),
        ("Novelty", 401, AUTH),
        ("Novelty", 403, AUTH),
        ("Novelty", 400, CONFIG),
        ("Novelty", 409, TRANSIENT),
        ("Novelty", 408, TRANSIENT),
        ("Novelty", 500, TRANSIENT),
        ("", 0, TRANSIENT),
    ],
)
def test_code_means(code, status, kind):
    fault = fault_of(code, "message", status, pool="p")
    assert (fault.kind, fault.code, fault.message) == (kind, code, "message")
    assert fault.pool == ("p" if kind in (CAPACITY, QUOTA, CONFIG) else "")


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Operation could not be completed as it results in exceeding approved LowPriorityCores quota.", QUOTA),
        ("exceeding the limit of 10 for this region", QUOTA),
        ("The request failed due to conflict with a concurrent request.", TRANSIENT),
        ("Another operation is in progress on the scale set; the quota is fine.", TRANSIENT),
        ("The scale set 'x' is marked for deletion.", TRANSIENT),
        ("Spot is not supported for this offer.", CONFIG),
    ],
)
def test_vague_code_means_what_its_text_says(message, kind):
    assert fault_of("OperationNotAllowed", message, 409).kind is kind


@pytest.mark.parametrize("code", ["PreconditionFailed", "ConditionNotMet", "", "SkuNotAvailable"])
def test_what_exists_is_told_by_its_status(code):
    assert fault_of(code, "", 412).code == EXISTS


def test_code_within_counts_where_the_outer_one_says_nothing():
    inner = {"code": "ZonalAllocationFailed", "message": "none left"}
    for outer in ("DeploymentFailed", "Conflicted", ""):
        fault = said_fault({"code": outer, "message": "see details", "details": [{"code": "Odd"}, inner]}, 409, "p")
        assert (fault.kind, fault.code, fault.message) == (CAPACITY, "ZonalAllocationFailed", "none left")
    assert said_fault({"code": "Odd", "innererror": inner}).kind is CAPACITY
    assert said_fault({"code": "QuotaExceeded", "details": [inner]}).kind is QUOTA
    assert said_fault({"code": "Odd", "message": "m"}, 400) == Fault(CONFIG, "Odd", "m")


@given(
    st.recursive(
        st.none() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["code", "message", "details", "innererror", "x"]), inner),
    )
)
def test_no_error_object_is_too_odd(said):
    assert said_fault(said).kind in set(FaultKind)
    assert fault_of(str(said), str(said)).kind in set(FaultKind)


def test_capacity_quota_and_throttle_may_be_tried_again():
    for code, (kind, retry_s) in CODES.items():
        if kind in (CAPACITY, QUOTA, THROTTLE):
            assert retry_s is not None, code
        if kind in (CONFIG, AUTH):
            assert retry_s is None, code


@pytest.mark.parametrize(
    ("text", "seconds"), [("17", 17.0), ("0", 0.0), ("", None), ("soon", None), ("-1", None), ("9" * 9, None), ("\u0661", None)]
)
def test_retry_after(text, seconds):
    assert retry_after_s({"Retry-After": text}) == seconds


def test_azures_own_time_goes_before_ours_within_reason():
    assert fault_of("TooManyRequests", "", 429, retry_after_s=17.0).retry_s == 17.0
    assert fault_of("TooManyRequests", "", 429, retry_after_s=0.0).retry_s == 1.0
    assert fault_of("TooManyRequests", "", 429, retry_after_s=99_999.0).retry_s == 3600.0
    assert fault_of("AuthorizationFailed", "", 403, retry_after_s=17.0).retry_s is None
    assert fault_of("LaunchEnded", "", retry_after_s=17.0).retry_s is None


def answer(status, text, headers=None):
    def parsed():
        return json.loads(text)

    return SimpleNamespace(
        status_code=status,
        reason="r",
        headers=headers or {},
        json=parsed,
        text=lambda *_: text,
        content=text.encode(),
        request=SimpleNamespace(url="u", method="GET"),
    )


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (409, '{"error": {"code": "SkuNotAvailable", "message": "m"}}', (CAPACITY, "SkuNotAvailable")),
        (409, '{"code": "SkuNotAvailable", "message": "m"}', (CAPACITY, "SkuNotAvailable")),
        (502, "<html>", (TRANSIENT, "HTTP502")),
        (403, "[]", (AUTH, "HTTP403")),
        (404, '{"error": "text"}', (CONFIG, "HTTP404")),
        (307, "", (TRANSIENT, "HTTP307")),
    ],
)
def test_answer_with_an_error(status, text, expected):
    fault = error_of(azure.HttpResponseError("m", response=answer(status, text))).fault
    assert (fault.kind, fault.code) == expected


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (azure.ClientAuthenticationError("no token"), AUTH),
        (azure.ServiceRequestError("no connection"), TRANSIENT),
        (azure.ServiceResponseError("hung up"), TRANSIENT),
        (azure.DecodeError("nonsense"), TRANSIENT),
        (TypeError("odd"), TRANSIENT),
        (ProviderError(Fault(QUOTA, "c", "m")), QUOTA),
    ],
)
def test_what_is_no_answer_goes_by_its_class(error, kind):
    assert error_of(error).fault.kind is kind


def test_missing_identity_is_an_authorization_fault():
    from azure.identity import CredentialUnavailableError

    assert error_of(CredentialUnavailableError("none")).fault.kind is AUTH


def test_timeout():
    fault = timeout_error("listing machines", 3.0).fault
    assert (fault.kind, fault.retry_s is not None) == (TRANSIENT, True)
    assert "listing machines" in fault.message
