"""Clouds that the contract is held against ("beds"): what they have in common, and those of AWS and of the cloud in memory."""

import asyncio
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import boto3
from holdfast_common.clock import VirtualClock
from holdfast_controller.providers.aws import AwsProvider
from holdfast_controller.providers.aws_config import AwsConfig
from holdfast_controller.providers.base import FaultKind, LaunchRequest, Market, Pool, Provider
from holdfast_controller.providers.fake import FakePool, FakeProvider
from holdfast_controller.providers.fake_faults import lost_answer, refusal
from holdfast_sandbox.cloud_control import CloudControl

T = TypeVar("T")
REGION, ZONE, TYPE = "us-east-1", "us-east-1a", "p4d.24xlarge"
UNBOUNDED = ("run_instances", "run_instances.instances", "create_fleet", "terminate_instances", "terminate_instances.instances")


def make_pool(provider: str = "aws", market: Market = Market.SPOT, *, zone: str = ZONE, type_: str = TYPE) -> Pool:
    return Pool(f"{provider}/{REGION}/{zone}/{type_}/{market.value}", provider, REGION, zone, type_, market)


def make_request(pool: Pool, launch_id: str = "launch-1", count: int = 2, minimum: int | None = None) -> LaunchRequest:
    return LaunchRequest(launch_id, pool, count, count if minimum is None else minimum, user_data="#!/bin/sh\n", tags={"job": "7"})


def aws_config(endpoint_url: str, **more: object) -> AwsConfig:
    settings: dict[str, object] = {
        "cluster": "alpha",
        "regions": (REGION,),
        "endpoint_url": endpoint_url,
        "access_key_id": "test",
        "secret_access_key": "test",
        "images": {REGION: "ami-12345678"},
        "connect_timeout_s": 2.0,
        "read_timeout_s": 20.0,
        "on_demand_usd_h": {TYPE: 32.77},
        "rates": dict.fromkeys(UNBOUNDED, (1e6, 1e6)),
    }
    return AwsConfig.model_validate(settings | more)


class Bed:
    """A cloud that the contract is held against, and what a test may do to it."""

    name = ""
    spot: Pool
    on_demand: Pool
    provider: Provider
    chooses = False
    """Whether one launch call asks several pools; else it takes the first, and `others` are the caller's to ask next."""

    @property
    def sibling(self) -> Pool:
        """The spot pool of the region's next zone."""
        zone = f"{self.spot.zone[:-1]}b"
        return replace(self.spot, name=self.spot.name.replace(f"/{self.spot.zone}/", f"/{zone}/"), zone=zone)

    def set_sibling_capacity(self, instances: int) -> None:
        """Change what the sibling has in all; nothing where no call asks it."""

    async def wait(self) -> None:
        """Let a little of the cloud's time pass."""
        await asyncio.sleep(0.05)

    async def until(self, condition: Callable[[], Awaitable[T]]) -> T:
        """Return the condition's first true answer; fails after a few hundred tries."""
        for _ in range(400):
            answer = await condition()
            if answer:
                return answer
            await self.wait()
        raise AssertionError("it did not come about")

    def set_capacity(self, instances: int) -> None:
        """Change what the spot pool has in all."""
        raise NotImplementedError

    def reclaim(self, instance_id: str) -> None:
        """Take an instance back at once."""
        raise NotImplementedError

    def now(self) -> float:
        """The cloud's time, Unix seconds."""
        return time.time()

    def announce(self, instance_id: str, in_s: float) -> None:
        """Have the cloud say that it takes an instance back then."""
        raise NotImplementedError

    def spare(self, instance_id: str) -> None:
        """Withdraw that."""
        raise NotImplementedError

    def fail(self, method: str, kind: FaultKind) -> None:
        """Let the next call of a method fail; `TRANSIENT` does so after it was carried out."""
        raise NotImplementedError

    async def clean(self) -> None:
        """End everything, so that the next test finds an empty cloud."""
        found = await self.provider.instances()
        await self.provider.terminate([each.instance_id for each in found if each.state != "gone"])

    def foreigner(self) -> Provider:
        """The same account, seen by another cluster."""
        raise NotImplementedError


class FakeBed(Bed):
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.spot, self.on_demand = make_pool("fake"), make_pool("fake", Market.ON_DEMAND)
        pools = [FakePool(self.spot, 8, 12.5, 32.77), FakePool(self.on_demand, 8, None, 32.77)]
        self.fake = FakeProvider(self.clock, pools, cluster="alpha")
        self.provider = self.fake

    async def wait(self) -> None:
        await self.clock.advance(5)

    def set_capacity(self, instances: int) -> None:
        self.fake.pools[self.spot.name].capacity = instances

    def reclaim(self, instance_id: str) -> None:
        self.fake.reclaim([instance_id])

    def now(self) -> float:
        return self.clock.now()

    def announce(self, instance_id: str, in_s: float) -> None:
        self.fake.reclaim([instance_id], in_s)

    def spare(self, instance_id: str) -> None:
        self.fake.spare(instance_id)

    def fail(self, method: str, kind: FaultKind) -> None:
        retry_s = None if kind in (FaultKind.AUTH, FaultKind.CONFIG) else 5.0
        trouble = lost_answer() if kind is FaultKind.TRANSIENT else refusal(kind, retry_s)
        self.fake.inject(trouble.on(method))


class MotoBed(Bed):
    def __init__(self, url: str) -> None:
        self.spot, self.on_demand = make_pool(), make_pool(market=Market.ON_DEMAND)
        self.url = url
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        self.client = boto3.client("ec2", region_name=REGION, endpoint_url=url, **keys)
        self.provider = AwsProvider(aws_config(url, images={REGION: "ami-12c6146b"}))

    def foreigner(self) -> Provider:
        return AwsProvider(aws_config(self.url, images={REGION: "ami-12c6146b"}, cluster="beta"))

    def set_capacity(self, instances: int) -> None:
        """Moto starts MinCount instances, whatever MaxCount says: to a partial launch, a pool that has no more."""

    async def clean(self) -> None:
        """A fleet leaves spot requests, which moto cannot filter by their status: its next listing would fail."""
        await super().clean()
        requests = self.client.describe_spot_instance_requests()["SpotInstanceRequests"]
        if requests:
            self.client.cancel_spot_instance_requests(SpotInstanceRequestIds=[each["SpotInstanceRequestId"] for each in requests])


ACTIONS = {"launch": "RunInstances", "find": "DescribeInstances", "instances": "DescribeInstances", "terminate": "TerminateInstances"}
CODES = {
    FaultKind.CAPACITY: "InsufficientInstanceCapacity",
    FaultKind.THROTTLE: "RequestLimitExceeded",
    FaultKind.QUOTA: "MaxSpotInstanceCountExceeded",
    FaultKind.AUTH: "UnauthorizedOperation",
    FaultKind.CONFIG: "InvalidSubnetID.NotFound",
}


class ControlledBed(Bed):
    """A simulated cloud, which is told by its control API; subclasses say which zone, what its actions are called and what it answers."""

    zone = sibling_zone = ""
    actions: Mapping[str, str] = {}
    codes: Mapping[FaultKind, str] = {}

    def __init__(self, url: str) -> None:
        self.url = url
        self.control = CloudControl(url)

    def set_capacity(self, instances: int) -> None:
        self.control.set_zone(self.zone, instance_type=self.spot.instance_type, capacity=instances)

    def set_sibling_capacity(self, instances: int) -> None:
        if self.sibling_zone:
            self.control.set_zone(self.sibling_zone, instance_type=self.spot.instance_type, capacity=instances)

    def reclaim(self, instance_id: str) -> None:
        self.control.kill(instance_id)

    def announce(self, instance_id: str, in_s: float) -> None:
        self.control.reclaim(instance_id, notice_s=in_s)

    def spare(self, instance_id: str) -> None:
        self.control.cancel_reclaim(instance_id)

    def fail(self, method: str, kind: FaultKind) -> None:
        if kind is FaultKind.TRANSIENT:
            self.control.fail(action=self.actions[method], mode="500", when="after", count=1)
        else:
            self.control.fail(action=self.actions[method], mode="error", code=self.codes[kind], count=1)

    async def clean(self) -> None:
        self.control.clear()
        self.set_capacity(8)
        self.set_sibling_capacity(8)
        await super().clean()

        async def empty() -> bool:
            return all(each.state == "gone" for each in await self.provider.instances())

        await self.until(empty)


class SandboxBed(ControlledBed):
    chooses = True
    zone, sibling_zone, actions, codes = ZONE, "us-east-1b", ACTIONS, CODES

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.spot, self.on_demand = make_pool(), make_pool(market=Market.ON_DEMAND)
        self.provider = AwsProvider(aws_config(url))

    def foreigner(self) -> Provider:
        return AwsProvider(aws_config(self.url, cluster="beta"))


def served(command: list[str], log: Path, url_of: Callable[[], str | None]) -> Iterator[str]:
    """Run a server until the session ends; its address comes from `url_of` once it listens."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["AWS_EC2_METADATA_DISABLED"] = "true"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
    try:
        end = time.monotonic() + 60
        while (url := url_of()) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
