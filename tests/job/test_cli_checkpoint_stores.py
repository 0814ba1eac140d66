"""`holdfast checkpoint` between directories, S3 and Cloud Storage."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoint_bed import FILES, content, flip, make
from holdfast import cli
from holdfast_sandbox.objects.control import ObjectStoreControl, running_object_store

pytest.importorskip("obstore")
KILLED = """
import os, sys
from holdfast import cli, faults
count = 0
def hook(name):
    global count
    count += name == sys.argv[1]
    if count == int(sys.argv[2]):
        os._exit(9)
faults.hook = hook
cli.main(["checkpoint", "copy", *sys.argv[3:]])
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreControl]:
    with running_object_store(tmp_path_factory.mktemp("objects"), ["bkt"]) as control:
        yield control


@pytest.fixture
def bucket(server: ObjectStoreControl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A prefix of its own for each test, in the bucket that s3:// and gs:// share here."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint_url)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.endpoint_url)
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    server.clear()
    yield f"bkt/{tmp_path.name}"
    server.clear()


def run(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 0) -> Any:
    assert cli.main(["checkpoint", *map(str, argv), "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_there_and_back(scheme: str, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2, 3):
        make(tmp_path / "ck", step)
    assert [each["name"] for each in run(capsys, "copy", tmp_path / "ck", f"{scheme}://{bucket}")] == ["step-00000003.a0"]
    said = run(capsys, "copy", "--all", tmp_path / "ck", f"{scheme}://{bucket}")
    assert [each["state"] for each in said] == ["there already", "copied", "copied"]
    found = run(capsys, "ls", f"{scheme}://{bucket}")
    assert [(row["name"], row["state"]) for row in found] == [(f"step-0000000{step}.a0", "published") for step in (3, 2, 1)]
    assert found[0]["tier"] == {"s3": "s3", "gs": "gcs"}[scheme]
    assert found[0]["age_s"] < 60
    assert [row["state"] for row in run(capsys, "verify", f"{scheme}://{bucket}")] == ["good"] * 3
    assert run(capsys, "show", f"{scheme}://{bucket}/step-00000002.a0")["step"] == 2
    run(capsys, "copy", f"{scheme}://{bucket}/step-00000002.a0", tmp_path / "back")
    assert content(tmp_path / "back" / "step-00000002.a0") == content(tmp_path / "ck" / "step-00000002.a0")
    assert run(capsys, "prune", f"{scheme}://{bucket}", "--keep", 1)["deleted"] == ["step-00000002.a0", "step-00000001.a0"]
    assert len(run(capsys, "ls", f"{scheme}://{bucket}")) == 1


def test_between_buckets(bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "ck", 1)
    run(capsys, "copy", tmp_path / "ck", f"s3://{bucket}/one")
    run(capsys, "copy", f"s3://{bucket}/one", f"gs://{bucket}/two")
    run(capsys, "copy", f"gs://{bucket}/two", tmp_path / "back")
    assert content(tmp_path / "back" / "step-00000001.a0") == content(tmp_path / "ck" / "step-00000001.a0")


def test_the_newest_that_is_good_is_copied(bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2, 3):
        make(tmp_path / "ck", step)
    flip(tmp_path / "ck" / "step-00000003.a0" / "rank1.pkl")
    target = f"s3://{bucket}"
    assert cli.main(["checkpoint", "copy", str(tmp_path / "ck"), target]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("step-00000002.a0: copied, 14.0 MB")
    assert "step-00000003.a0 is bad and is not copied: rank1.pkl" in said.err
    assert [row["name"] for row in run(capsys, "ls", target)] == ["step-00000002.a0"], "nothing of the bad one stays"
    run(capsys, "copy", "--all", tmp_path / "ck", target, code=1)
    assert [row["name"] for row in run(capsys, "ls", target)] == ["step-00000002.a0", "step-00000001.a0"]
    run(capsys, "copy", tmp_path / "ck" / "step-00000003.a0", target, code=1)


@pytest.mark.parametrize(
    ("scheme", "point", "nth"), [("s3", "copied", 2), ("s3", "manifest-synced", 1), ("dir", "copy-renamed", 2), ("dir", "copy-partial", 1)]
)
def test_a_copy_that_is_killed_leaves_no_checkpoint_and_goes_on(
    scheme: str, point: str, nth: int, bucket: str, server: ObjectStoreControl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "ck", 1)
    target = f"s3://{bucket}" if scheme == "s3" else str(tmp_path / "to")
    argv = [sys.executable, "-c", KILLED, point, str(nth), str(tmp_path / "ck"), target]
    died = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert died.returncode == 9, died.stderr
    assert [row["state"] for row in run(capsys, "ls", target)] == ["unfinished"]
    server.clear()
    assert run(capsys, "copy", tmp_path / "ck", target)[0]["state"] == "copied"
    assert [row["state"] for row in run(capsys, "verify", target)] == ["good"]
    if scheme == "s3":
        sent = sum(server.bytes_in().values())
        assert sent < sum(map(len, FILES.values())) - 1_000_000, "what had arrived is not sent twice"


def test_a_store_that_is_down_for_a_while_loses_answers_and_cuts_bodies(
    bucket: str, server: ObjectStoreControl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "ck", 1)
    server.fail("hang", action="PutObject", after=True, count=1)
    server.fail("cut", action="UploadPart", bytes=1_000_000, count=1)
    server.fail(count=3)
    assert run(capsys, "copy", tmp_path / "ck", f"s3://{bucket}")[0]["state"] == "copied"
    server.fail("cut", action="GetObject", prefix=f"{bucket.partition('/')[2]}/step-00000001.a0/model", bytes=500_000, count=1)
    assert [row["state"] for row in run(capsys, "verify", f"s3://{bucket}")] == ["good"]
    assert server.counts()["GetObject None"] == 1


def test_wrong_bytes_in_the_store_are_found(
    bucket: str, server: ObjectStoreControl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "ck", 1)
    server.fail("corrupt", prefix=f"{bucket.partition('/')[2]}/step-00000001.a0/rank1.pkl", count=1)
    run(capsys, "copy", tmp_path / "ck", f"s3://{bucket}")
    found = run(capsys, "verify", f"s3://{bucket}", code=1)[0]
    assert (found["state"], found["file"]) == ("bad", "rank1.pkl")
    assert cli.main(["checkpoint", "copy", f"s3://{bucket}", str(tmp_path / "back")]) == 1
    assert "rank1.pkl" in capsys.readouterr().err
    assert not list((tmp_path / "back").glob("step-*"))


def test_nothing_is_overwritten(bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "one", 1)
    make(tmp_path / "two", 1, job="4712")
    run(capsys, "copy", tmp_path / "one", f"s3://{bucket}")
    assert "another checkpoint of the same name" in run(capsys, "copy", tmp_path / "two", f"s3://{bucket}", code=1)["error"]
    assert run(capsys, "show", f"s3://{bucket}")["job_id"] == "4711"
    assert "the same place" in run(capsys, "copy", tmp_path / "one", tmp_path / "one", code=1)["error"]
    assert "keep their names" in run(capsys, "copy", tmp_path / "one", tmp_path / "to" / "step-00000001.a0", code=1)["error"]


def test_a_store_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "NoSuchBucket" in run(capsys, "ls", "s3://another/prefix", code=1)["error"]
    assert "begins with" in run(capsys, "ls", "ftp://bucket/x", code=1)["error"]
