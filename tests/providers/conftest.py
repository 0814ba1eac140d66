"""The clouds that the contract is held against ("beds"), and a scripted EC2 for what none of them can be made to say."""

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_controller.providers.aws import AwsProvider
from holdfast_controller.providers.aws_config import AwsConfig
from holdfast_controller.providers.base import FaultKind, LaunchRequest, Market, Pool, Provider
from holdfast_controller.providers.fake import FakePool, FakeProvider
from holdfast_controller.providers.fake_faults import lost_answer, refusal
from holdfast_sandbox.cloud_control import CloudControl

T = TypeVar("T")
REGION, ZONE, TYPE = "us-east-1", "us-east-1a", "p4d.24xlarge"


def make_pool(provider: str = "aws", market: Market = Market.SPOT, *, zone: str = ZONE, type_: str = TYPE) -> Pool:
    return Pool(f"{provider}/{REGION}/{zone}/{type_}/{market.value}", provider, REGION, zone, type_, market)


def make_request(pool: Pool, launch_id: str = "launch-1", count: int = 2, minimum: int | None = None) -> LaunchRequest:
    return LaunchRequest(launch_id, pool, count, count if minimum is None else minimum, user_data="#!/bin/sh\n", tags={"job": "7"})


@pytest.fixture
def pool() -> Pool:
    return make_pool()


@pytest.fixture(scope="session")
def request_of() -> Callable[..., LaunchRequest]:
    return make_request


@pytest.fixture(scope="session")
def pool_of() -> Callable[..., Pool]:
    return make_pool


class ScriptedEc2:
    """An HTTP server that answers what it is told, and remembers what it was asked.

    Answers are taken in order; the last one stays. An answer is (status, XML body, seconds of silence before it).
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, str]] = []
        self.answers: dict[str, list[tuple[int, str, float]]] = {}
        self.released = threading.Event()
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {key: values[0] for key, values in parse_qs(body).items()}
                scripted.requests.append(form)
                status, text, silence_s = scripted._next(form)
                if silence_s:
                    scripted.released.wait(silence_s)
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "text/xml")
                    self.send_header("Content-Length", str(len(text.encode())))
                    self.end_headers()
                    self.wfile.write(text.encode())
                    self.wfile.flush()
                except OSError:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """Clients that hang up on us are what some tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def _next(self, form: dict[str, str]) -> tuple[int, str, float]:
        answers = self.answers.get(form["Action"]) or [(400, error_xml("InvalidAction", "not scripted"), 0.0)]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def say(self, action: str, body: str, *, status: int = 200, silence_s: float = 0.0) -> None:
        self.answers.setdefault(action, []).append((status, body, silence_s))

    def refuse(self, action: str, code: str, message: str = "no", *, status: int = 400) -> None:
        self.say(action, error_xml(code, message), status=status)

    def asked(self, action: str) -> list[dict[str, str]]:
        return [form for form in self.requests if form["Action"] == action]

    def reset(self) -> None:
        """Forget everything; what is silent may speak."""
        self.released.set()
        self.released = threading.Event()
        self.requests.clear()
        self.answers.clear()

    def stop(self) -> None:
        self.reset()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def error_xml(code: str, message: str) -> str:
    return f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors><RequestID>r</RequestID></Response>"


@pytest.fixture(scope="session")
def ec2_server() -> Iterator[ScriptedEc2]:
    server = ScriptedEc2()
    yield server
    server.stop()


@pytest.fixture
def ec2(ec2_server: ScriptedEc2) -> Iterator[ScriptedEc2]:
    yield ec2_server
    ec2_server.reset()


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
    }
    return AwsConfig.model_validate(settings | more)


@pytest.fixture(scope="session")
def config_of() -> Callable[..., AwsConfig]:
    return aws_config


@pytest.fixture(autouse=True)
def no_metadata_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may ask 169.254.169.254, or read the developer's own credentials."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")


class Bed:
    """A cloud that the contract is held against, and what a test may do to it."""

    name = ""
    spot: Pool
    on_demand: Pool
    provider: Provider

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
        self.provider = AwsProvider(aws_config(url, images={REGION: "ami-12c6146b"}))

    def foreigner(self) -> Provider:
        return AwsProvider(aws_config(self.url, images={REGION: "ami-12c6146b"}, cluster="beta"))

    def set_capacity(self, instances: int) -> None:
        """Moto starts MinCount instances, whatever MaxCount says: to a partial launch, a pool that has no more."""


ACTIONS = {"launch": "RunInstances", "find": "DescribeInstances", "instances": "DescribeInstances", "terminate": "TerminateInstances"}
CODES = {
    FaultKind.CAPACITY: "InsufficientInstanceCapacity",
    FaultKind.THROTTLE: "RequestLimitExceeded",
    FaultKind.QUOTA: "MaxSpotInstanceCountExceeded",
    FaultKind.AUTH: "UnauthorizedOperation",
    FaultKind.CONFIG: "InvalidSubnetID.NotFound",
}


class SandboxBed(Bed):
    def __init__(self, url: str) -> None:
        self.url = url
        self.control = CloudControl(url)
        self.spot, self.on_demand = make_pool(), make_pool(market=Market.ON_DEMAND)
        self.provider = AwsProvider(aws_config(url))

    def set_capacity(self, instances: int) -> None:
        self.control.set_zone(ZONE, instance_type=TYPE, capacity=instances)

    def reclaim(self, instance_id: str) -> None:
        self.control.kill(instance_id)

    def announce(self, instance_id: str, in_s: float) -> None:
        self.control.reclaim(instance_id, notice_s=in_s)

    def spare(self, instance_id: str) -> None:
        self.control.cancel_reclaim(instance_id)

    def fail(self, method: str, kind: FaultKind) -> None:
        if kind is FaultKind.TRANSIENT:
            self.control.fail(action=ACTIONS[method], mode="500", when="after", count=1)
        else:
            self.control.fail(action=ACTIONS[method], mode="error", code=CODES[kind], count=1)

    async def clean(self) -> None:
        self.control.clear()
        self.set_capacity(8)
        await super().clean()

        async def empty() -> bool:
            return all(each.state == "gone" for each in await self.provider.instances())

        await self.until(empty)

    def foreigner(self) -> Provider:
        return AwsProvider(aws_config(self.url, cluster="beta"))


def _served(command: list[str], log: Path, url_of: Callable[[], str | None]) -> Iterator[str]:
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


@pytest.fixture(scope="session")
def moto_bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoBed]:
    log = tmp_path_factory.mktemp("moto") / "log"

    def url() -> str | None:
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        return found[0] if found else None

    for address in _served([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], log, url):
        yield MotoBed(address)


@pytest.fixture(scope="session")
def sandbox_bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxBed]:
    directory = tmp_path_factory.mktemp("sandbox")
    zones = [
        {"name": name, "region": REGION, "capacity": {TYPE: 8}, "spot_price_usd_h": 12.5, "on_demand_usd_h": 32.77}
        for name in (ZONE, "us-east-1b")
    ]
    settings = {"state_dir": str(directory), "zones": zones, "boot_delay_s": 0.1, "shutdown_delay_s": 0.05}
    config, ready = directory / "config.json", directory / "cloud.ready.json"
    config.write_text(json.dumps(settings | {"instance_command": ["sleep", "300"]}))

    def url() -> str | None:
        return str(json.loads(ready.read_text())["endpoint_url"]) if ready.exists() else None

    for address in _served([sys.executable, "-m", "holdfast_sandbox.cloud", "--config", str(config)], directory / "log", url):
        yield SandboxBed(address)


@pytest.fixture
async def bed(request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    """The bed that the test is run against; see the table in test_contract.py."""
    found: Bed = FakeBed() if request.param == "fake" else request.getfixturevalue(f"{request.param}_bed")
    found.name = request.param
    yield found
    await found.clean()
