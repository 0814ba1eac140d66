import pytest
from holdfast_common.jobfiles import RankFile, RankState, StatusFile
from holdfast_nodeagent.claims import Rank, Report, summarize
from holdfast_nodeagent.jobdirs import JobKey

KEY = JobKey(12, 1)
NOTICE = "preempt-1"


def rank(state: RankState, *, notice: str | None = NOTICE, alive: bool | None = True, step: int = 5, saved: int | None = 4) -> Rank:
    file = RankFile(pid=7, started=1.0, rank=0, world_size=2, state=state, notice_id=notice, step=step, saved_step=saved)
    return Rank(file, alive)


def report(*ranks: Rank, status: StatusFile | None = None, notices: frozenset[str] = frozenset({NOTICE})) -> Report:
    return summarize(KEY, 1.0, dict(enumerate(ranks)), status, notices)


@pytest.mark.parametrize(
    ("ranks", "parked"),
    [
        ([], False),
        ([rank("parked")], True),
        ([rank("parked"), rank("parked")], True),
        ([rank("parked"), rank("saving")], False),
        ([rank("parked"), rank("saved")], False),
        ([rank("parked"), rank("running", notice=None)], False),
        ([rank("parked"), rank("running", notice=None, alive=False)], True),
        ([rank("parked"), rank("running", notice=None, alive=None)], False),
        ([rank("parked"), rank("done")], True),
        ([rank("parked", alive=False)], True),
        ([rank("parked", alive=None)], True),
        ([rank("parked", notice="another")], False),
        ([rank("parked", notice=None)], False),
        ([rank("done"), rank("done")], False),
        ([rank("running", alive=False)], False),
    ],
)
def test_when_every_rank_has_parked(ranks: list[Rank], parked: bool) -> None:
    assert report(*ranks).all_ranks_parked is parked


def test_nothing_is_parked_without_a_notice_in_force() -> None:
    assert not report(rank("parked"), notices=frozenset()).all_ranks_parked


def test_the_state_is_that_of_the_one_that_is_least_far() -> None:
    assert report(rank("saved"), rank("saving")).state == "saving"
    assert report(rank("parked"), rank("running", alive=False)).state == "parked"
    assert report(rank("done"), rank("done")).state == "done"
    assert report().state == ""


def test_the_notice_is_named_only_if_all_answer_the_same() -> None:
    assert report(rank("saving"), rank("saving")).notice_id == NOTICE
    assert report(rank("saving"), rank("running", notice=None)).notice_id == ""


def test_steps_are_the_least_of_the_ranks_unless_rank_0_speaks_for_all() -> None:
    two = [rank("running", step=9, saved=8), rank("running", step=7, saved=None)]
    assert (report(*two).step, report(*two).saved_step) == (7, -1)
    status = StatusFile(state="running", step=9, saved_step=8, attempt=KEY.attempt, stopped_on_notice=True)
    assert (report(*two, status=status).step, report(*two, status=status).saved_step) == (9, 8)
    assert report(*two, status=status).stopped_on_notice


def test_another_attempts_status_is_not_ours() -> None:
    old = StatusFile(state="parked", step=99, attempt=0, stopped_on_notice=True)
    assert report(rank("running"), status=old) == report(rank("running"))


def test_mere_progress() -> None:
    first, later = report(rank("running", step=5)), report(rank("running", step=6))
    assert later.same_but_progress(first)
    assert not report(rank("saving", step=5)).same_but_progress(first)
    assert not first.same_but_progress(None)
