"""Example settings and policies are taken by the providers themselves; the rights that a role is to have are those of the calls made."""

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from doc_pages import ROOT, Block, blocks
from holdfast_common.policy import parse_policy
from holdfast_controller.config_clouds import AwsSettings, azure_config, gcp_config
from holdfast_controller.planning import pool_of
from holdfast_controller.providers.aws import AwsProvider
from holdfast_controller.providers.aws_events import STATE_CHANGE, WARNING, Event
from holdfast_controller.providers.azure import AzureProvider
from holdfast_controller.providers.azure_config import AzureConfig
from holdfast_controller.providers.base import Pool, Provider
from holdfast_controller.providers.gcp import GcpProvider

INSTALLATION = ROOT / "docs" / "installation.md"
TEXT = INSTALLATION.read_text()
PROVIDERS = ROOT / "controller" / "holdfast_controller" / "providers"
GOOGLE_RIGHTS = {
    "Instances.bulk_insert_unary": "compute.instances.create",
    "RegionInstances.bulk_insert_unary": "compute.instances.create",
    "Instances.delete_unary": "compute.instances.delete",
    "Instances.aggregated_list": "compute.instances.list",
    "MachineTypes.aggregated_list": "compute.machineTypes.list",
    "GlobalOperations.aggregated_list": "compute.globalOperations.list",
    "ZoneOperations.wait": "compute.zoneOperations.get",
    "RegionOperations.wait": "compute.regionOperations.get",
    "Advice.capacity": "compute.advice.capacity",
    "Advice.capacity_history": "compute.advice.capacityHistory",
}
"""Method → the permission that it asks for, by the reference of the Compute Engine API."""


def settings(cloud: str) -> dict[str, Any]:
    """The first example of a cloud's table on the page of the installation."""
    tables = (tomllib.loads(block.text) for block in blocks("toml") if block.page == INSTALLATION and block.mark != "check: policy")
    return next(found["providers"][cloud] for found in tables if cloud in found.get("providers", {}))


def provider(cloud: str, pools: list[Pool]) -> Provider:
    """A provider of the example settings, told of pools. Raises ConfigError where it would not take one of them; contacts nobody."""
    if cloud == "aws":
        return AwsProvider(AwsSettings.model_validate(settings("aws")).with_cluster("physics"), pools)
    if cloud == "gcp":
        return GcpProvider(gcp_config(settings("gcp"), "physics"), pools)
    return AzureProvider(azure_config(settings("azure"), "physics"), pools)


@pytest.mark.parametrize("block", [block for block in blocks("toml") if block.mark == "check: policy"], ids=str)
async def test_the_example_pools_are_taken(block: Block) -> None:
    pools = [pool_of(pool) for pool in parse_policy(block.text).pools.values()]
    for cloud in {pool.provider for pool in pools}:
        made = provider(cloud, [pool for pool in pools if pool.provider == cloud])
        await made.close()


def test_there_is_an_example_for_each_cloud() -> None:
    policies = [parse_policy(block.text) for block in blocks("toml") if block.mark == "check: policy"]
    assert {pool.provider for policy in policies for pool in policy.pools.values()} == {"aws", "gcp", "azure"}


def marked(mark: str) -> Any:
    """The JSON document after a mark."""
    (found,) = [json.loads(block.text) for block in blocks("json") if block.mark == mark]
    return found


def calls(files: str) -> Iterator[tuple[str, ...]]:
    """What stands in quotes in calls to a cloud: of AWS the operation, of Google service and method."""
    pattern = r'\.(?:call|pages)\(\s*(?:[\w.]+,\s*)?"(\w+)"(?:,\s*"(\w+)")?'
    for path in sorted(PROVIDERS.glob(files)):
        yield from (match.groups(default="") for match in re.finditer(pattern, path.read_text()))


def test_the_rights_on_aws_are_those_of_the_calls() -> None:
    operations = {operation for operation, _ in calls("aws*.py")}
    queue = {"receive_message": "sqs:ReceiveMessage", "delete_message_batch": "sqs:DeleteMessage"}
    assert queue.keys() <= operations
    needed = {queue.get(each) or "ec2:" + "".join(word.capitalize() for word in each.split("_")) for each in operations}
    granted = {action for statement in marked("check: aws rights")["Statement"] for action in statement["Action"]}
    assert granted == needed | {"ec2:CreateTags", "iam:PassRole"}


def test_what_is_tagged_on_aws_may_be_tagged() -> None:
    (tags,) = [statement for statement in marked("check: aws rights")["Statement"] if statement["Action"] == ["ec2:CreateTags"]]
    source = "\n".join(path.read_text() for path in PROVIDERS.glob("aws*.py"))
    kinds = {"instance", "volume", "fleet", "launch-template"}
    assert {resource.rpartition(":")[2].removesuffix("/*") for resource in tags["Resource"]} == kinds
    listed = re.findall(r'tag_specifications\(config, request, ([^)]+)\)|"ResourceType": "([a-z-]+)"', source)
    assert {kind for pair in listed for kind in re.findall(r"[a-z-]+", " ".join(pair))} == kinds


def test_the_rights_on_google_are_those_of_the_calls() -> None:
    made = {f"{service}.{method}" for service, method in calls("gcp*.py") if method}
    waits = {f"{service}.wait" for service in re.findall(r'service, where = "(\w+)"', (PROVIDERS / "gcp_operations.py").read_text())}
    assert made | waits == GOOGLE_RIGHTS.keys()
    assert {permission for permission in GOOGLE_RIGHTS.values() if f"`{permission}`" not in TEXT} == set()


def test_the_roles_on_azure_are_named() -> None:
    roles = re.findall(r"`([A-Z][A-Za-z ]+)`", AzureConfig.__doc__ or "")
    assert len(roles) == 4
    assert [role for role in roles if f"*{role}*" not in TEXT] == []


def test_the_event_pattern_lets_through_what_is_read() -> None:
    pattern = marked("check: event pattern")
    assert pattern["detail-type"] == [WARNING, STATE_CHANGE]
    event = {"detail-type": WARNING, "source": pattern["source"][0], "time": "2026-01-02T03:04:05Z", "region": "us-east-1"}
    assert Event.model_validate(event | {"detail": {"instance-id": "i-0123456789abcdef0"}}).kind == WARNING


def test_the_queue_is_the_one_of_the_rights() -> None:
    (queue,) = re.findall(r'"https://sqs\.us-east-1\.amazonaws\.com/(\d+)/([\w-]+)"', TEXT)
    assert f'"arn:aws:sqs:*:{queue[0]}:{queue[1]}"' in TEXT
