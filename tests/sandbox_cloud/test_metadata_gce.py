"""Compute Engine's metadata in the sandbox: as Google's answers are, and as the agent's own watcher reads them."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from holdfast_common.clock import SystemClock
from holdfast_common.notice import NoticeKind
from holdfast_nodeagent.notices import gcp
from holdfast_nodeagent.notices.base import Answer, Seen, Unclear
from holdfast_nodeagent.notices.detect import ask
from holdfast_nodeagent.notices.gcp import GcpMetadata
from holdfast_nodeagent.notices.http import MetadataHttp
from holdfast_sandbox.machine import Machine
from metadata_bed import LAUNCH, MetadataBed, metadata_bed

FLAVOR = {"Metadata-Flavor": "Google"}


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[MetadataBed]:
    async with metadata_bed(tmp_path) as made:
        yield made


@pytest.fixture
async def vm(bed: MetadataBed) -> Machine:
    return bed.launch("gcp", metadata={"startup-script": "#!/bin/sh", "holdfast-notice-s": "60"})


@pytest.fixture
async def source(bed: MetadataBed, vm: Machine) -> AsyncIterator[GcpMetadata]:
    made = GcpMetadata(MetadataHttp(bed.imds(vm), threads=gcp.THREADS), SystemClock())
    yield made
    made.close()


async def get(bed: MetadataBed, vm: Machine, path: str, headers: Mapping[str, str] = FLAVOR) -> tuple[int, str, str]:
    """Status, text and etag of a value."""
    url = f"{bed.imds(vm)}/computeMetadata/v1/{path}"
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as reply:
        assert reply.headers.get("Metadata-Flavor") == "Google"
        return reply.status, await reply.text(), reply.headers.get("ETag", "")


def only(answers: Mapping[str, Answer], name: str) -> Seen:
    answer = answers[name]
    assert isinstance(answer, tuple)
    assert len(answer) == 1
    return answer[0]


async def until(source: GcpMetadata, name: str) -> Answer:
    """The next answer of a value."""
    while name not in (answers := await source.look()):
        pass
    return answers[name]


async def test_no_header_no_answer(bed: MetadataBed, vm: Machine) -> None:
    for headers in ({}, {"Metadata-Flavor": "other"}, {**FLAVOR, "X-Forwarded-For": "10.0.0.1"}):
        assert (await get(bed, vm, "instance/id", headers))[0] == 403
    assert (await get(bed, vm, "instance/id?timeout_sec=soon"))[0] == 400
    async with aiohttp.ClientSession() as session, session.post(f"{bed.imds(vm)}/computeMetadata/v1/instance/id", headers=FLAVOR) as reply:
        assert reply.status == 405


async def test_a_machine_answers_in_its_own_clouds_dialect_only(bed: MetadataBed, vm: Machine) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.put(f"{bed.imds(vm)}/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}) as reply:
            assert reply.status == 404
        async with session.get(f"{bed.imds(vm)}/metadata/instance?api-version=2021-02-01", headers={"Metadata": "true"}) as reply:
            assert reply.status == 404


async def test_values_listings_and_what_is_absent(bed: MetadataBed, vm: Machine) -> None:
    status, zone, etag = await get(bed, vm, "instance/zone")
    assert (status, zone) == (200, "projects/123456789012/zones/us-central1-a")
    assert etag
    assert (await get(bed, vm, "instance/attributes/user-data"))[1] == LAUNCH.decode()
    assert (await get(bed, vm, "instance/attributes/"))[1] == "holdfast-notice-s\nstartup-script\nuser-data\n"
    assert (await get(bed, vm, "instance/attributes/none"))[0] == 404
    assert (await get(bed, vm, "instance/preempted"))[1] == "FALSE"


async def test_a_wait_ends_with_the_change_or_with_its_time(bed: MetadataBed, vm: Machine) -> None:
    _, _, etag = await get(bed, vm, "instance/preempted")
    began = time.monotonic()
    assert (await get(bed, vm, f"instance/preempted?wait_for_change=true&last_etag={etag}&timeout_sec=1"))[1] == "FALSE"
    assert time.monotonic() - began >= 0.9
    assert (await get(bed, vm, "instance/preempted?wait_for_change=true&last_etag=older&timeout_sec=20"))[1] == "FALSE"
    waiting = asyncio.ensure_future(get(bed, vm, "instance/preempted?wait_for_change=true"))
    await asyncio.sleep(0.1)
    vm.touch()  # something else has changed
    await asyncio.sleep(0.1)
    assert not waiting.done()
    bed.datacenter.reclaim(vm, 60)
    assert (await waiting)[1] == "TRUE"
    assert time.monotonic() - began < 10


async def test_a_wait_ends_with_the_machine(bed: MetadataBed, vm: Machine) -> None:
    waiting = asyncio.ensure_future(get(bed, vm, "instance/preempted?wait_for_change=true"))
    await asyncio.sleep(0.1)
    bed.datacenter.kill(vm, "Server.SpotInstanceTermination")
    assert (await waiting)[0] == 404


async def test_the_agent_knows_who_it_is(bed: MetadataBed, vm: Machine, source: GcpMetadata) -> None:
    identity = await source.identity()
    assert (identity.provider, identity.instance_id, identity.zone) == ("gcp", vm.instance_id, "us-central1-a")
    assert (identity.instance_type, identity.market, identity.address) == ("sim1.small", "spot", vm.ip)
    assert (identity.cluster, identity.launch_id, identity.launch_token) == ("lab", "l-1", "secret")
    assert source.window_s == 60.0
    assert await ask(dict.fromkeys(("aws", "gcp", "azure"), bed.imds(vm)), SystemClock()) == "gcp"


async def test_the_agent_hears_of_a_preemption_in_milliseconds_and_of_its_end(bed: MetadataBed, vm: Machine, source: GcpMetadata) -> None:
    found: dict[str, Answer] = {}
    while len(found) < 2:
        found.update(await source.look())
    assert found == {"preempted": (), "maintenance-event": ()}
    waiting = asyncio.ensure_future(source.look())
    await asyncio.sleep(0.3)
    assert not waiting.done()
    reply = await bed.order(lambda control: control.reclaim(vm.instance_id, notice_s=60))
    seen = only(await waiting, "preempted")
    assert time.time() - reply["notice"] < 0.2
    assert (seen.kind, seen.counted) == (NoticeKind.PREEMPT, True)
    assert reply["deadline"] - 0.5 <= seen.at <= reply["deadline"] + 0.5
    await bed.order(lambda control: control.cancel_reclaim(vm.instance_id))
    assert await until(source, "preempted") == ()


async def test_the_agent_hears_of_maintenance(bed: MetadataBed, vm: Machine, source: GcpMetadata) -> None:
    await until(source, "maintenance-event")
    for event, kind in (("TERMINATE_ON_HOST_MAINTENANCE", NoticeKind.MAINTENANCE), ("MIGRATE_ON_HOST_MAINTENANCE", NoticeKind.ADVISE)):
        await bed.order(lambda control, event=event: control.maintenance_event(vm.instance_id, event))  # type: ignore[misc]
        answer = await until(source, "maintenance-event")
        assert isinstance(answer, tuple)
        assert [seen.kind for seen in answer] == [kind]
    await bed.order(lambda control: control.maintenance_event(vm.instance_id, "NONE"))
    assert await until(source, "maintenance-event") == ()


@pytest.mark.parametrize(
    "fault", [{"mode": "malformed"}, {"mode": "500"}, {"mode": "hang", "seconds": 0.05}, {"mode": "slow", "seconds": 2.5}]
)
async def test_a_service_gone_bad_is_unclear_and_then_well_again(
    bed: MetadataBed, vm: Machine, source: GcpMetadata, fault: dict[str, Any]
) -> None:
    await bed.order(lambda control: control.fail_metadata(prefix="instance/preempted", count=1, **fault))
    assert isinstance(await until(source, "preempted"), Unclear)
    assert await until(source, "preempted") == ()


async def test_an_on_demand_vm_is_never_preempted(bed: MetadataBed) -> None:
    vm = bed.launch("gcp", "on_demand", user_data=b"")
    bed.datacenter.reclaim(vm, 60)
    assert (await get(bed, vm, "instance/preempted"))[1] == "FALSE"
    assert (await get(bed, vm, "instance/scheduling/preemptible"))[1] == "FALSE"
    assert (await get(bed, vm, "instance/attributes/user-data"))[0] == 404
