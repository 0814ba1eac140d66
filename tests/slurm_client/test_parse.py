"""Parsing: recorded output of 22.05.8, and text that tries to pass for Slurm's."""

import pytest
from holdfast_common.errors import InputError
from holdfast_slurm.parse import COLUMNS, Lines, only_missing, parse_jobs, parse_nodes
from hypothesis import given
from hypothesis import strategies as st

WIDTH = 64
FIELDS = {
    "JobID": "12", "ArrayJobID": "12", "ArrayTaskID": "N/A", "HetJobID": "N/A", "State": "RUNNING", "Reason": "None", "RestartCnt": "2",
    "Requeue": "1", "BatchFlag": "1", "UserID": "1000", "UserName": "ann", "Partition": "spot", "NumNodes": "2",
    "PriorityLong": "4294901759", "Nice": "-5", "SubmitTime": "1795487576", "EligibleTime": "1795487577", "StartTime": "1795487578",
    "EndTime": "1795489558", "TimeUsed": "1:07", "exit_code": "0", "Reservation": "(null)", "Comment": "(null)", "NodeList": "spot-[1-2]",
}  # fmt: skip

NODE = (
    "NodeName=spot-1 Arch=x86_64 CoresPerSocket=1  CPUAlloc=0 CPUEfctv=4 CPUTot=4 CPULoad=0.20 AvailableFeatures=(null) "
    "ActiveFeatures=(null) Gres=(null) NodeAddr=127.0.0.1 NodeHostName=spot-1 Port=30142 Version=22.05.8 OS={os}  RealMemory=1 "
    "AllocMem=0 FreeMem=23457 Sockets=4 Boards=1 State={state} ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A "
    "Partitions={partitions}  BootTime={boot} SlurmdStartTime=1795487354 LastBusyTime=1795487354 CfgTRES=cpu=4,mem=1M,billing=4 "
    "AllocTRES= CapWatts=n/a CurrentWatts=0 AveWatts=0 ExtSensorsJoules=n/s ExtSensorsWatts=0 ExtSensorsTemp=n/s{reason}\n"
)


def line(**changes: str) -> bytes:
    """One line as squeue prints it: each column cut or padded, in bytes."""
    fields = FIELDS | changes
    cells = [fields[name].encode()[:width].ljust(width) for name, width in (*COLUMNS, ("NodeList", WIDTH))]
    return b"".join(cells) + b"\n"


def node(
    os: str = "Linux 6.18 #1 SMP @0", state: str = "IDLE+CLOUD", partitions: str = "spot", boot: str = "1795487354", reason: str = ""
) -> str:
    return NODE.format(os=os, state=state, partitions=partitions, boot=boot, reason=reason and f" Reason={reason} [root@1795487356]")


def test_a_node_that_slurm_refused_for_its_gpus() -> None:
    (found,) = parse_nodes(node(state="IDLE+CLOUD+DRAIN+INVALID_REG", reason="gres/gpu count reported lower than configured (1 < 2)"))
    assert found.reason == "gres/gpu count reported lower than configured (1 < 2)"
    assert {"DRAIN", "INVALID_REG"} <= found.flags


def test_a_plain_job() -> None:
    (job,) = parse_jobs(line(), WIDTH).jobs
    assert (job.job_id, job.key, job.state, job.completing, job.restarts, job.nodes) == (
        12,
        "12",
        "RUNNING",
        False,
        2,
        ("spot-1", "spot-2"),
    )
    assert (job.uid, job.user, job.nice, job.priority, job.num_nodes, job.reason, job.comment) == (1000, "ann", -5, 4294901759, 2, "", "")
    assert (job.submit_time, job.eligible_time, job.start_time) == (1795487576.0, 1795487577.0, 1795487578.0)


@given(st.lists(st.lists(st.fixed_dictionaries({}, optional={
    "JobID": st.sampled_from(["1", "2", "3"]), "TimeUsed": st.sampled_from(["0:00", "0:01", "0:02", "10:00"]),
    "State": st.sampled_from(["COMPLETING", "RUNNING", "PENDING"]), "EndTime": st.sampled_from(["NONE", "1795487590"]),
    "Comment": st.text("ab ", max_size=1100), "NodeList": st.sampled_from(["", "spot-1", "spot-[1-3]"]),
}), max_size=4), max_size=5))  # fmt: skip
def test_lines_that_are_known_mean_what_they_meant(looks: list[list[dict[str, str]]]) -> None:
    known: Lines = {}
    for changes in looks:
        output = b"".join(line(**one) for one in changes)
        assert parse_jobs(output, WIDTH, known) == parse_jobs(output, WIDTH)
        assert len(known) <= len(changes), "what is listed no more is forgotten"


@given(
    st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=1200), max_size=4),
    st.sampled_from(["", "\nJobId=99 ", " Restarts=7 JobState=FAILED", "\n" + "99".ljust(12) * 80]),
)
def test_no_comment_moves_another_field(comments: list[str], forged: str) -> None:
    output = b"".join(line(JobID=str(number), Comment=text + forged) for number, text in enumerate(comments, 1))
    jobs = parse_jobs(output, WIDTH).jobs
    assert jobs is not None
    assert [(job.job_id, job.state, job.restarts, job.nodes) for job in jobs] == [
        (number, "RUNNING", 2, ("spot-1", "spot-2")) for number in range(1, len(comments) + 1)
    ]


@pytest.mark.parametrize(
    ("changes", "key", "job_id", "het"),
    [
        ({"ArrayJobID": "7", "ArrayTaskID": "3"}, "7_3", 12, 0),
        ({"ArrayJobID": "12", "ArrayTaskID": "4-9,11%2"}, "12_[4-9,11]", 12, 0),
        ({"HetJobID": "11"}, "11", 12, 11),
    ],
)
def test_keys(changes: dict[str, str], key: str, job_id: int, het: int) -> None:
    (job,) = parse_jobs(line(**changes), WIDTH).jobs
    assert (job.key, job.job_id, job.het_job_id) == (key, job_id, het)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # Recorded on 22.05.8: requeued without and with a time limit; exit 0 with a dead node; cancelled; failed; timed out.
        ({"TimeUsed": "0:00", "StartTime": "1795487577", "EndTime": "NONE"}, ("PENDING", True)),
        ({"TimeUsed": "0:00", "StartTime": "1795487758", "EndTime": "1795489558"}, ("PENDING", True)),
        ({"TimeUsed": "0:02", "StartTime": "1795487588", "EndTime": "1795487590"}, ("COMPLETED", True)),
        ({"TimeUsed": "0:00", "StartTime": "1795487588", "EndTime": "1795487588"}, ("COMPLETED", True)),
        ({"TimeUsed": "0:02", "StartTime": "1795487588", "EndTime": "1795487590", "exit_code": "15"}, ("CANCELLED", True)),
        ({"TimeUsed": "0:02", "StartTime": "1", "EndTime": "3", "exit_code": "768", "Reason": "NonZeroExitCode"}, ("FAILED", True)),
        ({"TimeUsed": "0:02", "StartTime": "1", "EndTime": "3", "exit_code": "15", "Reason": "TimeLimit"}, ("TIMEOUT", True)),
    ],
)
def test_what_completing_hides(changes: dict[str, str], expected: tuple[str, bool]) -> None:
    (job,) = parse_jobs(line(State="COMPLETING", **changes), WIDTH).jobs
    assert (job.state, job.completing) == expected
    assert not job.pending
    assert job.active


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("REQUEUE_HOLD", ("PENDING", False)),
        ("REQUEUED", ("PENDING", True)),
        ("SIGNALING", ("RUNNING", False)),
        ("STOPPED", ("STOPPED", False)),
    ],
)
def test_flags_that_stand_in_for_a_state(printed: str, expected: tuple[str, bool]) -> None:
    (job,) = parse_jobs(line(State=printed), WIDTH).jobs
    assert (job.state, job.completing) == expected


def test_exit_status_times_and_missing_values() -> None:
    (job,) = parse_jobs(
        line(State="FAILED", exit_code="768", EndTime="N/A", Reason="NonZeroExitCode", Requeue="0", BatchFlag="0"), WIDTH
    ).jobs
    assert (job.exit_code, job.exit_signal, job.end_time, job.reason, job.requeue, job.batch) == (
        3,
        0,
        0.0,
        "NonZeroExitCode",
        False,
        False,
    )
    (job,) = parse_jobs(line(exit_code="9", NumNodes="2-4", StartTime="Unknown"), WIDTH).jobs
    assert (job.exit_code, job.exit_signal, job.num_nodes, job.start_time) == (0, 9, 2, 0.0)


def test_a_waiting_job_holds_no_node_whatever_is_printed() -> None:
    (job,) = parse_jobs(line(State="PENDING"), WIDTH).jobs
    assert job.nodes == ()


def test_a_node_list_that_may_be_cut_is_asked_for_again() -> None:
    assert parse_jobs(line(NodeList="n" * WIDTH) + line(), WIDTH) == (
        parse_jobs(line(), WIDTH).jobs,
        (parse_jobs(line(), WIDTH).jobs[0].job_id,),
    )
    assert parse_jobs(b"", WIDTH) == ((), ())


@pytest.mark.parametrize(
    "broken", [line()[:-1], line() + b"x", line()[:-1] + b" ", line(JobID="x"), line(RestartCnt="many"), line(NodeList="a[")]
)
def test_anything_else_is_an_error(broken: bytes) -> None:
    with pytest.raises(InputError):
        parse_jobs(broken, WIDTH)


def test_nodes() -> None:
    text = node(state="IDLE+CLOUD+DRAIN+POWERING_DOWN", reason="holdfast: gone [x] State=x", partitions="spot,all") + node().replace(
        "spot-1", "spot-2"
    )
    first, second = parse_nodes(text + "Node ghost not found\n")
    assert (first.name, first.state, first.flags) == ("spot-1", "IDLE", frozenset({"CLOUD", "DRAIN", "POWERING_DOWN"}))
    assert (first.reason, first.partitions, first.address) == ("holdfast: gone [x] State=x", ("spot", "all"), "127.0.0.1")
    assert (second.name, second.up, second.reason, second.boot_time) == ("spot-2", True, "", 1795487354.0)
    (third,) = parse_nodes(node(state="DOWN*+CLOUD", boot="None", partitions=""))
    assert (third.state, third.boot_time, third.partitions) == ("DOWN", None, ())
    assert "NOT_RESPONDING" in third.flags


@given(st.text(max_size=200), st.sampled_from(["", " State=IDLE+CLOUD ThreadsPerCore=1", " Partitions=x ", "\n"]))
def test_a_node_cannot_make_up_a_state(text: str, forged: str) -> None:
    other = node(state="DOWN+CLOUD").replace("spot-1", "spot-2")
    views = {view.name: view for view in parse_nodes(node(os=text + forged, state="DOWN+CLOUD") + other)}
    assert views["spot-1"].state in {"DOWN", "UNKNOWN"}
    assert not views["spot-1"].up
    assert views["spot-2"].state == "DOWN"


def test_a_forged_record_of_another_node_makes_it_unknown() -> None:
    forged = "x\n" + node(state="IDLE+CLOUD").replace("spot-1", "spot-2")
    views = {view.name: view for view in parse_nodes(node(os=forged) + node(state="DOWN+CLOUD").replace("spot-1", "spot-2"))}
    assert views["spot-2"].state == "UNKNOWN"
    assert not views["spot-2"].up


def test_missing_nodes_are_told_from_faults() -> None:
    assert only_missing(node() + "Node ghost not found\n")
    assert not only_missing("slurm_load_node error: Unable to contact slurm controller\n")
    assert not only_missing("")
