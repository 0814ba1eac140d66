"""Ranks that decide together, as threads: nobody is left waiting, and all raise alike."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from holdfast import parking, state
from holdfast.bandwidth import Limiter
from holdfast.clock import Clock
from holdfast.errors import Fenced, HoldfastError, SaveError
from holdfast.jobdir import NoticeFile
from holdfast.peers import Peers, connect, together
from holdfast.process import Job, Place
from holdfast.rehearsal import rehearse
from holdfast.retention import Keep
from holdfast.saver import Saved, Saver
from holdfast.state import Training
from holdfast.tiers import tiers
from holdfast.watch import Watch

T = TypeVar("T")


def save(saver: Saver, step: int, training: Training) -> Saved:
    return saver.begin(step, training, keep=Keep(99), ended=lambda saved, fault: None).result()


def outcome(action: Callable[[], T]) -> T | HoldfastError:
    try:
        return action()
    except HoldfastError as fault:
        return fault


def test_all_ranks_get_all_values() -> None:
    assert rehearse(3, lambda peers: together(peers, "counting", lambda: peers.place.rank)) == [[0, 1, 2]] * 3
    assert rehearse(2, lambda peers: peers.highest([peers.place.rank, -peers.place.rank])) == [[1, 0]] * 2


def test_one_ranks_fault_is_raised_by_all() -> None:
    def act(peers: Peers) -> Any:
        def write() -> int:
            if peers.place.rank == 1:
                raise OSError(28, "No space left on device")
            return 1

        return outcome(lambda: together(peers, "writing", write))

    faults = rehearse(3, act)
    assert {str(fault) for fault in faults} == {"writing failed on 1 of 3 ranks: rank 1: OSError: [Errno 28] No space left on device"}
    assert all(isinstance(fault, SaveError) for fault in faults)


def test_a_fenced_rank_fences_all() -> None:
    def act(peers: Peers) -> Any:
        def publish() -> None:
            if peers.place.rank == 0:
                raise Fenced("attempt 2 has taken over")
            raise OSError("anything")

        return outcome(lambda: together(peers, "publishing", publish))

    faults = rehearse(2, act)
    assert [type(fault) for fault in faults] == [Fenced, Fenced]
    assert str(faults[1]) == "attempt 2 has taken over"


class Fails:
    def state_dict(self) -> Any:
        raise OSError("cannot read the loader's state")

    def load_state_dict(self, state: Any) -> None:
        raise AssertionError


def test_nothing_is_published_when_one_ranks_save_fails(tmp_path: Path, tally: Any) -> None:
    def act(peers: Peers) -> Any:
        saver = Saver(tiers(tmp_path, None, {}), peers, Limiter(None, Clock()), Clock(), lambda _text: None)
        saver.enter(Job("7", 0, "n"))
        bad = Training({"model": tally()}, {"loader": Fails() if peers.place.rank == 1 else tally()})
        failed = outcome(lambda: save(saver, 1, bad))
        return failed, outcome(lambda: save(saver, 2, Training({"model": tally()}, {"loader": tally()})))

    results = rehearse(2, act)
    assert all(isinstance(failed, SaveError) for failed, _ in results)
    assert [saved.name for _, saved in results] == ["step-00000002.a0"] * 2
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000002.a0"]
    assert sorted(path.name for path in (tmp_path / "step-00000002.a0").iterdir()) == ["manifest.json", "rank0.pkl", "rank1.pkl"]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_each_rank_gets_its_own_state_and_all_get_the_model(tmp_path: Path, tally: Any, world_size: int) -> None:
    """Saved by two ranks, resumed by one, two and three; a rank that had no part takes rank 0's loader."""

    def write(peers: Peers) -> Any:
        saver = Saver(tiers(tmp_path, None, {}), peers, Limiter(None, Clock()), Clock(), lambda _text: None)
        saver.enter(Job("7", 0, "n"))
        model, loader = tally(), tally()
        model.value, loader.value = 100 + peers.place.rank, 200 + peers.place.rank
        return save(saver, 5, Training({"model": model}, {"loader": loader}))

    def load(peers: Peers) -> Any:
        saver = Saver(tiers(tmp_path, None, {}), peers, Limiter(None, Clock()), Clock(), lambda _text: None)
        saver.enter(Job("7", 1, "n"))
        model, loader = tally(), tally()
        found = saver.resume(Training({"model": model}, {"loader": loader}))
        return found.step if found else None, model.value, loader.value

    rehearse(2, write)
    parts = [set(state.load(tmp_path / "step-00000005.a0" / f"rank{rank}.pkl")) for rank in range(2)]
    assert parts[0] - parts[1] == {"shared", "epochs_done"}, "what is alike on all ranks is written once"
    expected = [(5, 100, 200), (5, 100, 201), (5, 100, 200)]
    assert rehearse(world_size, load) == expected[:world_size]


def test_ranks_that_cannot_be_reached_are_an_error() -> None:
    with pytest.raises(HoldfastError, match=r"torch\.distributed is not initialised"):
        connect(Place(0, 2))


def test_parked_ranks_follow_the_latest_deadline_of_any_and_leave_together(quick_parking: None, make_node: Callable[[str], Any]) -> None:
    """Rank 1's node gets a later deadline while parked; neither leaves before it, and both leave."""
    now = [1000.0]
    clock = Clock(wall=lambda: now[0])
    nodes = [make_node(f"n{rank}") for rank in range(2)]
    rounds = [0, 0]

    def act(peers: Peers) -> float:
        rank = peers.place.rank
        file = NoticeFile(nodes[rank].path / "node" / "notice.json", print)
        watch = Watch(file, clock, lambda notice, t: None)

        class Counted:
            place = peers.place

            def highest(self, values: list[int]) -> list[int]:
                return peers.highest(values)

            def another(self) -> Peers:
                return peers.another()

            def gather(self, value: Any) -> list[Any]:
                rounds[rank] += 1
                if rank == 1 and rounds[1] == 3:
                    nodes[1].notify(id="later", deadline=2000.0, received=1000.0)
                if rank == 0:
                    now[0] += 30
                return peers.gather(value)

        parking.park(Counted(), watch, clock, 1120.0, lambda notice, t: None)
        watch.close()
        return now[0]

    left_at = rehearse(2, act)
    assert all(2060 < left < 2200 for left in left_at)
    assert rounds[0] == rounds[1]


def test_parked_ranks_go_on_together_when_the_last_notice_is_withdrawn(quick_parking: None, make_node: Callable[[str], Any]) -> None:
    """Rank 1's node has the notice, rank 0's agent was told of it; the one is taken away long before the other."""
    nodes = [make_node(f"n{rank}") for rank in range(2)]
    rounds = [0, 0]

    def act(peers: Peers) -> tuple[str, int]:
        rank = peers.place.rank
        path = nodes[rank].path / "node" / "notice.json"
        nodes[rank].notify(deadline=2000.0, received=1000.0)
        watch = Watch(NoticeFile(path, print), Clock(wall=lambda: 1000.0), lambda notice, t: None)
        assert watch.pending()

        class Counted:
            place = peers.place

            def highest(self, values: list[int]) -> list[int]:
                return peers.highest(values)

            def another(self) -> Peers:
                return peers.another()

            def gather(self, value: Any) -> list[Any]:
                rounds[rank] += 1
                if rounds[rank] == (10, 3)[rank]:
                    path.unlink()
                return peers.gather(value)

        why = parking.park(Counted(), watch, Clock(wall=lambda: 1000.0), 2000.0, lambda notice, t: None)
        watch.close()
        return why, rounds[rank]

    assert rehearse(2, act) == [("it was withdrawn", 11), ("it was withdrawn", 11)]


def test_a_parked_rank_outlives_its_peers_for_a_while_then_says_so(quick_parking: None) -> None:
    now = [0.0]

    class Gone:
        place = Place(0, 2)

        def highest(self, values: list[int]) -> list[int]:
            raise RuntimeError("Connection closed by peer")

        def gather(self, value: Any) -> list[Any]:
            raise RuntimeError("Connection closed by peer")

        def another(self) -> Peers:
            return self

    def wall() -> float:
        now[0] += 10
        return now[0]

    threads = threading.active_count()
    watch = Watch(None, Clock(), lambda notice, t: None)
    with pytest.raises(HoldfastError, match="the other ranks are gone"):
        parking.park(Gone(), watch, Clock(wall=wall), 100.0, lambda notice, t: None)
    watch.close()
    assert now[0] > 100 + 2 * parking.GRACE_S
    assert threading.active_count() == threads
