"""`holdfast-agent` as a process: without controller and munge, killed at any moment, ended by SIGTERM."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from holdfast_nodeagent import __version__
from holdfast_nodeagent.fakes import FakeJob, FakeMetadata

Start = Callable[..., subprocess.Popen[bytes]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture
def start(run_dir: Path, metadata: FakeMetadata, tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []
    (tmp_path / "boot").write_text("b")
    config = tmp_path / "agent.toml"
    config.write_text(f"""
controller = "127.0.0.1:1"
cluster = "lab"
controller_user = "root"
munge_socket = "{tmp_path}/no-munge"
run_dir = "{run_dir}"
boot_id_path = "{tmp_path}/boot"
metadata_url = "{metadata.url}"
poll_s = 0.05
""")

    def launch(**environment: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "holdfast_nodeagent", "--config", str(config)], env={**os.environ, **environment}, stderr=stderr
            )
        started.append(process)
        return process

    yield launch
    for process in started:
        process.kill()
        process.wait()


def in_two_minutes() -> str:
    return datetime.fromtimestamp(time.time() + 120, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.timeout(120)  # three interpreters start
async def test_it_dies_where_it_is_told_goes_on_after_a_restart_and_ends_well(
    start: Start, make_job: Callable[..., FakeJob], metadata: FakeMetadata, eventually: Eventually, tmp_path: Path
) -> None:
    job = make_job()
    metadata.notice(in_two_minutes())
    first = start(HOLDFAST_FAULT="agent.notice_told")
    await eventually(lambda: first.poll() is not None)
    assert first.returncode == 86
    told = job.node("notice.json")
    assert told is not None
    second = start()
    later = make_job(13)
    await eventually(lambda: later.node("notice.json"))
    assert (later.node("notice.json") or {})["id"] == told["id"]
    second.kill()
    metadata.notice(None)
    third = start()
    await eventually(lambda: job.node("notice.json") is None)
    third.send_signal(signal.SIGTERM)
    await eventually(lambda: third.poll() is not None)
    said = (tmp_path / "stderr").read_text()
    assert third.returncode == 0, said
    assert "Traceback" not in said
    assert "is cancelled" in said
    assert "secret" not in said


def test_its_version_is_told_quickly() -> None:
    code = "import sys; from holdfast_nodeagent.__main__ import main\ntry: main(['--version'])\nfinally: print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"holdfast-agent {__version__}")
    assert "pydantic" not in done.stdout
    assert "grpc" not in done.stdout
