"""EC2's metadata in the sandbox, as the agent's own watcher reads them."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from holdfast_common.clock import SystemClock, VirtualClock
from holdfast_common.notice import NoticeKind
from holdfast_nodeagent.notices.aws import SLOW_EVERY, TOKEN_TTL_S, AwsMetadata
from holdfast_nodeagent.notices.base import Answer, Seen, Unclear
from holdfast_nodeagent.notices.detect import ask
from holdfast_nodeagent.notices.http import MetadataHttp
from holdfast_sandbox.machine import Machine
from metadata_bed import MetadataBed, metadata_bed

ACTION, REBALANCE, SCHEDULED = "spot/instance-action", "events/recommendations/rebalance", "events/maintenance/scheduled"


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[MetadataBed]:
    async with metadata_bed(tmp_path) as made:
        yield made


@pytest.fixture
async def vm(bed: MetadataBed) -> Machine:
    return bed.launch("aws")


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def source(bed: MetadataBed, vm: Machine, clock: VirtualClock) -> AsyncIterator[AwsMetadata]:
    made = AwsMetadata(MetadataHttp(bed.imds(vm)), clock)
    yield made
    made.close()


async def whole_look(source: AwsMetadata) -> dict[str, Answer]:
    """What every source says, also those that are asked now and then."""
    found: dict[str, Answer] = {}
    for _ in range(SLOW_EVERY):
        found |= await source.look()
    return found


def only(answer: Answer) -> Seen:
    assert isinstance(answer, tuple)
    assert len(answer) == 1
    return answer[0]


async def test_the_agent_knows_who_it_is(bed: MetadataBed, vm: Machine, source: AwsMetadata) -> None:
    identity = await source.identity()
    assert (identity.provider, identity.instance_id, identity.zone) == ("aws", vm.instance_id, "us-east-1a")
    assert (identity.instance_type, identity.market, identity.address) == ("sim1.small", "spot", vm.ip)
    assert (identity.cluster, identity.launch_id, identity.launch_token) == ("lab", "l-1", "secret")
    assert await ask(dict.fromkeys(("aws", "gcp", "azure"), bed.imds(vm)), SystemClock()) == "aws"


async def test_the_agent_hears_of_an_interruption_a_rebalance_and_maintenance(bed: MetadataBed, vm: Machine, source: AwsMetadata) -> None:
    assert await whole_look(source) == {ACTION: (), REBALANCE: (), SCHEDULED: ()}
    deadline = bed.datacenter.reclaim(vm, 120)
    await bed.order(lambda control: control.rebalance(vm.instance_id))
    event = {"Code": "system-reboot", "State": "active", "NotBefore": "21 Jan 2019 09:00:43 GMT"}
    await bed.order(lambda control: control.maintenance(vm.instance_id, [event]))
    found = await whole_look(source)
    assert only(found[ACTION]).kind is NoticeKind.PREEMPT
    assert deadline - 1 <= only(found[ACTION]).at <= deadline
    assert only(found[REBALANCE]).kind is NoticeKind.ADVISE
    assert time.time() - 30 < only(found[REBALANCE]).at <= time.time()
    assert (only(found[SCHEDULED]).kind, only(found[SCHEDULED]).at) == (NoticeKind.MAINTENANCE, 1548061243.0)
    bed.datacenter.cancel_reclaim(vm)
    assert (await source.look())[ACTION] == ()


async def test_a_token_that_is_no_longer_good_is_renewed(bed: MetadataBed, vm: Machine, source: AwsMetadata) -> None:
    await source.look()
    before = bed.datacenter.now
    bed.datacenter.now = lambda: before() + TOKEN_TTL_S + 1  # the service's clock; the agent's own stands still
    assert (await source.look())[ACTION] == ()


@pytest.mark.parametrize(
    "fault", [{"mode": "malformed"}, {"mode": "500"}, {"mode": "hang", "seconds": 0.05}, {"mode": "slow", "seconds": 2.5}]
)
async def test_a_service_gone_bad_is_unclear_and_then_well_again(
    bed: MetadataBed, vm: Machine, source: AwsMetadata, fault: dict[str, Any]
) -> None:
    bed.datacenter.reclaim(vm, 120)
    await bed.order(lambda control: control.fail_metadata(prefix="meta-data/spot", count=1, **fault))
    assert isinstance((await source.look())[ACTION], Unclear)
    assert only((await source.look())[ACTION]).kind is NoticeKind.PREEMPT
