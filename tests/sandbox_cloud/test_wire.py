"""The query protocol, read from the server's side: what boto3's own serializer writes is what we understand."""

from contextlib import suppress
from typing import Any
from xml.etree import ElementTree

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from holdfast_sandbox.ec2_wire import Ec2Error, Wire, error_xml, form_fields
from hypothesis import given
from hypothesis import strategies as st

VERSION = "2016-11-15"


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire()


@pytest.fixture(scope="module")
def model() -> ServiceModel:
    return ServiceModel(Loader().load_service_model("ec2", "service-2"), "ec2")


FLEET = {
    "Type": "instant",
    "ClientToken": "a & b",
    "LaunchTemplateConfigs": [
        {
            "LaunchTemplateSpecification": {"LaunchTemplateName": "node", "Version": "$Latest"},
            "Overrides": [{"InstanceType": "sim1.small", "SubnetId": f"subnet-{index}", "Priority": 0.5} for index in range(12)],
        }
    ],
    "TargetCapacitySpecification": {"TotalTargetCapacity": 3, "DefaultTargetCapacityType": "spot"},
    "SpotOptions": {"SingleAvailabilityZone": True, "MinTargetCapacity": 2},
    "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "k", "Value": "ü<>"}]}],
}


@pytest.mark.parametrize(
    ("action", "params"),
    [
        ("CreateFleet", FLEET),
        ("DescribeInstances", {"Filters": [{"Name": "tag:k", "Values": ["a", "b"]}], "MaxResults": 7}),
        ("CreateTags", {"Resources": ["i-1", "lt-2"], "Tags": [{"Key": "k", "Value": ""}]}),
        ("RunInstances", {"MinCount": 1, "MaxCount": 2, "SecurityGroupIds": ["sg-1"], "Placement": {"Tenancy": "x"}}),
        ("DescribeSpotPriceHistory", {"InstanceTypes": ["p5.48xlarge"], "StartTime": 1_700_000_000.0}),
    ],
)
def test_what_boto3_writes_is_understood(wire: Wire, model: ServiceModel, action: str, params: dict[str, Any]) -> None:
    request = create_serializer("ec2").serialize_to_request(params, model.operation_model(action))
    assert wire.parse({key: str(value) for key, value in request["body"].items()}) == (action, params)


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff\r"), max_size=20)


@given(keys=st.dictionaries(TEXT, TEXT, max_size=5), count=st.integers(-5, 5), launched=st.integers(0, 2_000_000_000))
def test_what_we_write_boto3_understands(keys: dict[str, str], count: int, launched: int) -> None:
    wire, model = _SHARED
    instance = {
        "InstanceId": "i-1",
        "AmiLaunchIndex": count,
        "EbsOptimized": count > 0,
        "LaunchTime": float(launched),
        "Tags": [{"Key": key, "Value": value} for key, value in keys.items()],
    }
    xml = wire.response("DescribeInstances", {"Reservations": [{"Instances": [instance]}]}, "rid")
    shape = model.operation_model("DescribeInstances").output_shape
    answer = {"status_code": 200, "headers": {}, "body": xml.encode()}
    back = create_parser("ec2").parse(answer, shape)["Reservations"][0]["Instances"][0]
    back["LaunchTime"] = back["LaunchTime"].timestamp()
    assert back == instance


_SHARED = (Wire(), ServiceModel(Loader().load_service_model("ec2", "service-2"), "ec2"))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "MissingAction"),
        ({"Action": "LaunchRockets"}, "InvalidAction"),
        ({"Action": "DescribeInstances", "Version": "1999-01-01"}, "NoSuchVersion"),
        ({"Action": "RunInstances", "MinCount": "1"}, "MissingParameter"),
        ({"Action": "RunInstances", "MinCount": "1", "MaxCount": "many"}, "InvalidParameterValue"),
        ({"Action": "TerminateInstances"}, "MissingParameter"),
        ({"Action": "TerminateInstances", "InstanceId": "i-1"}, "InvalidParameterValue"),
        ({"Action": "DescribeInstances", "InstanceID.1": "i-1"}, "UnknownParameter"),
        ({"Action": "DescribeInstances", "DryRun": "perhaps"}, "InvalidParameterValue"),
        ({"Action": "DescribeInstances", "Filter": "x", "Filter.1.Name": "y"}, "MalformedQueryString"),
        ({"Action": "DescribeInstances", "Filter.1.Name": "y", "Filter.1": "x"}, "MalformedQueryString"),
        ({"Action": "DescribeInstances", ".".join("a" * 20): "x"}, "MalformedQueryString"),
        ({"Action": "DescribeInstances", "NextToken": "a\x00b"}, "InvalidParameterValue"),
    ],
)
def test_what_ec2_would_not_take_is_refused(wire: Wire, fields: dict[str, str], code: str) -> None:
    with pytest.raises(Ec2Error) as caught:
        wire.parse({"Version": VERSION} | fields)
    assert caught.value.code == code
    assert caught.value.status == 400


@given(st.dictionaries(st.text("AIm.n1x", min_size=1, max_size=12), st.text(max_size=5), max_size=8))
def test_no_form_breaks_the_parser(fields: dict[str, str]) -> None:
    wire, _ = _SHARED
    with suppress(Ec2Error):  # any other exception is a defect
        action, _ = wire.parse({"Action": "DescribeInstances", "Version": VERSION} | fields)
        assert action == fields.get("Action", "DescribeInstances")


@pytest.mark.parametrize("body", [b"a=\xff", b"a=%ff", b"&".join(b"InstanceId.%d=x" % n for n in range(20_001))])
def test_a_body_that_is_no_form_is_refused(body: bytes) -> None:
    with pytest.raises(Ec2Error, match="MalformedQueryString"):
        form_fields(body)


def test_a_large_form_is_read_whole() -> None:
    body = b"&".join(b"InstanceId.%d=i%%2D%d" % (n, n) for n in range(1500))
    assert form_fields(body)["InstanceId.1499"] == "i-1499"


def test_an_error_is_escaped() -> None:
    root = ElementTree.fromstring(error_xml(Ec2Error("X", "<&>"), "rid"))
    assert root.findtext("Errors/Error/Message") == "<&>"


def test_an_answer_that_the_model_does_not_know_is_our_defect(wire: Wire) -> None:
    with pytest.raises(KeyError, match="Nonsense"):
        wire.response("DescribeInstances", {"Nonsense": 1}, "rid")
    assert "<return>true</return>" in wire.response("CreateTags", {}, "rid")
