"""The cloud is found by the settings, by the firmware, or by asking; never by an answer that anyone could give."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from holdfast_common.clock import SystemClock, VirtualClock
from holdfast_common.errors import ConfigError, Temporary
from holdfast_nodeagent.app import notice_source
from holdfast_nodeagent.config import AgentConfig
from holdfast_nodeagent.fakes import FakeMetadata, http_answer
from holdfast_nodeagent.notices.aws import AwsMetadata
from holdfast_nodeagent.notices.azure import AzureMetadata
from holdfast_nodeagent.notices.base import Identity
from holdfast_nodeagent.notices.detect import AZURE_TAG, LINK_LOCAL, addresses, ask, by_dmi, detect, overrides
from holdfast_nodeagent.notices.gcp import GcpMetadata
from holdfast_nodeagent.record import Record

VM_ID = "02aab8a4-74ef-476e-8182-f6d2ba4166a6"
INSTANCE = {"compute": {"vmId": VM_ID, "name": "vm1", "location": "eastus"}, "network": {"interface": []}}


class FakeService(FakeMetadata):
    """A metadata service of one cloud: answers that cloud's requests, 404 to all else."""

    def __init__(self, cloud: str) -> None:
        super().__init__()
        self.cloud = cloud

    def _reply(self, method: str, path: str, head: str) -> bytes:
        if self.cloud == "aws" and path.startswith("/latest/"):
            return super()._reply(method, path, head)
        if self.cloud == "gcp" and path.startswith("/computeMetadata/v1/instance/"):
            value = {"id": b"4242", "preempted": b"FALSE"}.get(path.rpartition("/")[2])
            return http_answer(404 if value is None else 200, value or b"", "Metadata-Flavor: Google\r\n")
        if self.cloud == "azure" and path.startswith("/metadata/instance?"):
            return http_answer(200, json.dumps(INSTANCE).encode())
        if self.cloud == "yes":
            return http_answer(200, b"OK")
        return http_answer(404)


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[str], Awaitable[FakeService]]]:
    async with AsyncExitStack() as stack:

        async def start(cloud: str) -> FakeService:
            service = FakeService(cloud)
            await service.start()
            stack.push_async_callback(service.stop)
            return service

        yield start


Serve = Callable[[str], Awaitable[FakeService]]


def dmi(directory: Path, **said: str) -> Path:
    directory.mkdir(exist_ok=True)
    for name, words in said.items():
        (directory / name).write_text(f"{words}\n")
    return directory


@pytest.mark.parametrize(
    ("said", "cloud"),
    [
        ({"sys_vendor": "Amazon EC2", "product_name": "p5.48xlarge", "bios_vendor": "Amazon EC2"}, "aws"),
        ({"sys_vendor": "Xen", "bios_vendor": "Amazon EC2"}, "aws"),
        ({"sys_vendor": "Google", "product_name": "Google Compute Engine", "bios_vendor": "Google"}, "gcp"),
        ({"sys_vendor": "Microsoft Corporation", "product_name": "Virtual Machine", "chassis_asset_tag": AZURE_TAG}, "azure"),
        ({"sys_vendor": "Microsoft Corporation", "product_name": "Virtual Machine"}, ""),
        ({"sys_vendor": "Google", "product_name": "Eve"}, ""),
        ({"sys_vendor": "Amazon EC2", "product_name": "Google Compute Engine"}, ""),
        ({"sys_vendor": "QEMU", "product_name": "Amazon EC2"}, ""),
        ({}, ""),
    ],
)
def test_the_firmware_names_the_cloud(tmp_path: Path, said: dict[str, str], cloud: str) -> None:
    assert by_dmi(dmi(tmp_path / "id", **said)) == cloud


def test_odd_firmware_is_no_clouds(tmp_path: Path) -> None:
    assert by_dmi(tmp_path / "missing") == ""
    directory = dmi(tmp_path / "id")
    (directory / "sys_vendor").write_bytes(b"\xff\xfe" * 100_000)
    (directory / "product_name").mkdir()
    assert by_dmi(directory) == ""


def test_the_setting_goes_before_the_clouds_own_variables_and_those_before_the_usual_address() -> None:
    said = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1/aws/", "GCE_METADATA_HOST": "127.0.0.1:2"}
    assert addresses("", {}) == dict.fromkeys(("aws", "gcp", "azure"), LINK_LOCAL)
    assert addresses("", said) == {"aws": "http://127.0.0.1:1/aws", "gcp": "http://127.0.0.1:2", "azure": LINK_LOCAL}
    assert addresses("http://127.0.0.1:3", said) == dict.fromkeys(("aws", "gcp", "azure"), "http://127.0.0.1:3")


@pytest.mark.parametrize(
    "said",
    [
        {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "https://127.0.0.1"},
        {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://user:secret@127.0.0.1"},
        {"GCE_METADATA_HOST": "127.0.0.1:1/?x"},
        {"GCE_METADATA_HOST": "a b"},
    ],
)
def test_a_variable_that_is_no_address_is_an_error_that_does_not_repeat_it(said: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        overrides(said)
    assert not any(value in str(caught.value) for value in said.values())


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
async def test_each_service_is_known_by_what_only_it_says(serve: Serve, cloud: str, clock: VirtualClock) -> None:
    service = await serve(cloud)
    assert await detect(service.url, {}, clock) == cloud


@pytest.mark.parametrize("cloud", ["yes", "none"])
async def test_an_answer_that_anyone_could_give_proves_nothing(serve: Serve, cloud: str, clock: VirtualClock) -> None:
    url = (await serve(cloud)).url
    with pytest.raises(Temporary) as caught:
        await ask(dict.fromkeys(("aws", "gcp", "azure"), url), clock)
    assert all(f"{name}: " in str(caught.value) for name in ("aws", "gcp", "azure"))


async def test_one_that_hangs_does_not_hold_up_another(serve: Serve, clock: VirtualClock) -> None:
    silent, google = await serve("none"), await serve("gcp")

    async def hang(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    silent.raw["/latest/api/token"] = hang
    async with asyncio.timeout(1.5):
        assert await ask({"aws": silent.url, "gcp": google.url, "azure": silent.url}, clock) == "gcp"


async def test_it_is_asked_until_somebody_answers(serve: Serve, clock: VirtualClock) -> None:
    service = await serve("none")
    found = asyncio.ensure_future(detect(service.url, {}, clock))
    for _ in range(20):
        await clock.advance(1)
        await asyncio.sleep(0.02)
    assert not found.done()
    service.cloud = "azure"
    while not found.done():
        await clock.advance(1)
        await asyncio.sleep(0.02)
    assert found.result() == "azure"


async def test_firmware_is_believed_without_asking_anyone(tmp_path: Path, clock: VirtualClock) -> None:
    directory = dmi(tmp_path / "id", sys_vendor="Amazon EC2")
    assert await detect("", {}, clock, directory) == "aws"


async def test_firmware_says_nothing_of_a_service_at_another_address(serve: Serve, tmp_path: Path, clock: VirtualClock) -> None:
    """The sandbox runs on a cloud's machine as well as on a laptop."""
    directory = dmi(tmp_path / "id", chassis_asset_tag=AZURE_TAG)
    google = await serve("gcp")
    assert await detect(google.url, {}, clock, directory) == "gcp"


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., AgentConfig]:
    (tmp_path / "boot").write_text("boot-1\n")

    def make(**settings: object) -> AgentConfig:
        base = {"controller": "127.0.0.1:1", "cluster": "lab", "run_dir": tmp_path, "boot_id_path": tmp_path / "boot"}
        return AgentConfig.model_validate({**base, "metadata_url": "http://127.0.0.1:1", **settings})

    return make


@pytest.mark.parametrize(("cloud", "kind"), [("aws", AwsMetadata), ("gcp", GcpMetadata), ("azure", AzureMetadata)])
async def test_the_setting_is_believed_without_asking_anyone(config: Callable[..., AgentConfig], cloud: str, kind: type) -> None:
    source = await notice_source(config(cloud=cloud), SystemClock())
    assert isinstance(source, kind)
    source.close()


async def test_an_agent_that_is_started_again_knows_its_cloud_though_nobody_answers(
    config: Callable[..., AgentConfig], tmp_path: Path
) -> None:
    record = Record(tmp_path / "agent.json", "boot-1")
    record.identity = Identity("4242", "gcp")
    record.save()
    source = await notice_source(config(), SystemClock())
    assert isinstance(source, GcpMetadata)
    source.close()


async def test_the_services_are_asked_where_nothing_is_known(config: Callable[..., AgentConfig], serve: Serve) -> None:
    service = await serve("azure")
    source = await notice_source(config(metadata_url=service.url), SystemClock())
    assert isinstance(source, AzureMetadata)
    assert (await source.identity()).instance_id == VM_ID
    source.close()


def test_a_cloud_that_we_do_not_know_is_refused(config: Callable[..., AgentConfig]) -> None:
    with pytest.raises(ValueError, match="cloud"):
        config(cloud="oracle")
