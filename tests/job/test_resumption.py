"""Resuming by all ranks together: each verifies a share, all take the same checkpoint, a partial one on top of a whole one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from holdfast.bandwidth import Limiter
from holdfast.clock import Clock
from holdfast.errors import HoldfastError
from holdfast.peers import Alone, Peers
from holdfast.process import Job
from holdfast.rehearsal import rehearse
from holdfast.retention import Keep
from holdfast.saver import Saver
from holdfast.state import Training
from holdfast.tiers import tiers

Warn = Callable[[str], None]


def saver(peers: Peers, path: Path, attempt: int, warn: Warn = print, local: Path | None = None) -> Saver:
    made = Saver(tiers(path, local, {}), peers, Limiter(None, Clock()), Clock(), warn)
    made.enter(Job("7", attempt, "n"))
    return made


def save(by: Saver, step: int, training: Training, parts: tuple[str, ...] | None = None) -> None:
    by.begin(step, training, keep=Keep(9), ended=lambda saved, fault: None, parts=parts).result()


def write(peers: Peers, path: Path, tally: Any, steps: list[int], local: Path | None = None) -> None:
    by = saver(peers, path, 0, local=local)
    for step in steps:
        model, loader = tally(), tally()
        model.value, loader.value = step, 100 * step + peers.place.rank
        save(by, step, Training({"model": model}, {"loader": loader}))


def read(peers: Peers, path: Path, tally: Any, local: Path | None = None) -> tuple[int, int, list[str]]:
    told: list[str] = []
    model, loader = tally(), tally()
    found = saver(peers, path, 1, told.append, local).resume(Training({"model": model}, {"loader": loader}))
    assert found is None or found.step == model.value
    return model.value, loader.value, told


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_what_one_rank_finds_bad_is_passed_over_by_all(ranks: int, tmp_path: Path, tally: Any) -> None:
    rehearse(3, lambda peers: write(peers, tmp_path, tally, [1, 2, 3]))
    for step, rank in ((3, 2), (2, 1)):
        path = tmp_path / f"step-{step:08d}.a0" / f"rank{rank}.pkl"
        path.write_bytes(bytes(path.stat().st_size))
    played = rehearse(ranks, lambda peers: read(peers, tmp_path, tally))
    assert [(model, loader) for model, loader, _ in played] == [(1, 100 + rank) for rank in range(ranks)]
    assert sorted(path.name for path in tmp_path.glob("bad-*")) == ["bad-step-00000002.a0", "bad-step-00000003.a0"]
    assert [line.partition(" is bad: ")[2].partition(":")[0] for line in played[0][2]] == ["rank2.pkl", "rank1.pkl"]


def test_each_rank_reads_a_share_of_a_shared_directory(tmp_path: Path, tally: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast import resumption
    from holdfast.store.verification import verify

    seen: list[str] = []

    def watched(store: Any, folder: str, content: Any, names: Any) -> None:
        seen.extend(names)
        verify(store, folder, content, names)

    rehearse(3, lambda peers: write(peers, tmp_path, tally, [1]))
    monkeypatch.setattr(resumption, "verify", watched)
    rehearse(2, lambda peers: read(peers, tmp_path, tally))
    assert sorted(seen) == ["rank0.pkl", "rank1.pkl", "rank2.pkl"]


def test_a_rank_that_cannot_read_makes_nothing_bad(tmp_path: Path, tally: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And to start afresh then would throw away what may be good: all ranks raise."""
    from holdfast import resumption

    def broken(store: Any, folder: str, content: Any, names: Any) -> None:
        if "rank1.pkl" in names:
            raise OSError(5, "Input/output error")

    rehearse(2, lambda peers: write(peers, tmp_path, tally, [1]))
    monkeypatch.setattr(resumption, "verify", broken)

    def attempt(peers: Peers) -> str:
        with pytest.raises(HoldfastError, match="Input/output error") as caught:
            read(peers, tmp_path, tally)
        return str(caught.value)

    assert len(set(rehearse(2, attempt))) == 1
    assert (tmp_path / "step-00000001.a0" / "manifest.json").exists()


def test_nodes_with_disks_of_their_own(tmp_path: Path, tally: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes: each writes to its own disk and sends its files; a fresh pair of nodes brings them all."""
    import os

    def locally(disk: str, act: Callable[[Peers, Path], Any]) -> list[Any]:
        def one(peers: Peers) -> Any:
            return act(peers, tmp_path / f"{disk}{peers.place.rank}")

        return rehearse(2, one)

    class Elsewhere:
        """Every process is on a node of its own."""

        def __init__(self) -> None:
            self.nodename = os.urandom(4).hex()

    monkeypatch.setattr(os, "uname", Elsewhere)
    locally("old", lambda peers, local: write(peers, tmp_path / "shared", tally, [1, 2], local))
    assert not list(tmp_path.glob("old0/*/*/rank1.pkl")), "each node has its own rank's file only"
    assert len(list(tmp_path.glob("old1/*/*/rank1.pkl"))) == 2
    played = locally("new", lambda peers, local: read(peers, tmp_path / "shared", tally, local))
    assert [(model, loader) for model, loader, _ in played] == [(2, 200), (2, 201)]


@pytest.mark.torch
@pytest.mark.timeout(120)
def test_a_partial_checkpoint_lies_on_the_whole_one_before_it(tmp_path: Path) -> None:
    import torch

    def objects(value: float) -> dict[str, Any]:
        made = {name: torch.nn.Linear(3, 2) for name in ("model", "average")}
        for module in made.values():
            torch.nn.init.constant_(module.weight, value)
        optimizer = torch.optim.SGD(made["model"].parameters(), lr=value, momentum=0.9)
        return {**made, "optimizer": optimizer}

    by = saver(Alone(), tmp_path, 0)
    first, later = Training(objects(1.0), {}), Training(objects(2.0), {})
    assert first.parts == ("model", "optimizer")
    assert first.rest_bytes() == 4 * (6 + 2)
    by.resume(first)
    save(by, 4, first)
    again = saver(Alone(), tmp_path, 0)
    assert again.resume(later) is not None
    for value in (later.sharded["model"], later.sharded["average"]):
        torch.nn.init.constant_(value.weight, 5.0)
    save(again, 6, later, parts=later.parts)

    told: list[str] = []
    mine = objects(0.0)
    found = saver(Alone(), tmp_path, 1, told.append).resume(Training(mine, {}))
    assert found is not None
    assert found.step == 6
    assert [mine[name].weight[0, 0].item() for name in ("model", "average")] == [5.0, 1.0]
    assert "holds model, optimizer only: the rest comes from step-00000004.a0" in told[0]
    assert len(told) == 1


@pytest.mark.parametrize("name", ["model", "optimizer"])
def test_a_checkpoint_without_the_model_or_the_optimizer_is_refused(tmp_path: Path, tally: Any, name: str) -> None:
    """To go on from its step with fresh weights would be a lie; any other object may be new, and is told of."""
    by = saver(Alone(), tmp_path, 0)
    save(by, 3, Training({"average": tally()}, {}))
    with pytest.raises(HoldfastError, match=f"the checkpoint has no state for {name}"):
        saver(Alone(), tmp_path, 1).resume(Training({"average": tally(), name: tally()}, {}))
    told: list[str] = []
    assert saver(Alone(), tmp_path, 2, told.append).resume(Training({"average": tally(), "extra": tally()}, {})) is not None
    assert told == ["the checkpoint has no state for extra: it starts afresh"]
