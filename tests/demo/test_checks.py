"""Each promise is broken in turn on the record of a good run, and the demo names it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from holdfast_sandbox.demo.checks import PROMISES, failures
from holdfast_sandbox.demo.evidence import Evidence, Reclaim
from holdfast_sandbox.history.model import JobRun

Break = Callable[[Evidence], Evidence]
BREAKS: list[tuple[str, str, Break]] = []


def breaks(promise: str, says: str) -> Callable[[Break], Break]:
    def add(change: Break) -> Break:
        BREAKS.append((promise, says, change))
        return change

    return add


def with_job(evidence: Evidence, name: str, **changes: Any) -> Evidence:
    return replace(evidence, jobs=evidence.jobs | {name: replace(evidence.jobs[name], **changes)})


def reclaimed(evidence: Evidence, kind: str) -> Reclaim:
    return next(reclaim for reclaim in evidence.reclaims if reclaim.kind == kind)


def lines(run: JobRun, attempt: int, event: str) -> Iterator[dict[str, Any]]:
    return (line for line in run.timeline if line["attempt"] == attempt and line["event"] == event)


def cloud_line(evidence: Evidence, instance_id: str, event: str) -> dict[str, Any]:
    return next(line for line in evidence.cloud if line.get("instance_id") == instance_id and line["event"] == event)


# -- jobs ---------------------------------------------------------------------------------------------------------------------------


@breaks("every job completed exactly once", "single is FAILED, exit code 1:0")
def a_job_failed(evidence: Evidence) -> Evidence:
    return with_job(evidence, "single", slurm=evidence.jobs["single"].slurm | {"JobState": "FAILED", "ExitCode": "1:0"})


@breaks("every job completed exactly once", "pair completed 2 times")
def a_job_completed_twice(evidence: Evidence) -> Evidence:
    return with_job(evidence, "pair", completions=["PENDING", "COMPLETED", "COMPLETED"])


@breaks("every job completed exactly once", "pair ended NODE_FAIL on the way")
def a_job_died_on_the_way(evidence: Evidence) -> Evidence:
    return with_job(evidence, "pair", completions=["NODE_FAIL", "COMPLETED"])


@breaks("every job completed exactly once", "pair was restarted 2 times, after 1 reclaims")
def a_job_was_restarted_once_too_often(evidence: Evidence) -> Evidence:
    return with_job(evidence, "pair", slurm=evidence.jobs["pair"].slurm | {"Restarts": "2"})


@breaks("every job completed exactly once", "not once each for 0 to 3")
def an_attempt_began_twice(evidence: Evidence) -> Evidence:
    starts = evidence.jobs["single"].starts
    return with_job(evidence, "single", starts=[*starts, starts[-1]])


@breaks("every job completed exactly once", "pair-reference was done at the steps []")
def a_job_was_never_done(evidence: Evidence) -> Evidence:
    timeline = [line for line in evidence.jobs["pair-reference"].timeline if line["event"] != "done"]
    return with_job(evidence, "pair-reference", timeline=timeline)


@breaks("never two attempts of a job at a time", "single's attempt 0 still wrote parked when attempt 1 had begun")
def two_attempts_lived(evidence: Evidence) -> Evidence:
    run = evidence.jobs["single"]
    next(lines(run, 0, "parked"))["t"] = run.starts[1].t + 0.5
    return evidence


@breaks("never two attempts of a job at a time", "trained in turns")
def two_attempts_trained(evidence: Evidence) -> Evidence:
    first, second, *others = evidence.jobs["single"].steps
    return with_job(evidence, "single", steps=[first, second, first, *others])


@breaks("every step was trained", "single skipped the steps")
def a_step_was_skipped(evidence: Evidence) -> Evidence:
    (attempt, first, last), *others = evidence.jobs["single"].steps
    return with_job(evidence, "single", steps=[(attempt, first, last - 1), *others])


@breaks("every step was trained", "pair-reference trained up to step 239 of 240")
def the_last_step_is_missing(evidence: Evidence) -> Evidence:
    return with_job(evidence, "pair-reference", steps=[(0, 0, 238)])


RESULT = "the result equals the undisturbed one's, bit for bit"


@pytest.mark.parametrize("part", ["parameters.stem.weight", "buffers.stem_norm.running_mean", "optimizer.state.0.momentum_buffer"])
@pytest.mark.parametrize("job", ["single", "pair"])
def test_one_tensor_that_differs_is_named(evidence: Evidence, part: str, job: str) -> None:
    assert part in evidence.jobs[job].tensors
    evidence.jobs[job].tensors[part] = "0" * 64
    (failure,) = failures(evidence)
    assert failure.promise == RESULT
    assert failure.what == f"1 of {job}'s final {part.partition('.')[0]} differ from {job}-reference's: {part}"


@breaks(RESULT, "1 of pair's final optimizer differ from pair-reference's: optimizer.state.0.momentum_buffer")
def a_tensor_is_missing(evidence: Evidence) -> Evidence:
    del evidence.jobs["pair-reference"].tensors["optimizer.state.0.momentum_buffer"]
    return evidence


@breaks(RESULT, "the final parameters of single are not there")
def there_is_no_result(evidence: Evidence) -> Evidence:
    return with_job(evidence, "single", tensors={})


@breaks(RESULT, "pair ended with the world_size 1, pair-reference with 2")
def another_world_size(evidence: Evidence) -> Evidence:
    evidence.jobs["pair"].outcome["world_size"] = 1
    return evidence


@breaks(RESULT, "single ended with the sha256")
def the_script_says_otherwise(evidence: Evidence) -> Evidence:
    evidence.jobs["single"].outcome["sha256"] = "0" * 64
    return evidence


@breaks(RESULT, "there is nothing to compare")
def nothing_is_compared(evidence: Evidence) -> Evidence:
    return replace(evidence, jobs={name: replace(run, reference="") for name, run in evidence.jobs.items()})


NOTHING_LOST = "nothing lost where there was a notice"


@pytest.mark.parametrize("kind", ["free", "saving", "one_of_two"])
def test_a_step_lost_after_a_notice_is_named(evidence: Evidence, kind: str) -> None:
    reclaim = reclaimed(evidence, kind)
    resumed = next(lines(evidence.jobs[reclaim.job], reclaim.attempt + 1, "resumed"))
    resumed["step"] -= 1
    (failure,) = failures(evidence)
    assert failure.promise == NOTHING_LOST
    assert f"reached step {resumed['step'] + 1} and parked at {resumed['step'] + 1}, the next resumed at {resumed['step']}" in failure.what


@breaks(NOTHING_LOST, "and parked at")
def it_trained_on_after_its_save(evidence: Evidence) -> Evidence:
    (attempt, first, last), *others = evidence.jobs["pair"].steps
    return with_job(evidence, "pair", steps=[(attempt, first, last + 1), *others])


@breaks(NOTHING_LOST, "cannot be told: there is no record of a parking of single's attempt 0")
def it_never_parked(evidence: Evidence) -> Evidence:
    timeline = [line for line in evidence.jobs["single"].timeline if (line["attempt"], line["event"]) != (0, "parked")]
    return with_job(evidence, "single", timeline=timeline)


LEAST_LOST = "without a notice, back to the last periodic checkpoint"


@breaks(LEAST_LOST, "single resumed at step 40, and its newest checkpoint was of step 80")
def it_fell_back_too_far(evidence: Evidence) -> Evidence:
    next(lines(evidence.jobs["single"], 3, "resumed"))["step"] = 40
    return evidence


@breaks(LEAST_LOST, "single lost 0 steps, with a checkpoint every 40")
def the_blow_cost_nothing(evidence: Evidence) -> Evidence:
    steps = [(attempt, first, 79 if attempt == 2 else last) for attempt, first, last in evidence.jobs["single"].steps]
    return with_job(evidence, "single", steps=steps)


# -- reclaims -----------------------------------------------------------------------------------------------------------------------

ALL = "all four reclaims happened"


@pytest.mark.parametrize(
    ("kind", "title"),
    [("free", "at a free moment"), ("saving", "while it saved"), ("one_of_two", "one node of two"), ("unnoticed", "without notice")],
)
def test_a_reclaim_that_is_missing_is_named(evidence: Evidence, kind: str, title: str) -> None:
    fewer = replace(evidence, reclaims=[reclaim for reclaim in evidence.reclaims if reclaim.kind != kind])
    assert (ALL, f"none {title}") in [(failure.promise, failure.what) for failure in failures(fewer)]


@breaks(ALL, "single, without notice: the cloud's record has none")
def the_cloud_knows_nothing_of_it(evidence: Evidence) -> Evidence:
    doomed = reclaimed(evidence, "unnoticed").instance_id
    cloud = [line for line in evidence.cloud if (line.get("instance_id"), line["event"]) != (doomed, "killed")]
    return replace(evidence, cloud=cloud)


@breaks(ALL, ", the job ran on spot-1")
def it_struck_another_machine(evidence: Evidence) -> Evidence:
    free, other = reclaimed(evidence, "free"), reclaimed(evidence, "one_of_two")
    cloud_line(evidence, other.instance_id, "notice")["t"] = cloud_line(evidence, free.instance_id, "notice")["t"]
    changed = replace(free, instance_id=other.instance_id)
    return replace(evidence, reclaims=[changed if each == free else each for each in evidence.reclaims])


@breaks(ALL, "pair, one node of two: attempt 0 had not trained yet")
def it_struck_before_the_job_trained(evidence: Evidence) -> Evidence:
    machine = reclaimed(evidence, "one_of_two").instance_id
    cloud_line(evidence, machine, "notice")["t"] = evidence.jobs["pair"].starts[0].t
    return evidence


@breaks(ALL, "was never taken away")
def the_machine_stayed(evidence: Evidence) -> Evidence:
    machine = reclaimed(evidence, "free").instance_id
    return replace(evidence, cloud=[line for line in evidence.cloud if (line.get("instance_id"), line["event"]) != (machine, "terminated")])


REACHED = "a notice reached the job"


@breaks(REACHED, "the journal has no notice for")
def the_agent_was_dead(evidence: Evidence) -> Evidence:
    node = reclaimed(evidence, "saving").node
    return replace(evidence, journal=[each for each in evidence.journal if each.kind != "NoticeReceived" or each.body["node"] != node])


@breaks(REACHED, "single, at a free moment: the job did not see the notice")
def the_job_saw_nothing(evidence: Evidence) -> Evidence:
    next(lines(evidence.jobs["single"], 0, "notice_seen"))["id"] = "another"
    return evidence


@breaks("the free moment was free", "single was saving step")
def it_was_not_free(evidence: Evidence) -> Evidence:
    save = next(lines(evidence.jobs["single"], 0, "save_began"))
    save["t"], save["why"] = cloud_line(evidence, reclaimed(evidence, "free").instance_id, "notice")["t"] - 0.1, "due"
    return evidence


@breaks("the save was hit", "single was not saving; the nearest save began")
def it_was_not_saving(evidence: Evidence) -> Evidence:
    cloud_line(evidence, reclaimed(evidence, "saving").instance_id, "notice")["t"] -= 1.0
    return evidence


@breaks("the save was hit", "single was not saving")
def it_saved_for_the_notice_only(evidence: Evidence) -> Evidence:
    for save in lines(evidence.jobs["single"], 1, "save_began"):
        save["why"] = "notice"
    return evidence


def _rebound(evidence: Evidence, survivor_goes: bool) -> Evidence:
    """Let the second attempt's node be another machine than it was."""
    reclaim = reclaimed(evidence, "one_of_two")
    for entry in evidence.journal:
        view = entry.body.get("view", {})
        if entry.kind == "JobChanged" and (view["job_id"], view["restarts"], len(view["nodes"])) == (evidence.jobs["pair"].job_id, 1, 2):
            view["nodes"] = ["spot-6", view["nodes"][-1]] if survivor_goes else [view["nodes"][0], reclaim.node]
    if not survivor_goes:
        evidence.cloud[:] = [
            line for line in evidence.cloud if (line.get("instance_id"), line["event"]) != (reclaim.instance_id, "terminated")
        ]
    return evidence


SURVIVOR = "the two-node job kept its other node"


@breaks(SURVIVOR, "pair ran on 2 and then on 1 machines, not on 2")
def the_survivor_was_left(evidence: Evidence) -> Evidence:
    return _rebound(evidence, survivor_goes=True)


@breaks(SURVIVOR, "is on")
def the_doomed_one_was_kept(evidence: Evidence) -> Evidence:
    return _rebound(evidence, survivor_goes=False)


@breaks(SURVIVOR, "which had not been reclaimed")
def the_survivor_was_exchanged(evidence: Evidence) -> Evidence:
    reclaim = reclaimed(evidence, "one_of_two")
    survivor = next(entry for entry in evidence.journal if entry.kind == "BindInstance" and entry.body["command"]["node"] == "spot-2")
    old = survivor.body["command"]["instance_id"]
    again = replace(
        survivor,
        at=evidence.jobs["pair"].starts[1].t - 0.1,
        body=survivor.body | {"command": survivor.body["command"] | {"instance_id": "i-new"}},
    )
    asked = cloud_line(evidence, old, "requested") | {"instance_id": "i-new", "t": again.at - 2.0}
    ended = cloud_line(evidence, reclaim.instance_id, "terminated") | {"instance_id": old, "t": again.at - 3.0}
    return replace(evidence, journal=[*evidence.journal, again], cloud=[*evidence.cloud, asked, ended])


UNNOTICED = "the unnoticed one had no notice"


@breaks(UNNOTICED, "the cloud gave notice to")
def the_cloud_gave_notice(evidence: Evidence) -> Evidence:
    machine = reclaimed(evidence, "unnoticed").instance_id
    killed = cloud_line(evidence, machine, "killed")
    return replace(evidence, cloud=[*evidence.cloud, killed | {"event": "notice", "t": killed["t"] - 1.0}])


@breaks(UNNOTICED, "the journal has a notice for")
def the_journal_has_a_notice(evidence: Evidence) -> Evidence:
    reclaim = reclaimed(evidence, "unnoticed")
    notice = next(entry for entry in evidence.journal if entry.kind == "NoticeReceived")
    return replace(
        evidence, journal=[*evidence.journal, replace(notice, body=notice.body | {"node": reclaim.node, "at": reclaim.at - 1.0})]
    )


@breaks(UNNOTICED, "single's attempt 2 saw a notice")
def the_job_saw_a_notice(evidence: Evidence) -> Evidence:
    seen = next(lines(evidence.jobs["single"], 1, "notice_seen"))
    evidence.jobs["single"].timeline.append(seen | {"attempt": 2, "t": reclaimed(evidence, "unnoticed").at - 0.5})
    return evidence


# -- cloud, nodes, processes --------------------------------------------------------------------------------------------------------

HELD = "no instance runs that no node holds"


@breaks(HELD, "still runs, and spot-2 is IDLE+CLOUD+POWERED_DOWN")
def a_machine_was_forgotten(evidence: Evidence) -> Evidence:
    return replace(evidence, nodes=evidence.nodes | {"spot-2": {"State": "IDLE+CLOUD+POWERED_DOWN", "Reason": ""}})


@breaks(HELD, "i-orphan was launched and never became a node")
def an_orphan(evidence: Evidence) -> Evidence:
    line = next(line for line in evidence.cloud if line["event"] == "requested")
    return replace(evidence, cloud=[*evidence.cloud, line | {"instance_id": "i-orphan", "client_token": "another"}])


TWICE = "no name had two instances at a time"


@breaks(TWICE, "was launched for spot-3 while")
def a_name_was_given_twice(evidence: Evidence) -> Evidence:
    bound = next(entry for entry in evidence.journal if entry.kind == "BindInstance" and entry.body["command"]["node"] == "spot-4")
    bound.body["command"]["node"] = "spot-3"
    return evidence


@breaks(TWICE, "brought 2 instances for 1 nodes")
def a_launch_was_made_twice(evidence: Evidence) -> Evidence:
    machine = cloud_line(evidence, reclaimed(evidence, "free").instance_id, "requested")
    return replace(evidence, cloud=[*evidence.cloud, machine | {"instance_id": "i-again"}])


@pytest.mark.parametrize("state", ["IDLE+CLOUD+DRAIN", "DOWN*+CLOUD", "ALLOCATED+CLOUD+COMPLETING"])
def test_a_node_that_is_left_unwell_is_named(evidence: Evidence, state: str) -> None:
    changed = replace(evidence, nodes=evidence.nodes | {"spot-3": {"State": state, "Reason": "holdfast: preempt"}})
    (failure,) = failures(changed)
    assert str(failure) == f"no node is left drained or down: spot-3 is {state} (holdfast: preempt)"


@breaks("no node is left drained or down", "Slurm lists no node")
def no_node_is_listed(evidence: Evidence) -> Evidence:
    return replace(evidence, nodes={})


@breaks("no process outlived the sandbox", "4711: slurmd -D")
def a_process_was_left(evidence: Evidence) -> Evidence:
    return replace(evidence, leftovers=["4711: slurmd -D"])


# -- all of them --------------------------------------------------------------------------------------------------------------------


def test_a_good_run_has_no_failure(evidence: Evidence) -> None:
    assert failures(evidence) == []


@pytest.mark.parametrize(("promise", "says", "change"), BREAKS, ids=[change.__name__ for _, _, change in BREAKS])
def test_a_broken_promise_is_named(evidence: Evidence, promise: str, says: str, change: Break) -> None:
    found = [failure.what for failure in failures(change(evidence)) if failure.promise == promise]
    assert any(says in what for what in found), found


def test_every_promise_is_broken_once() -> None:
    assert {promise for promise, _, _ in BREAKS} == set(PROMISES)


def test_an_empty_run_keeps_hardly_a_promise(evidence: Evidence) -> None:
    empty = replace(
        evidence,
        jobs={
            name: JobRun(job_id=run.job_id, nodes=run.nodes, total_steps=240, every_steps=40, reference=run.reference)
            for name, run in evidence.jobs.items()
        },
        journal=[],
        cloud=[],
        nodes={},
    )
    broken = {failure.promise for failure in failures(empty)}
    assert PROMISES.keys() - broken == {
        "never two attempts of a job at a time",
        "no name had two instances at a time",
        "no process outlived the sandbox",
    }
