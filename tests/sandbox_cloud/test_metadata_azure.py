"""Azure's metadata in the sandbox: as Azure's answers are, and as the agent's own watcher reads and approves them."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from holdfast_common.clock import SystemClock
from holdfast_common.notice import NoticeKind
from holdfast_nodeagent.notices.azure import SOURCE, AzureMetadata
from holdfast_nodeagent.notices.base import Seen, Unclear
from holdfast_nodeagent.notices.detect import ask
from holdfast_nodeagent.notices.http import MetadataHttp
from holdfast_sandbox.cloud_control import CloudControlError
from holdfast_sandbox.machine import Machine
from metadata_bed import LAUNCH, MetadataBed, metadata_bed

HEADER = {"Metadata": "true"}
EVENTS = "scheduledevents?api-version=2020-07-01"


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[MetadataBed]:
    async with metadata_bed(tmp_path) as made:
        yield made


@pytest.fixture
async def vm(bed: MetadataBed) -> Machine:
    return bed.launch("azure", zone="1", resourceGroupName="lab-rg")


@pytest.fixture
async def source(bed: MetadataBed, vm: Machine) -> AsyncIterator[AzureMetadata]:
    made = AzureMetadata(MetadataHttp(bed.imds(vm)), MetadataHttp(bed.imds(vm)), SystemClock())
    yield made
    made.close()


async def call(bed: MetadataBed, vm: Machine, path: str, *, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    url = f"{bed.imds(vm)}/metadata/{path}"
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, headers=HEADER | headers, json=body) as reply,
    ):
        return reply.status, await reply.json() if reply.content_type == "application/json" else None


async def seen(source: AzureMetadata) -> tuple[Seen, ...]:
    answer = (await source.look())[SOURCE]
    assert isinstance(answer, tuple)
    return answer


async def announce(bed: MetadataBed, vm: Machine, *events: dict[str, Any]) -> list[str]:
    return await bed.order(lambda control: control.scheduled_events(vm.instance_id, list(events)))


async def test_no_header_or_version_no_answer(bed: MetadataBed, vm: Machine) -> None:
    assert (await call(bed, vm, EVENTS, Metadata="false"))[0] == 400
    assert (await call(bed, vm, EVENTS, **{"X-Forwarded-For": "10.0.0.1"}))[0] == 400
    status, fault = await call(bed, vm, "instance")
    assert (status, "newest-versions" in fault) == (400, True)
    assert "2020-07-01" in (await call(bed, vm, "versions"))[1]["apiVersions"]
    assert (await call(bed, vm, "identity?api-version=2021-02-01"))[0] == 404
    assert (await call(bed, vm, "instance?api-version=2021-02-01", method="POST"))[0] == 405


async def test_the_instance_document(bed: MetadataBed, vm: Machine) -> None:
    _, document = await call(bed, vm, "instance?api-version=2021-02-01")
    compute = document["compute"]
    assert (compute["vmId"], compute["name"], compute["resourceGroupName"]) == (vm.instance_id, "vm-1", "lab-rg")
    assert (compute["location"], compute["zone"], compute["priority"]) == ("eastus", "1", "Spot")
    assert base64.b64decode(compute["userData"]) == LAUNCH
    assert {"name": "holdfast-cluster", "value": "lab"} in compute["tagsList"]


async def test_each_other_document_has_another_number(bed: MetadataBed, vm: Machine) -> None:
    numbers = []

    async def note() -> None:
        numbers.append((await call(bed, vm, EVENTS))[1]["DocumentIncarnation"])

    await note()
    await announce(bed, vm, {"type": "Reboot", "due_s": 0.1})
    await note()
    await asyncio.sleep(0.15)  # it starts
    await note()
    await announce(bed, vm)
    await note()
    assert numbers == sorted(set(numbers))
    await note()
    assert numbers[-1] == numbers[-2]


async def test_the_agent_knows_who_it_is(bed: MetadataBed, vm: Machine, source: AzureMetadata) -> None:
    identity = await source.identity()
    assert (identity.provider, identity.instance_id, identity.zone) == ("azure", vm.instance_id, "eastus-1")
    assert (identity.instance_type, identity.market, identity.address) == ("sim1.small", "spot", vm.ip)
    assert (identity.cluster, identity.launch_id, identity.launch_token) == ("lab", "l-1", "secret")
    assert await ask(dict.fromkeys(("aws", "gcp", "azure"), bed.imds(vm)), SystemClock()) == "azure"


async def test_the_agent_hears_of_an_eviction_within_a_second_and_never_approves_it(
    bed: MetadataBed, vm: Machine, source: AzureMetadata
) -> None:
    source.is_empty = lambda: True
    assert await seen(source) == ()
    reply = await bed.order(lambda control: control.reclaim(vm.instance_id, notice_s=60))
    (notice,) = await seen(source)
    assert time.time() - reply["notice"] < 1.5
    assert notice.kind is NoticeKind.PREEMPT
    assert reply["deadline"] - 1 <= notice.at <= reply["deadline"]
    assert await seen(source) == (notice,)
    assert vm.deadline == reply["deadline"]
    assert not any(line["event"] == "event_approved" for line in bed.record())
    await bed.order(lambda control: control.cancel_reclaim(vm.instance_id))
    assert await seen(source) == ()


async def test_whoever_approves_an_eviction_loses_the_machine_at_once(bed: MetadataBed, vm: Machine) -> None:
    bed.datacenter.reclaim(vm, 60)
    _, document = await call(bed, vm, EVENTS)
    request = {"StartRequests": [{"EventId": document["Events"][0]["EventId"]}]}
    assert (await call(bed, vm, EVENTS, method="POST", body=request))[0] == 200
    await asyncio.wait_for(vm.stop.wait(), 5)


async def test_the_agent_lets_an_event_start_when_its_node_is_empty(bed: MetadataBed, vm: Machine, source: AzureMetadata) -> None:
    await announce(bed, vm, {"type": "Reboot", "due_s": 900.0}, {"type": "Redeploy", "due_s": 600.0, "resources": ["vm-1", "vm-2"]})
    notices = await seen(source)
    assert [notice.kind for notice in notices] == [NoticeKind.MAINTENANCE] * 2
    assert not any(event.approved for event in vm.scheduled_events)
    source.is_empty = lambda: True
    await seen(source)
    assert [(event.kind, event.approved) for event in vm.scheduled_events] == [("Reboot", True), ("Redeploy", False)]
    begun, other = await seen(source)
    assert begun.counted
    assert begun.at <= time.time()
    assert other == notices[1]


async def test_an_event_that_names_others_only_is_not_ours(bed: MetadataBed, vm: Machine, source: AzureMetadata) -> None:
    await announce(bed, vm, {"type": "Freeze", "due_s": 900.0, "resources": ["vm-2"]})
    assert await seen(source) == ()


@pytest.mark.parametrize("body", [None, [], {"StartRequests": 3}, {"StartRequests": [{"EventId": "none"}]}, {"StartRequests": [3]}])
async def test_a_request_to_start_that_cannot_be_read_starts_nothing(bed: MetadataBed, vm: Machine, body: Any) -> None:
    await announce(bed, vm, {"type": "Reboot", "due_s": 900.0})
    assert (await call(bed, vm, EVENTS, method="POST", body=body))[0] == 400
    assert not vm.scheduled_events[0].approved


@pytest.mark.parametrize("event", [{"type": "Preempt", "due_s": 1.0}, {"type": "Reboot"}, {"type": "Reboot", "due_s": -1.0}])
async def test_an_order_that_makes_no_sense_is_refused(bed: MetadataBed, vm: Machine, event: dict[str, Any]) -> None:
    with pytest.raises(CloudControlError):
        await announce(bed, vm, event)


async def test_a_slow_first_answer_delays_nothing_else(bed: MetadataBed, vm: Machine, source: AzureMetadata) -> None:
    await bed.order(lambda control: control.fail_metadata(prefix="scheduledevents", mode="slow", seconds=2.5, count=1))
    bed.datacenter.reclaim(vm, 60)
    looking = asyncio.ensure_future(seen(source))
    began = time.monotonic()
    assert (await source.identity()).instance_id == vm.instance_id
    assert time.monotonic() - began < 1.5
    assert [notice.kind for notice in await looking] == [NoticeKind.PREEMPT]
    assert time.monotonic() - began >= 2.4  # longer than any later answer may take


@pytest.mark.parametrize("fault", [{"mode": "malformed"}, {"mode": "500"}, {"mode": "hang", "seconds": 0.05}])
async def test_a_service_gone_bad_is_unclear_and_then_well_again(
    bed: MetadataBed, vm: Machine, source: AzureMetadata, fault: dict[str, Any]
) -> None:
    await bed.order(lambda control: control.fail_metadata(prefix="scheduledevents", count=1, **fault))
    assert isinstance((await source.look())[SOURCE], Unclear)
    assert await seen(source) == ()
