"""A job of a user without rights: it trains and is saved like any other, and can do no harm to Holdfast, its node or other jobs."""

import json
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from e2e_bed import HERE, REPOSITORY, Bed, TrainingJob, until
from holdfast_common.auth import CREDENTIAL_KEY

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(90)]
SETTINGS = {"nodes": 4}
NOBODY = 65534
PYTHON = "/usr/bin/python3"
"""The user's own: an environment of root's may well be closed to it."""
USER = (f"--uid={NOBODY}", f"--gid={NOBODY}")


@pytest.fixture
def library(bed: Bed) -> Path:
    """The job library, where every user can read it."""
    target = bed.work / "lib"
    if not target.exists():
        shutil.copytree(REPOSITORY / "job" / "holdfast", target / "holdfast", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(HERE / "intruder_job.py", bed.work)
        bed.sandbox.run(["chmod", "-R", "a+rX", str(bed.work)])
    return target


@pytest.fixture
def running(bed: Bed, library: Path) -> Iterator[TrainingJob]:
    """A job of the user nobody, in training."""
    job = bed.train("--steps", "60", "--every-steps", "1000", options=USER, python=PYTHON, env={"PYTHONPATH": str(library)})
    job.await_event("first_step_done")
    yield job
    assert job.finished()["UserId"] == f"nobody({NOBODY})"


def test_is_saved_and_resumed(bed: Bed, running: TrainingJob) -> None:
    [node] = running.nodes()
    jobs = bed.sandbox.instances.directory(node) / "run" / "jobs" / f"{running.job_id}.0"
    owners = {name: ((jobs / name).stat().st_uid, (jobs / name).stat().st_mode & 0o777) for name in ("job", "node", "")}
    assert owners == {"job": (NOBODY, 0o700), "node": (0, 0o755), "": (0, 0o755)}
    assert {path.stat().st_uid for path in (jobs / "job").iterdir()} == {NOBODY}
    bed.reclaim(node, notice_s=30)
    parked = running.await_event("parked")
    assert running.await_event("resumed", attempt=1)["step"] == parked["step"]
    assert running.finished()["Restarts"] == "1"
    assert running.result() == bed.reference("--steps", "60", "--every-steps", "1000")


def test_has_no_way_in(bed: Bed, library: Path) -> None:
    victim = bed.train("--steps", "1000", "--until", str(bed.work / "enough"))
    victim.await_event("first_step_done")
    [node] = victim.nodes()
    directory = bed.directory()
    arguments = {
        "socket": str(bed.sandbox.layout.controller_socket),
        "munge": str(bed.sandbox.layout.munge_socket),
        "state": str(bed.sandbox.layout.controller_state),
        "victim": f"/run/holdfast/jobs/{victim.job_id}.0",
        "victim_id": victim.job_id,
        "node": node,
        "payload": payload(),
    }
    (directory / "arguments.json").write_text(json.dumps(arguments))
    script = directory / "job.sh"
    script.write_text(f"#!/bin/sh\nexec {PYTHON} {bed.work / 'intruder_job.py'} {directory / 'arguments.json'} {directory / 'out.json'}\n")
    intruder = bed.submit(directory, script, *USER, "-w", node)
    until(intruder.out.exists, 30, "the intruder to have tried everything")
    seen: dict[str, Any] = json.loads(intruder.out.read_text())
    assert seen["uid"] == NOBODY
    outcomes = set(seen["tried"].values())
    assert outcomes == {"PermissionError", "refused"}, seen["tried"]
    assert len(seen["tried"]) == 11

    # What it planted in its own folder: neither followed nor waited for, each named, and the agent goes on.
    log = bed.sandbox.instances.directory(node) / "agent.log"
    void = {name: f"job {intruder.job_id}.0: job/{name}: void" for name in [*(f"rank.{rank}.json" for rank in range(4)), "status.json"]}
    until(lambda: all(line in log.read_text() for line in void.values()), 10, f"{void} in the agent's log")
    (directory / "seen").touch()
    intruder.finished()
    assert "root:" not in log.read_text()
    assert "Traceback" not in log.read_text()
    assert bed.sandbox.instances.instance_of(node) in bed.agents()

    # The agents' port answers root and SlurmUser only, and nobody gets so far as to be told anything.
    address = f"127.0.0.1:{bed.sandbox.site.ports.controller}"
    roots = bed.sandbox.run(["munge", "--socket", arguments["munge"], "--string", payload()]).stdout.strip()
    assert call(address, roots) == "answered"
    assert call(address, seen["credential"]) == "UNAUTHENTICATED"
    assert call(address, None) == "UNAUTHENTICATED"
    (bed.work / "enough").touch()
    assert victim.finished()["Restarts"] == "0"


CONNECT = "/holdfast.v1.AgentService/Connect"


def payload() -> str:
    """What an agent lets munge sign for one call."""
    return json.dumps({"role": "call", "method": CONNECT, "nonce": secrets.token_hex(16), "time": time.time()})


def call(address: str, credential: str | None) -> str:
    """Open an agent's stream with this credential, and say how it is answered."""
    metadata = () if credential is None else ((CREDENTIAL_KEY, credential),)
    with grpc.insecure_channel(address) as channel:
        replies = channel.stream_stream(CONNECT)(iter([b""]), timeout=5, metadata=metadata)
        try:
            next(replies)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "answered"
