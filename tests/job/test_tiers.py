"""A node's own disk first, then a shared file system or an object store: a checkpoint counts only where it outlives the node."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import holdfast
import pytest
from holdfast import tiers
from holdfast.store import location
from holdfast_sandbox.objects.control import ObjectStoreControl, running_object_store

Runs = Callable[..., holdfast.Run]
pytestmark = pytest.mark.timeout(90)
KEYS = {"AWS_ACCESS_KEY_ID": "sandbox", "AWS_SECRET_ACCESS_KEY": "sandbox", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreControl]:
    with running_object_store(tmp_path_factory.mktemp("objects"), ("runs",)) as control:
        yield control


@pytest.fixture
def bucket(objects: ObjectStoreControl, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    objects.clear()
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": objects.endpoint_url}.items():
        monkeypatch.setenv(name, value)
    return f"s3://runs/{abs(hash(request.node.name))}"


def train(runs: Runs, tally: Any, steps: int, *, stop: int | None = None, **keys: Any) -> Any:
    counter = tally()
    run = runs(counter, every_steps=2, keep=9, **keys)
    for step in run.steps(steps):
        counter.train(step)
        if step == stop:
            break
    return run, counter.value


def test_an_object_store_holds_what_counts(
    runs: Runs, tally: Any, node: Any, bucket: str, tmp_path: Path, objects: ObjectStoreControl
) -> None:
    _, value = train(runs, tally, 6, directory=bucket, local=tmp_path / "one")
    status = node.report()
    assert (status["saved_step"], status["saved_tier"], status["checkpoint"]) == (6, "s3", f"{bucket}/step-00000006.a0")
    assert [path.name for path in (tmp_path / "one").glob("*/step-*")], "the node keeps a copy"
    run, again = train(runs, tally, 6, directory=bucket, local=tmp_path / "another node")
    assert (run.step, again) == (6, value)


def test_a_node_that_still_has_the_files_does_not_fetch_them(
    runs: Runs, tally: Any, bucket: str, tmp_path: Path, objects: ObjectStoreControl
) -> None:
    train(runs, tally, 4, directory=bucket, local=tmp_path / "one")
    objects.clear()
    train(runs, tally, 4, directory=bucket, local=tmp_path / "one")
    fetched = [call["key"] for call in objects.calls() if call["action"] == "GetObject" and "rank0" in call["key"]]
    assert fetched == []


def test_a_damaged_copy_on_the_node_is_fetched_again(runs: Runs, tally: Any, bucket: str, tmp_path: Path) -> None:
    _, value = train(runs, tally, 4, directory=bucket, local=tmp_path / "one")
    for path in (tmp_path / "one").glob("*/step-*/rank0.pkl"):
        path.write_bytes(b"x" * path.stat().st_size)
    run, again = train(runs, tally, 4, directory=bucket, local=tmp_path / "one")
    assert (run.step, again) == (4, value)


def test_an_object_that_is_bad_is_passed_over_and_the_next_older_used(
    runs: Runs, tally: Any, bucket: str, tmp_path: Path, objects: ObjectStoreControl, capsys: pytest.CaptureFixture[str]
) -> None:
    train(runs, tally, 4, directory=bucket, local=tmp_path / "one", stop=3)
    objects.fail("corrupt", action="PutObject", prefix=f"{bucket.removeprefix('s3://runs/')}/step-00000006.a1/rank0")
    train(runs, tally, 6, directory=bucket, local=tmp_path / "one")
    objects.clear()
    run, _ = train(runs, tally, 4, directory=bucket, local=tmp_path / "fresh")
    assert run.step == 4
    assert "step-00000006.a1 is bad: rank0.pkl" in capsys.readouterr().err


def test_a_shared_directory_behind_a_local_disk(runs: Runs, tally: Any, node: Any, tmp_path: Path) -> None:
    _, value = train(runs, tally, 6, directory=tmp_path / "shared", local=tmp_path / "disk")
    assert (node.report()["saved_tier"], node.report()["checkpoint"]) == ("shared", "step-00000006.a0")
    assert len(list((tmp_path / "disk").glob("*/step-*"))) == 2, "the newest two stay on the node"
    shutil.rmtree(tmp_path / "disk")
    run, again = train(runs, tally, 6, directory=tmp_path / "shared", local=tmp_path / "disk")
    assert (run.step, again) == (6, value)


def test_a_store_that_is_busy_for_a_while_is_waited_for(
    runs: Runs, tally: Any, node: Any, bucket: str, tmp_path: Path, objects: ObjectStoreControl
) -> None:
    objects.fail("error", code="SlowDown", share=0.4)
    objects.fail("cut", bytes=10, count=2)
    train(runs, tally, 4, directory=bucket, local=tmp_path / "one")
    objects.clear()
    assert node.report()["saved_step"] == 4


def test_a_store_that_is_away_fails_the_save_and_training_goes_on(
    runs: Runs,
    tally: Any,
    node: Any,
    bucket: str,
    tmp_path: Path,
    objects: ObjectStoreControl,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tiers, "open_store", lambda text: location.open_store(text, patience_s=0.5))
    counter = tally()
    run = runs(counter, every_steps=2, directory=bucket, local=tmp_path / "one", asynchronous=False)
    for step in run.steps(5):
        counter.train(step)
        if step == 2:
            objects.fail("error", code="SlowDown")
        if step == 3:
            assert node.report()["saved_step"] == 2
        if step == 4:
            objects.clear()
    assert "the save at step 4 failed, training goes on" in capsys.readouterr().err
    assert node.report()["saved_step"] == 5


def test_an_orphan_cannot_publish_in_a_bucket(runs: Runs, tally: Any, bucket: str, tmp_path: Path, slurm: Callable[[int], None]) -> None:
    slurm(0)
    old = runs(tally(), every_steps=2, directory=bucket, local=tmp_path / "one", asynchronous=False).steps(9)
    next(old)
    slurm(1)
    train(runs, tally, 6, directory=bucket, local=tmp_path / "two", stop=3)
    with pytest.raises(holdfast.Fenced, match="attempt 1 of job 7 has taken over"):
        list(old)


CRASH = """
import os, sys, threading
import holdfast
from holdfast import faults

class Counter:
    value = 0
    def state_dict(self): return {"value": self.value, "ballast": b"x" * 300_000}
    def load_state_dict(self, state): self.value = state["value"]

directory, local, countdown = sys.argv[1], sys.argv[2], int(sys.argv[3])
counter = Counter()
run = holdfast.Run(counter, directory=directory, local=local, every_steps=2, keep=1, asynchronous=False)
passed = []
def hook(name):
    passed.append(name)
    if len(passed) == countdown:
        os.write(1, f"died at {name}\\n".encode())
        os._exit(9)
first = None
for step in run.steps(100):
    first = step if first is None else first
    assert counter.value == step, (counter.value, step)
    counter.value += 1
    if countdown == 0 and step == first:
        print("resumed", first)
        os._exit(0)
    if step == 3:
        faults.hook = hook
    if step == 4:
        run._coordinator._saver.rest()  # the deletions after the save of step 4 are done, too
        print("points", len(passed))
        os._exit(0)
"""


def crash(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CRASH, *argv], capture_output=True, text=True, check=False, env=os.environ)


def test_a_kill_at_every_boundary_of_a_save_through_two_tiers_leaves_a_good_checkpoint(bucket: str, tmp_path: Path) -> None:
    """Saves step 2, then dies at the n-th fault point of saving step 4 and deleting step 2's, for every n that there is."""
    whole = crash(f"{bucket}/0", str(tmp_path / "0"), "-1")
    points = int(whole.stdout.split()[-1])
    assert points > 12, whole.stderr
    outcomes = {}

    def one(number: int) -> None:
        where = (f"{bucket}/{number}", str(tmp_path / str(number)))
        died = crash(*where, str(number))
        assert died.returncode == 9, died.stderr
        resumed = crash(*where, "0")
        outcomes[number] = (died.stdout.split()[-1], resumed.stdout.strip(), resumed.stderr)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(1, points + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == points
    published = next(number for number in sorted(outcomes) if outcomes[number][0] == "published")
    for number, (point, resumed, told) in outcomes.items():
        assert resumed in (f"resumed {4 if number >= published else 2}", "resumed 4"), (number, point, told)
        assert "is bad" not in told, (point, told)


def test_locations_that_cannot_be_are_refused(runs: Runs, tally: Any) -> None:
    with pytest.raises(holdfast.HoldfastError, match="s3:// needs a bucket"):
        runs(tally(), directory="s3://")
    with pytest.raises(holdfast.HoldfastError, match="begins with file://, s3://, gs:// or az://"):
        runs(tally(), directory="ftp://host/run")
