"""Whole runs of several ranks, as threads with a job directory each: whoever sees a notice when, all save the same step."""

import itertools
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import holdfast
import pytest
from holdfast import parking, process
from holdfast.errors import HoldfastError
from holdfast.jobdir import JobDirectory
from holdfast.peers import Peers
from holdfast.rehearsal import rehearse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

STEPS = 30
Rank = Callable[[Peers, Any, Path], Any]


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.local]:
    """Makes Run find its place, its peers and its job directory in its thread."""
    mine = threading.local()
    monkeypatch.setattr(process, "place", lambda environ: mine.peers.place)
    monkeypatch.setattr("holdfast.run.connect", lambda place: mine.peers)
    monkeypatch.setattr(JobDirectory, "find", staticmethod(lambda environ, warn: JobDirectory(mine.node.path)))
    monkeypatch.setattr(parking, "ROUND_S", 0.002)
    return mine


def play(threads: threading.local, nodes: list[Any], directory: Path, tally: Any, arrivals: dict[int, tuple[int, str]]) -> list[Any]:
    """Each rank's steps, with what its reports said; rank r's node is notified in the body of the given step."""

    def act(peers: Peers) -> Any:
        threads.peers, threads.node = peers, nodes[peers.place.rank]
        hours = itertools.count(0, 3600)  # each look at the clock is an hour later: parked ranks soon go on
        counter, seen = tally(), []
        run = holdfast.Run(counter, directory=directory, every_s=1e12, keep=9, clock=holdfast.Clock(wall=lambda: float(next(hours))))
        for step in run.steps(STEPS):
            counter.train(step)
            at, action = arrivals.get(peers.place.rank, (-1, ""))
            if step == at:
                threads.node.notify(id=f"n{peers.place.rank}", action=action, received=0, deadline=1)
            seen.append(threads.node.report(f"rank.{peers.place.rank}")["saved_step"])
        run.close()
        return seen, counter.value

    return rehearse(len(nodes), act)


arrival = st.tuples(st.integers(0, STEPS - 1), st.sampled_from(["save", "save_and_park"]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.integers(0, 2), arrival, min_size=1, max_size=3))
def test_all_ranks_save_the_same_steps(threads: threading.local, node: Any, tally: Any, arrivals: dict[int, tuple[int, str]]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        nodes = [type(node)(Path(scratch) / f"n{rank}") for rank in range(3)]
        played = play(threads, nodes, Path(scratch) / "ck", tally, arrivals)
        assert len({value for _, value in played}) == 1
        assert len({tuple(seen) for seen, _ in played}) == 1, "every rank reports the same saved step at every step"
        reports = [nodes[rank].report(f"rank.{rank}") for rank in range(3)]
        assert {(report["state"], report["saved_step"]) for report in reports} == {("done", STEPS)}
        assert {report["notice_id"] for report in reports} <= {f"n{rank}" for rank in arrivals}
        names = {path.name for path in (Path(scratch) / "ck").glob("step-*")}
        for step, _ in arrivals.values():
            assert any(step < int(name[5:13]) <= step + 33 for name in names)


def test_ranks_at_different_steps_are_an_error(threads: threading.local, make_node: Callable[[str], Any], tmp_path: Path) -> None:
    nodes = [make_node(f"n{rank}") for rank in range(2)]

    def act(peers: Peers) -> str:
        threads.peers, threads.node = peers, nodes[peers.place.rank]
        run = holdfast.Run(directory=tmp_path / "ck", every_steps=2)
        run.close()
        try:
            for _ in run.steps(10):
                run._step += peers.place.rank  # what a loop of a rank's own would come to
        except HoldfastError as fault:
            return str(fault)
        return "nothing was noticed"

    assert all("the ranks are at different steps" in told for told in rehearse(2, act))


def test_ranks_with_different_plans_are_an_error(threads: threading.local, make_node: Callable[[str], Any], tmp_path: Path) -> None:
    nodes = [make_node(f"n{rank}") for rank in range(2)]

    def act(peers: Peers) -> str:
        threads.peers, threads.node = peers, nodes[peers.place.rank]
        run = holdfast.Run(directory=tmp_path / "ck")
        run.close()
        with pytest.raises(HoldfastError, match="the ranks differ in total steps"):
            next(run.steps(10 + peers.place.rank))
        return "raised"

    assert rehearse(2, act) == ["raised", "raised"]
