"""Simulated clouds as real processes, and real boto3 clients for them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from holdfast_sandbox.cloud_control import CloudControl
from holdfast_sandbox.record import read_record

sys.path.insert(0, str(Path(__file__).parent))  # importmode=importlib leaves it out

ZONES: list[dict[str, Any]] = [
    {
        "name": f"us-east-1{letter}",
        "region": "us-east-1",
        "capacity": {"sim1.small": 4, "sim1.large": 2, "p5.48xlarge": 1},
        "spot_price_usd_h": {"sim1.small": price, "sim1.large": 2 * price, "p5.48xlarge": 50 * price},
        "on_demand_usd_h": 10.0,
        "on_demand_capacity": 6,
    }
    for letter, price in (("a", 0.9), ("b", 0.5), ("c", 0.7))
]
WEST = {
    "name": "us-west-2a",
    "region": "us-west-2",
    "capacity": {"sim1.small": 3},
    "spot_price_usd_h": 0.2,
    "on_demand_usd_h": 5.0,
}


@dataclass
class RunningCloud:
    """A cloud process and ways to talk to it."""

    process: subprocess.Popen[bytes]
    state_dir: Path
    url: str
    control: CloudControl
    clients: dict[str, Any] = field(default_factory=dict)

    def ec2(self, region: str = "us-east-1") -> Any:
        """A boto3 client that neither retries nor asks anyone but this cloud."""
        if region not in self.clients:
            self.clients[region] = boto3.client(
                "ec2",
                endpoint_url=self.url,
                region_name=region,
                aws_access_key_id="sandbox",
                aws_secret_access_key="sandbox",
                config=Config(retries={"total_max_attempts": 1}, read_timeout=5, proxies={}),
            )
        return self.clients[region]

    def record(self) -> list[dict[str, Any]]:
        return read_record(self.state_dir / "cloud.jsonl")

    def reset(self) -> None:
        """End all instances and lift all faults, so that the next test finds the whole capacity."""
        self.control.clear()
        alive = [one for one in self.control.instances() if one["gone"] is None]
        for one in alive:
            self.control.kill(one["instance_id"])
        for one in alive:
            self.control.wait_for(one["instance_id"], lambda now: now["gone"] is not None, 5)


StartCloud = Callable[..., RunningCloud]


@contextmanager
def running_cloud(state_dir: Path, **settings: Any) -> Iterator[RunningCloud]:
    config = {
        "state_dir": str(state_dir),
        "zones": [*ZONES, WEST],
        "boot_delay_s": 0.05,
        "shutdown_delay_s": 0.05,
        "instance_command": ["sleep", "infinity"],
        **settings,
    }
    path = state_dir.with_suffix(".json")
    path.write_text(json.dumps(config))
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen([sys.executable, "-m", "holdfast_sandbox.cloud", "--config", str(path)], env=env)
    clients: dict[str, Any] = {}
    try:
        ready = state_dir / "cloud.ready.json"
        end = time.monotonic() + 30
        while not ready.exists():
            assert process.poll() is None, "the cloud did not start"
            assert time.monotonic() < end, "the cloud is not ready"
            time.sleep(0.02)
        control = CloudControl.from_ready_file(ready)
        yield RunningCloud(process, state_dir, control.endpoint_url, control, clients)
    finally:
        for client in clients.values():
            client.close()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module", autouse=True)
def _no_real_cloud() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="module")
def shared_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    with running_cloud(tmp_path_factory.mktemp("cloud") / "state") as cloud:
        yield cloud


@pytest.fixture
def cloud(shared_cloud: RunningCloud) -> Iterator[RunningCloud]:
    """The module's cloud, with nothing running and nothing going wrong."""
    yield shared_cloud
    shared_cloud.reset()


@pytest.fixture
def start_cloud(tmp_path: Path) -> Iterator[StartCloud]:
    """Starts a cloud of the test's own, with settings of its own."""
    with ExitStack() as stack:

        def start(**settings: Any) -> RunningCloud:
            return stack.enter_context(running_cloud(tmp_path / "state", **settings))

        yield start


@pytest.fixture
def template(cloud: RunningCloud) -> Iterator[str]:
    """The name of a launch template with an image, tags and user data."""
    name = "holdfast-node"
    cloud.ec2().create_launch_template(
        LaunchTemplateName=name,
        LaunchTemplateData={
            "ImageId": "ami-0123456789abcdef0",
            "UserData": "aGVsbG8=",
            "MetadataOptions": {"HttpTokens": "required", "InstanceMetadataTags": "enabled"},
            "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "from", "Value": "template"}]}],
        },
    )
    yield name
    cloud.ec2().delete_launch_template(LaunchTemplateName=name)


@pytest.fixture
def fleet(cloud: RunningCloud, template: str) -> Callable[..., dict[str, Any]]:
    """CreateFleet over (instance type, zone) pairs; further settings go into SpotOptions."""

    def create(target: int, pools: list[tuple[str, str]], token: str | None = None, market: str = "spot", **options: Any) -> dict[str, Any]:
        overrides = [{"InstanceType": name, "SubnetId": f"subnet-{zone}"} for name, zone in pools]
        reference = {"LaunchTemplateName": template, "Version": "$Latest"}
        request: dict[str, Any] = {
            "Type": "instant",
            "LaunchTemplateConfigs": [{"LaunchTemplateSpecification": reference, "Overrides": overrides}],
            "TargetCapacitySpecification": {"TotalTargetCapacity": target, "DefaultTargetCapacityType": market},
            "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "launch", "Value": token or "none"}]}],
        }
        if options:
            request["SpotOptions" if market == "spot" else "OnDemandOptions"] = options
        if token:
            request["ClientToken"] = token
        return dict(cloud.ec2().create_fleet(**request))

    return create
