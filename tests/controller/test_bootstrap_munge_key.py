"""The script that fetches the munge key at boot: what it asks of each cloud, what it refuses, and how the key is put in its place."""

import base64
import importlib.util
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from holdfast_controller.bootstrap import MUNGE_KEY
from holdfast_controller.bootstrap_config import MungeKeys

PATH = Path(__file__).parents[2] / "deploy" / "image" / "holdfast_munge_key.py"
KEY = bytes(range(128))
NOW = datetime(2026, 11, 28, 1, 2, 3, tzinfo=UTC)
ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:hpc/munge-AbCdEf"
GCP = "projects/my-project/secrets/munge/versions/latest"
AZURE = "https://my-vault.vault.azure.net/secrets/munge"
CREDENTIALS = {"AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "se/cr+et", "Token": "session-token"}
Answers = dict[str, bytes]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("holdfast_munge_key", PATH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


munge_key = _load()


class Clouds:
    """Answers by URL, and remembers what was asked."""

    def __init__(self, answers: Mapping[str, object]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str, Mapping[str, str], bytes]] = []

    def __call__(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> bytes:
        self.asked.append((method, url, headers, body))
        answer = self.answers[url.partition("?")[0]]
        return answer if isinstance(answer, bytes) else json.dumps(answer).encode()


def encoded(key: bytes = KEY) -> str:
    return base64.b64encode(key).decode()


def aws(**secret: object) -> Clouds:
    base = "http://169.254.169.254/latest"
    return Clouds(
        {
            f"{base}/api/token": b"imds-token",
            f"{base}/meta-data/iam/security-credentials/": b"holdfast-node\n",
            f"{base}/meta-data/iam/security-credentials/holdfast-node": CREDENTIALS,
            "https://secretsmanager.eu-west-1.amazonaws.com/": secret or {"SecretBinary": encoded()},
        }
    )


def gcp(data: object = None) -> Clouds:
    token = "http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/token"
    access = f"https://secretmanager.googleapis.com/v1/{GCP}:access"
    return Clouds({token: {"access_token": "T"}, access: {"payload": {"data": encoded() if data is None else data}}})


def azure(value: object = None) -> Clouds:
    token = "http://169.254.169.254/metadata/identity/oauth2/token"
    return Clouds({token: {"access_token": "T"}, AZURE: {"value": encoded() if value is None else value}})


def fetch(reference: str, clouds: Clouds) -> bytes:
    found: bytes = munge_key.fetch(reference, clouds, lambda: NOW)
    return found


def test_aws_is_asked_by_the_machines_role() -> None:
    clouds = aws()
    assert fetch(ARN, clouds) == KEY
    assert clouds.asked[0][:2] == ("PUT", "http://169.254.169.254/latest/api/token")
    assert all(headers["X-aws-ec2-metadata-token"] == "imds-token" for _, url, headers, _ in clouds.asked if "meta-data" in url)
    method, _, headers, body = clouds.asked[-1]
    assert (method, headers["X-Amz-Target"], json.loads(body)) == ("POST", "secretsmanager.GetSecretValue", {"SecretId": ARN})
    assert fetch(ARN, aws(SecretString=f"{encoded()}\n")) == KEY


@pytest.mark.parametrize(("arn", "host"), [("arn:aws-cn:secretsmanager:cn-north-1:1:secret:m", "cn-north-1.amazonaws.com.cn")])
def test_chinas_regions_have_another_domain(arn: str, host: str) -> None:
    clouds = aws()
    clouds.answers = {**clouds.answers, f"https://secretsmanager.{host}/": {"SecretBinary": encoded()}}
    assert fetch(arn, clouds) == KEY


@pytest.mark.parametrize("region", ["eu-west-1", "us-gov-east-1"])
def test_the_signature_is_the_one_that_botocore_makes(region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host, body = f"secretsmanager.{region}.amazonaws.com", json.dumps({"SecretId": ARN}).encode()
    ours = munge_key.aws_headers(host, region, body, CREDENTIALS, NOW)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: NOW.replace(tzinfo=None))
    sent = {name: ours[name] for name in ("Content-Type", "X-Amz-Target")}
    request = AWSRequest("POST", f"https://{host}/", data=body, headers=sent)
    SigV4Auth(Credentials(*CREDENTIALS.values()), "secretsmanager", region).add_auth(request)
    assert request.headers["X-Amz-Date"] == ours["X-Amz-Date"]
    assert request.headers["Authorization"] == ours["Authorization"]


def test_google_is_asked_by_the_machines_account() -> None:
    clouds = gcp()
    assert fetch(GCP, clouds) == KEY
    assert clouds.asked[0][2] == {"Metadata-Flavor": "Google"}
    assert clouds.asked[1][2] == {"Authorization": "Bearer T"}


def test_azure_is_asked_by_the_machines_identity() -> None:
    clouds = azure()
    assert fetch(AZURE, clouds) == KEY
    assert clouds.asked[0][1].endswith("?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net")
    assert clouds.asked[0][2] == {"Metadata": "true"}
    assert clouds.asked[1][:3] == ("GET", f"{AZURE}?api-version=7.4", {"Authorization": "Bearer T"})


@pytest.mark.parametrize(("reference", "clouds"), [(ARN, aws), (GCP, gcp), (AZURE, azure)])
def test_what_the_settings_accept_the_script_knows(reference: str, clouds: Callable[[], Clouds]) -> None:
    cloud = {ARN: "aws", GCP: "gcp", AZURE: "azure"}[reference]
    assert getattr(MungeKeys.model_validate({cloud: reference}), cloud) == reference
    assert fetch(reference, clouds()) == KEY
    assert Path(MUNGE_KEY) == munge_key.REFERENCE


@pytest.mark.parametrize(
    "bad", ["", "secret", "arn:aws:ssm:eu-west-1:1:parameter/munge", "https://evil.example/secrets/a", f"{AZURE}?x", f"{GCP}/.."]
)
def test_what_is_no_reference_is_asked_of_nobody(bad: str) -> None:
    clouds = Clouds({})
    with pytest.raises(ValueError, match="names no secret that I know"):
        fetch(bad, clouds)
    assert clouds.asked == []


@pytest.mark.parametrize("value", ["", "no base64!", 5, ["a"], encoded(b"x" * 31), encoded(b"x" * 1025)])
def test_what_is_no_key_is_refused_without_being_shown(value: object) -> None:
    for reference, clouds in ((ARN, aws(SecretString=value)), (GCP, gcp(value)), (AZURE, azure(value))):
        with pytest.raises(munge_key.Refused) as caught:
            fetch(reference, clouds)
        assert str(value) not in str(caught.value) or value == ""


@pytest.mark.parametrize("answer", [b"", b"[]", b"\xff", b"[" * 60_000, {"payload": []}, {}])
def test_a_strange_answer_is_refused(answer: object) -> None:
    clouds = gcp()
    clouds.answers = dict.fromkeys(clouds.answers, answer)
    with pytest.raises(munge_key.Refused):
        fetch(GCP, clouds)


BASE = "http://169.254.169.254/latest"
ROLE = f"{BASE}/meta-data/iam/security-credentials/holdfast-node"


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        (f"{BASE}/api/token", b"\xff\xfe"),
        (f"{BASE}/meta-data/iam/security-credentials/", b"r\xc3\xb4le"),
        (ROLE, {**CREDENTIALS, "SecretAccessKey": "\ud800"}),
        (ROLE, {**CREDENTIALS, "Token": "\ud800"}),
        (ROLE, {"Code": "Success"}),
    ],
)
def test_a_garbled_answer_about_the_role_is_refused_and_so_tried_again(url: str, answer: object) -> None:
    clouds = aws()
    clouds.answers = {**clouds.answers, url: answer}
    with pytest.raises(munge_key.Refused):
        fetch(ARN, clouds)


@pytest.mark.parametrize("size", [32, 1024])
def test_every_key_that_munged_takes_is_installed(size: int, tmp_path: Path) -> None:
    assert fetch(GCP, gcp(encoded(b"x" * size))) == b"x" * size


def test_the_key_is_munges_alone_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "munge.key"
    path.write_bytes(b"of the image")
    (tmp_path / ".munge.key.new").write_bytes(b"left by a crash")
    munge_key.install(KEY, path, os.getuid() + 1, os.getgid() + 1)
    found = path.stat()
    assert (path.read_bytes(), stat.S_IMODE(found.st_mode)) == (KEY, 0o400)
    assert (found.st_uid, found.st_gid) == (os.getuid() + 1, os.getgid() + 1)
    assert [each.name for each in tmp_path.iterdir()] == ["munge.key"]


class Server(BaseHTTPRequestHandler):
    """Answers by path."""

    def do_GET(self) -> None:
        status, length = {"/ok": (200, 2), "/moved": (302, 0), "/none": (404, 0), "/long": (200, 65_537)}[self.path]
        self.send_response(status)
        self.send_header("Location", "/ok")
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(b"x" * length)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_over_http_only_a_whole_200_is_an_answer(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert munge_key.ask("GET", f"{url}/ok", {}) == b"xx"
    for path in ("/moved", "/none", "/long"):
        with pytest.raises(munge_key.Refused, match=path):
            munge_key.ask("GET", url + path, {})
    with pytest.raises(OSError, match="refused"):
        munge_key.ask("GET", "http://127.0.0.1:9/", {})


@pytest.mark.parametrize("token", ["se\ncret", "secret\u2028"])
def test_what_is_no_header_is_refused_without_being_shown(token: str, url: str) -> None:
    with pytest.raises(munge_key.Refused, match="/ok") as caught:
        munge_key.ask("GET", f"{url}/ok", {"Authorization": f"Bearer {token}"})
    assert "cret" not in str(caught.value)


def test_it_tries_until_the_key_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "reference").write_text(f"{GCP}\n")
    answers = iter([OSError("no network"), munge_key.Refused("HTTP 403"), KEY])
    pauses: list[float] = []

    def next_answer(*_: object) -> bytes:
        found = next(answers)
        if isinstance(found, bytes):
            return found
        raise found

    monkeypatch.setattr(munge_key, "REFERENCE", tmp_path / "reference")
    monkeypatch.setattr(munge_key, "KEY", tmp_path / "munge.key")
    monkeypatch.setattr(munge_key, "fetch", next_answer)
    monkeypatch.setattr(munge_key.time, "sleep", pauses.append)
    assert munge_key.main() == 0
    assert (tmp_path / "munge.key").read_bytes() == KEY
    assert pauses == [0.5, 1.0]
    assert capsys.readouterr().err == "no munge key yet: no network\nno munge key yet: HTTP 403\n"


def test_a_reference_that_never_will_be_one_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reference").write_text("nonsense")
    monkeypatch.setattr(munge_key, "REFERENCE", tmp_path / "reference")
    assert munge_key.main() == 2
