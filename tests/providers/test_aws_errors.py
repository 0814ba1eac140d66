"""What AWS's error codes mean to us."""

import pytest
from botocore import exceptions as boto
from holdfast_controller.providers.aws_errors import CODES, error_of, fault_of, named_ids, timeout_error
from holdfast_controller.providers.base import FaultKind
from hypothesis import given, settings
from hypothesis import strategies as st

CAPACITY, QUOTA, THROTTLE = FaultKind.CAPACITY, FaultKind.QUOTA, FaultKind.THROTTLE
CONFIG, AUTH, TRANSIENT = FaultKind.CONFIG, FaultKind.AUTH, FaultKind.TRANSIENT


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("InsufficientInstanceCapacity", 500, CAPACITY),
        ("InsufficientHostCapacity", 500, CAPACITY),
        ("InsufficientReservedInstanceCapacity", 500, CAPACITY),
        ("InsufficientCapacity", 500, CAPACITY),
        ("UnfulfillableCapacity", 400, CAPACITY),
        ("SpotMaxPriceTooLow", 400, CAPACITY),
        ("Unsupported", 400, CAPACITY),
        ("Server.InsufficientInstanceCapacity", 500, CAPACITY),
        ("MaxSpotInstanceCountExceeded", 400, QUOTA),
        ("InstanceLimitExceeded", 400, QUOTA),
        ("VcpuLimitExceeded", 400, QUOTA),
        ("InsufficientFreeAddressesInSubnet", 400, QUOTA),
        ("RequestLimitExceeded", 503, THROTTLE),
        ("Client.RequestLimitExceeded", 503, THROTTLE),
        ("Throttling", 400, THROTTLE),
        ("EC2ThrottledException", 400, THROTTLE),
        ("UnauthorizedOperation", 403, AUTH),
        ("AuthFailure", 401, AUTH),
        ("InvalidClientTokenId", 403, AUTH),
        ("MissingAuthenticationToken", 403, AUTH),
        ("InvalidSubnetID.NotFound", 400, CONFIG),
        ("InvalidLaunchTemplateName.NotFoundException", 400, CONFIG),
        ("MissingParameter", 400, CONFIG),
        ("UnknownParameter", 400, CONFIG),
        ("IdempotentParameterMismatch", 400, CONFIG),
        ("UnsupportedOperation", 400, CONFIG),
        ("InternalError", 500, TRANSIENT),
        ("ServiceUnavailable", 503, TRANSIENT),
        ("IdempotentInstanceTerminated", 400, TRANSIENT),
        ("Novelty", 429, THROTTLE),
        ("Novelty", 401, AUTH),
        ("Novelty", 403, AUTH),
        ("Novelty", 400, CONFIG),
        ("Novelty", 500, TRANSIENT),
        ("Novelty", 503, TRANSIENT),
        ("", 0, TRANSIENT),
    ],
)
def test_code_means(code, status, kind):
    fault = fault_of(code, "message", status, pool="p")
    assert (fault.kind, fault.code, fault.message) == (kind, code, "message")
    assert fault.pool == ("p" if kind in (CAPACITY, QUOTA, CONFIG) else "")


def test_only_what_may_pass_has_a_time_to_try_again():
    for code, (kind, retry_s) in CODES.items():
        permanent = kind in (CONFIG, AUTH) or code == "IdempotentInstanceTerminated"
        assert (retry_s is None) == permanent, code
        assert retry_s is None or retry_s > 0


def client_error(code, status, message="m"):
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return boto.ClientError(response, "RunInstances")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (client_error("InsufficientInstanceCapacity", 500), CAPACITY),
        (client_error("Novelty", 403), AUTH),
        (boto.ClientError({"Error": {}}, "RunInstances"), TRANSIENT),
        (boto.NoCredentialsError(), AUTH),
        (boto.PartialCredentialsError(provider="p", cred_var="v"), AUTH),
        (boto.CredentialRetrievalError(provider="p", error_msg="e"), AUTH),
        (boto.ProfileNotFound(profile="p"), AUTH),
        (boto.ParamValidationError(report="r"), CONFIG),
        (boto.NoRegionError(), CONFIG),
        (boto.EndpointConnectionError(endpoint_url="u", error="e"), TRANSIENT),
        (boto.ConnectTimeoutError(endpoint_url="u"), TRANSIENT),
        (boto.ReadTimeoutError(endpoint_url="u"), TRANSIENT),
        (boto.ConnectionClosedError(endpoint_url="u"), TRANSIENT),
        (boto.SSLError(endpoint_url="u", error="e"), TRANSIENT),
        (ValueError("no XML"), TRANSIENT),
        (timeout_error("run_instances", 3.0), TRANSIENT),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_what_boto3_raises_means(error, kind):
    fault = error.fault if hasattr(error, "fault") else error_of(error).fault
    assert fault.kind is kind
    assert fault.code or isinstance(error, boto.ClientError)
    assert (fault.retry_s is None) == (kind in (AUTH, CONFIG))


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30), st.integers(0, 599))
def test_no_code_is_without_meaning(code, status):
    fault = fault_of(code, "m", status)
    assert fault.kind in FaultKind
    assert (fault.retry_s is not None) or fault.kind in (CONFIG, AUTH) or "IdempotentInstanceTerminated" in code


def test_ids_are_read_from_a_message():
    message = "The instance IDs 'i-0123456789abcdef0, i-12345678' do not exist; i-xyz, ami-12345678, i-123"
    assert named_ids(message) == {"i-0123456789abcdef0", "i-12345678"}
