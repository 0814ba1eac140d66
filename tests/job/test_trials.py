"""Real ranks through the public API: other numbers of ranks, notices at bad moments, ranks that die while saving."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]
TRIALS = Path(__file__).with_name("trials.py")
BATCH = 12


class Trial:
    """One attempt of a run; its ranks' lines, and the timeline of all attempts."""

    def __init__(self, path: Path, name: str, make_node: Callable[[str], Any], ranks: int, steps: int, **settings: Any) -> None:
        self.out = path / name
        self.out.mkdir()
        self.nodes = [make_node(f"{name}-node{rank}") for rank in range(ranks)]
        self.ranks = ranks
        self.checkpoints = path / settings.pop("checkpoints", "ck")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        told = {"ranks": ranks, "steps": steps, "checkpoints": str(self.checkpoints), "out": str(self.out), "port": port}
        told |= {"nodes": [str(node.path) for node in self.nodes], "acts": settings.pop("acts", []), "run": settings}
        argv = [sys.executable, str(TRIALS), json.dumps(told)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def end(self) -> tuple[list[int], str]:
        """The ranks' exit codes, and all that was said."""
        out, err = self.process.communicate(timeout=80)
        return json.loads(out.splitlines()[-1]), out + err

    def finished(self) -> "Trial":
        codes, told = self.end()
        assert codes == [0] * self.ranks, told
        return self

    def lines(self, rank: int) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / f"rank{rank}.jsonl").read_text().splitlines()]

    def batches(self) -> dict[int, list[int]]:
        """For each step the global batch in its global order: rank r has every W-th sample of it."""
        each = [self.lines(rank) for rank in range(self.ranks)]
        batches = {}
        for lines in zip(*each, strict=True):
            whole = [0] * BATCH
            for rank, line in enumerate(lines):
                whole[rank :: self.ranks] = line["samples"]
            batches[lines[0]["step"]] = whole
        return batches

    def losses(self) -> dict[int, float]:
        return {line["step"]: line["loss"] for line in self.lines(0)}

    def events(self, *names: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.checkpoints / "attempts.jsonl").read_text().splitlines()]
        return [line for line in lines if line["event"] in names]

    def parked(self, until: Callable[..., Any]) -> dict[str, Any]:
        """Wait until all ranks have parked, end them as the node would, and say what status.json has said."""
        until(lambda: all(node.report(f"rank.{rank}").get("state") == "parked" for rank, node in enumerate(self.nodes)), 60)
        status: dict[str, Any] = self.nodes[0].report()
        for rank, node in enumerate(self.nodes):
            os.kill(node.report(f"rank.{rank}")["pid"], signal.SIGTERM)
        codes, told = self.end()
        assert codes == [-signal.SIGTERM] * self.ranks, told
        return status


@pytest.fixture
def trial(tmp_path: Path, make_node: Callable[[str], Any]) -> Any:
    started: list[Trial] = []

    def start(name: str, ranks: int, steps: int, **settings: Any) -> Trial:
        started.append(Trial(tmp_path, name, make_node, ranks, steps, **settings))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


def resized(trial: Any, saved_by: int, loaded_by: list[int]) -> None:
    """Steps 0 to 4 on `saved_by` ranks, then each of `loaded_by` from a copy of the checkpoint, beside an uninterrupted run."""
    import shutil

    import torch

    whole = trial("whole", saved_by, 10, checkpoints="whole-ck").finished()
    first = trial("first", saved_by, 5).finished()
    assert first.batches() == {step: batch for step, batch in whole.batches().items() if step < 5}
    copies = []
    for ranks in loaded_by:
        shutil.copytree(first.checkpoints, first.checkpoints.with_name(f"ck{ranks}"))
        copies.append(trial(f"second{ranks}", ranks, 10, checkpoints=f"ck{ranks}"))
    for ranks, second in zip(loaded_by, copies, strict=True):
        second.finished()
        assert second.batches() == {step: batch for step, batch in whole.batches().items() if step >= 5}
        expected = {step: loss for step, loss in whole.losses().items() if step >= 5}
        if ranks == saved_by <= 2:
            assert second.losses() == expected
            ends = [torch.load(one.out / "end0.pt") for one in (whole, second)]
            assert all(torch.equal(ends[0]["model"][name], value) for name, value in ends[1]["model"].items())
        else:
            assert second.losses() == pytest.approx(expected, rel=1e-5)


def test_other_numbers_of_ranks_train_on_the_same_samples(trial: Any) -> None:
    resized(trial, 2, [1, 3])


@pytest.mark.long
@pytest.mark.parametrize("saved_by", [1, 2, 3, 4])
def test_any_number_of_ranks_goes_on_from_any(trial: Any, saved_by: int) -> None:
    resized(trial, saved_by, [1, 2, 3, 4])


def test_a_notice_while_the_main_thread_waits_in_a_collective(trial: Any, until: Callable[..., Any]) -> None:
    """Rank 0 is told while it waits for rank 1, which takes 1.5 s over a step: seen at once, and both park a step later at the latest."""
    acts = [[4, 0, "notify", "save_and_park"], [4, 1, "sleep", 1.5]]
    one = trial("one", 2, 1000, acts=[*acts, *([step, rank, "sleep", 0.05] for step in range(12) for rank in range(2) if step != 4)])
    status = one.parked(until)
    [seen] = one.events("notice_seen")
    [parked] = one.events("parked")
    assert seen["t"] - seen["received"] < 0.5
    assert parked["step"] == status["saved_step"] in (5, 6)
    assert parked["steps_lost"] == 0


@pytest.mark.long
def test_a_notice_during_an_evaluation_in_a_step(trial: Any, until: Callable[..., Any]) -> None:
    """Steps of milliseconds, then one of 2 s: the ranks still meet at its end, not some steps of that length later."""
    acts = [[30, rank, "sleep", 2.0] for rank in range(2)] + [[30, 1, "notify", "save_and_park"]]
    acts = [[30, 1, "notify", "save_and_park"], *acts[:2], *([step, rank, "sleep", 5.0] for step in (33, 34, 35) for rank in range(2))]
    one = trial("one", 2, 1000, acts=acts)
    status = one.parked(until)
    assert 31 <= status["saved_step"] <= 33


@pytest.mark.long
@pytest.mark.parametrize(("step", "expected"), [(0, range(1, 4)), (7, range(8, 9))])
def test_a_notice_in_the_first_and_in_the_last_step(trial: Any, until: Callable[..., Any], step: int, expected: range) -> None:
    acts = [[step, 1, "notify", "save_and_park"], *([at, rank, "sleep", 0.15] for at in range(8) for rank in range(2))]
    one = trial("one", 2, 8, acts=acts)
    if step == 7:
        one.finished()
        assert one.nodes[0].report()["state"] == "done"
    else:
        one.parked(until)
    assert one.nodes[0].report()["saved_step"] in expected


@pytest.mark.long
def test_two_nodes_are_told_of_different_notices(trial: Any, until: Callable[..., Any]) -> None:
    acts = [[3, rank, "notify", "save_and_park"] for rank in range(2)] + [
        [at, rank, "sleep", 0.02] for at in range(99) for rank in range(2)
    ]
    one = trial("one", 2, 1000, acts=acts)
    one.parked(until)
    reports = [node.report(f"rank.{rank}") for rank, node in enumerate(one.nodes)]
    assert [report["notice_id"] for report in reports] == ["n-one-node0", "n-one-node1"]
    assert len({report["saved_step"] for report in reports}) == 1


def test_a_notice_while_a_slow_save_goes_on(trial: Any, until: Callable[..., Any]) -> None:
    acts = [[2, 0, "notify", "save_and_park"], *([at, rank, "sleep", 0.1] for at in range(9) for rank in range(2))]
    one = trial("one", 2, 1000, acts=acts, every_steps=2, save_bandwidth_mib_s=0.01)
    status = one.parked(until)
    saved = [(line["step"], line["ok"]) for line in one.events("save_ended")]
    assert saved == [(2, True), (status["saved_step"], True)]
    assert status["saved_step"] > 2


@pytest.mark.parametrize(
    ("rank", "point"),
    [
        (1, "file-opened"),
        pytest.param(1, "folder-synced", marks=pytest.mark.long),
        pytest.param(0, "manifest-written", marks=pytest.mark.long),
    ],
)
def test_a_rank_that_dies_while_saving_keeps_nobody_waiting_and_publishes_nothing(trial: Any, rank: int, point: str) -> None:
    """The save of step 4; that of step 2 stands. (The others' next collective raises, as it would without a save.)"""
    began = time.monotonic()
    acts = [[2, rank, "die", point], *([at, each, "sleep", 0.05] for at in range(20) for each in range(2))]
    codes, told = trial("dying", 2, 20, acts=acts, every_steps=2).end()
    assert time.monotonic() - began < 40
    assert codes[rank] == -signal.SIGKILL, told
    assert codes[1 - rank] == 1, told
    again = trial("again", 2, 6, every_steps=2).finished()
    [resumed] = [line for line in again.events("resumed") if line["attempt"] == 1]
    assert resumed["step"] == 2
    assert [line["checkpoint"] for line in again.events("checkpoint_unusable")] == ["step-00000004.a0"]


def test_a_full_disk_of_one_rank_fails_the_save_on_all_and_training_goes_on(trial: Any) -> None:
    acts = [[2, 1, "full", None], *([at, rank, "sleep", 0.1] for at in range(8) for rank in range(2))]
    one = trial("one", 2, 8, acts=acts, every_steps=4).finished()
    saves = [(line["step"], line["ok"]) for line in one.events("save_ended")]
    assert saves[0] == (4, False)
    assert saves[-1] == (8, True)
    assert "rank 1: OSError: [Errno 28] No space left on device" in one.events("save_ended")[0]["error"]
