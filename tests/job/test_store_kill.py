"""kill -9 at every write boundary of a save, a copy, a retention pass, a setting aside and a sweep: see store_walk.py."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from holdfast_sandbox.objects.control import ObjectStoreControl, running_object_store
from store_bed import BUCKET, environment

pytest.importorskip("obstore")
HERE = Path(__file__).parent
FILE = {
    "save": {
        "file-opened",
        "file-partial",
        "file-written",
        "file-synced",
        "manifest-written",
        "manifest-synced",
        "manifest-renamed",
        "published",
    },
    "copy": {
        "copy-partial",
        "copy-written",
        "copy-renamed",
        "copied",
        "manifest-written",
        "manifest-synced",
        "manifest-renamed",
        "published",
    },
    "retain": {"removal-unpublished", "removal-done"},
    "set_aside": {"set-aside"},
    "enter": {"removal-unpublished", "removal-done"},
}
OBJECT = {**FILE, "copy": {"copy-partial", "copy-written", "copied", "manifest-synced", "published"}}
OBJECT["save"] = OBJECT["copy"] | {"file-opened", "file-partial", "file-written", "file-synced"}


def walk(scenario: str, location: str, scratch: Path, **env: str) -> list[str]:
    scratch.mkdir()
    argv = [sys.executable, str(HERE / "store_walk.py"), scenario, location, str(scratch)]
    ran = subprocess.run(argv, env={**os.environ, "PYTHONPATH": str(HERE), **env}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    walked: list[str] = json.loads(ran.stdout)
    return walked


@pytest.mark.timeout(120)
@pytest.mark.parametrize("scenario", [pytest.param(name, marks=[pytest.mark.long] if name == "copy" else []) for name in FILE])
def test_killed_at_every_boundary_on_a_file_system(scenario: str, tmp_path: Path) -> None:
    assert set(walk(scenario, str(tmp_path / "ck"), tmp_path / "scratch")) == FILE[scenario]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreControl]:
    with running_object_store(tmp_path_factory.mktemp("objects"), [BUCKET]) as control:
        yield control


@pytest.mark.timeout(120)
@pytest.mark.parametrize("scenario", [pytest.param(name, marks=[pytest.mark.long] if name == "save" else []) for name in OBJECT])
def test_killed_at_every_boundary_in_an_object_store(scenario: str, server: ObjectStoreControl, tmp_path: Path) -> None:
    walked = walk(scenario, f"s3://{BUCKET}/{tmp_path.name}", tmp_path / "scratch", **environment(server))
    assert set(walked) == OBJECT[scenario]
