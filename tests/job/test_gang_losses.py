"""Real ranks through the public API: a rank that dies, has no room or takes its time while all save."""

import re
import signal
import time
from collections.abc import Callable

import pytest
from gang_bed import SETTLE_S, Gang, Until

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]
Start = Callable[..., Gang]
BOUND_S = 20.0
"""Survivors notice a closed connection at once; gloo's own timeout of 30 min would be the other end."""


def dying(start: Start, rank: int, point: str, ranks: int = 2, **settings: object) -> Gang:
    """The save of step 2 stands, and during that of step 4 a rank is killed at the fault point. All have ended in time."""
    acts = [(2, rank, "die", point)]
    began = time.monotonic()
    one = start("dying", ranks, acts=acts, step_s=0.02, run={"every_steps": 2}, **settings)
    codes = one.codes()
    assert time.monotonic() - began < BOUND_S
    assert codes.pop(rank) == -signal.SIGKILL, one.told
    assert codes == [1] * (ranks - 1), one.told
    assert one.published() == ["step-00000002.a0"]
    assert not any(report["state"] in ("saved", "parked") or report["saved_step"] != 2 for report in one.reports())
    return one


def goes_on_from_2(start: Start, ranks: int = 2) -> None:
    again = start("again", ranks, 6, run={"every_steps": 2}).finished()
    resumed = again.events("resumed")[-1]
    assert (resumed["step"], resumed["checkpoint"]) == (2, "step-00000002.a0")
    assert list(again.batches()) == [2, 3, 4, 5]
    assert again.published()[-1] == "step-00000006.a1"
    left = {path.name for path in again.checkpoints.glob("step-*")}
    assert left == set(again.published()), "the half-written one is gone"


def test_a_rank_is_killed_at_its_write(gang: Start) -> None:
    dying(gang, 1, "file-opened")
    goes_on_from_2(gang)


@pytest.mark.long
def test_a_rank_of_three_is_killed_after_its_write(gang: Start) -> None:
    dying(gang, 1, "folder-synced", ranks=3, kind="fsdp")
    goes_on_from_2(gang, ranks=3)


@pytest.mark.long
def test_rank_0_is_killed_before_it_publishes(gang: Start) -> None:
    dying(gang, 0, "manifest-synced")
    goes_on_from_2(gang)


@pytest.mark.long
def test_ranks_that_never_meet_in_training_notice_the_loss_at_the_next_save(gang: Start) -> None:
    """Nothing but the library's own groups joins them."""
    one = dying(gang, 1, "file-opened", kind="alone")
    assert re.search(r"HoldfastError: after step [456] another rank does not answer.*; the newest checkpoint is of step 2", one.told)


@pytest.mark.long
def test_a_rank_is_killed_in_the_save_that_a_notice_asks_for(gang: Start) -> None:
    """Nobody says that it is parked; what is lost is told."""
    acts = [(6, 1, "die", "file-synced"), (6, 1, "hold", None)]
    one = gang("one", 2, acts=acts, run={"every_steps": 5})
    one.held(6)
    one.notify(0)
    time.sleep(SETTLE_S)
    one.go(6)
    assert one.codes() == [1, -signal.SIGKILL], one.told
    status = one.nodes[0].report()
    assert status["state"] != "parked"
    assert (status["saved_step"], status["step"] - status["steps_lost"]) == (5, 5)
    assert one.published() == ["step-00000005.a0"]
    assert one.events("parked") == []


def test_a_full_disk_of_one_rank_fails_the_save_on_all_and_the_next_one_succeeds(gang: Start) -> None:
    one = gang("one", 3, 12, acts=[(3, 2, "full", None)], step_s=0.02, run={"every_steps": 4, "asynchronous": False}).finished()
    saves = {line["step"]: line for line in one.events("save_ended")}
    assert {step: line["ok"] for step, line in saves.items()} == {4: False, 8: True, 12: True}
    assert "rank 2: OSError: [Errno 28] No space left on device" in saves[4]["error"]
    assert [path.name for path in sorted(one.checkpoints.glob("step-*"))] == ["step-00000008.a0", "step-00000012.a0"]
    for rank in range(3):
        ended = one.timeline(rank, "save_ended")
        assert [line["ok"] for line in ended] == [False, True, True]
        assert ended[0]["error"] == saves[4]["error"], "all ranks tell of the same"


@pytest.mark.long
def test_a_full_disk_at_a_notice_is_tried_again_while_there_is_time(gang: Start) -> None:
    """The save fails on both, training goes on, and a second later the notice is answered after all."""
    one = gang("one", 2, step_s=0.01, acts=[(4, 1, "hold", None), (4, 1, "full", None)])
    one.held(4)
    one.notify(0)
    time.sleep(SETTLE_S)
    one.go(4)
    status = one.parked()
    saves = [(line["step"], line["ok"]) for line in one.events("save_ended")]
    assert saves == [(5, False), (status["saved_step"], True)]
    assert status["saved_step"] > 5
    assert one.published() == [f"step-{status['saved_step']:08}.a0"]


@pytest.mark.long
def test_a_save_that_was_asked_for_raises_on_all_ranks_where_one_has_no_room(gang: Start) -> None:
    acts = [(2, 1, "full", None), (2, 0, "save", None)]
    one = gang("one", 2, acts=acts)
    assert one.codes() == [1, 1]
    told = "SaveError: writing a checkpoint failed on 1 of 2 ranks: rank 1: OSError: [Errno 28] No space left on device"
    assert all(f"rank {rank}: {told}" in one.told.splitlines() for rank in range(2)), one.told
    assert not list(one.checkpoints.glob("step-*"))


def test_all_train_on_while_one_rank_takes_its_time_to_save(gang: Start, until: Until) -> None:
    """Rank 1 writes 40 KiB a second, and a save is due every 0.2 s: none begins before the one in hand has ended."""
    slow = {"1": {"HOLDFAST_SAVE_BANDWIDTH_MIB_S": "0.04"}}
    one = gang("one", 2, 100_000, step_s=0.01, environment=slow, run={"every": 0.2})
    until(lambda: one.checkpoints.exists() and len(one.published()) >= 2)
    began = [line["t"] for line in one.events("save_began")]
    ended = {line["step"]: line for line in one.events("save_ended")}
    saves = [(start, line["t"], line["blocked_s"]) for start, line in zip(began, ended.values(), strict=False)]
    assert all(line["ok"] for line in ended.values())
    for (_, end, _), start in zip(saves, began[1:], strict=False):
        assert start >= end
    lines = [[line["t"] for line in one.lines(rank)] for rank in range(2)]
    for start, end, blocked_s in saves[:2]:
        assert end - start > 0.4, "else this shows nothing"
        assert blocked_s < (end - start) / 2
        for times in lines:
            assert sum(start < t < end for t in times) > 5
    one.notify(0)
    one.parked()
