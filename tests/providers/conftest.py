"""The clouds that the contract is held against ("beds"), and a scripted EC2 for what none of them can be made to say."""

import json
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from holdfast_controller.providers.aws_config import AwsConfig
from holdfast_controller.providers.base import LaunchRequest, Pool

sys.path.insert(0, str(Path(__file__).parent))  # importmode=importlib leaves it out
from bed_azure import AzureBed, azure_sandbox
from bed_gcp import GcpBed, gcp_cloud
from beds import REGION, TYPE, ZONE, Bed, FakeBed, MotoBed, SandboxBed, aws_config, make_pool, make_request, served
from scripted_gcp import ScriptedGce


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


@pytest.fixture(scope="session")
def gce_server() -> Iterator[ScriptedGce]:
    server = ScriptedGce()
    yield server
    server.stop()


@pytest.fixture
def gce(gce_server: ScriptedGce) -> Iterator[ScriptedGce]:
    yield gce_server
    gce_server.reset()


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


@pytest.fixture(scope="session")
def moto_bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoBed]:
    log = tmp_path_factory.mktemp("moto") / "log"

    def url() -> str | None:
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        return found[0] if found else None

    for address in served([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], log, url):
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

    for address in served([sys.executable, "-m", "holdfast_sandbox.cloud", "--config", str(config)], directory / "log", url):
        yield SandboxBed(address)


@pytest.fixture(scope="session")
def azure_bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureBed]:
    for address in azure_sandbox(tmp_path_factory.mktemp("azure")):
        yield AzureBed(address)


@pytest.fixture(scope="session")
def gcp_bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcpBed]:
    for address in gcp_cloud(tmp_path_factory.mktemp("gcp")):
        yield GcpBed(address)


@pytest.fixture
async def bed(request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    """The bed that the test is run against; see the table in test_contract.py."""
    found: Bed = FakeBed() if request.param == "fake" else request.getfixturevalue(f"{request.param}_bed")
    found.name = request.param
    yield found
    await found.clean()
