"""Pure parsing of what squeue and scontrol print, made so that a job's own text cannot pass for Slurm's.

Why jobs come from `squeue -O` and not from `scontrol show jobs -o`: a job's name, account, comment, command and paths may hold
spaces, `=` and newlines, and scontrol prints them bare, the name first. `--job-name $'x JobState=FAILED\\nJobId=7 ...'` forges any
field and even another job's record (measured on 22.05.8). squeue pads or cuts each column to the width we ask for, in bytes, so the
position of every column is known whatever stands in it. AdminComment is not among its columns, and is written only. JSON would be
safe too, at ten times the cost.
"""

import re
from hashlib import blake2b
from typing import NamedTuple

from holdfast_common.errors import InputError
from holdfast_common.views import JobView, NodeView

from holdfast_slurm.nodeset import check_name, expand

COLUMNS: tuple[tuple[str, int], ...] = (
    ("JobID", 12), ("ArrayJobID", 12), ("ArrayTaskID", 512), ("HetJobID", 12), ("State", 24), ("Reason", 64),
    ("RestartCnt", 12), ("Requeue", 6), ("BatchFlag", 6), ("UserID", 12), ("UserName", 64), ("Partition", 256),
    ("NumNodes", 16), ("PriorityLong", 24), ("Nice", 16), ("SubmitTime", 24), ("EligibleTime", 24), ("StartTime", 24),
    ("EndTime", 24), ("TimeUsed", 24), ("exit_code", 12), ("Reservation", 64), ("Comment", 1100),
)  # fmt: skip
"""All but the last column, NodeList, whose width the caller chooses. Slurm refuses comments of more than 1024 bytes."""

_FLAG_STATES = {
    # What squeue prints of a job is its base state, or instead of it one flag: back to (base state, completing).
    "REQUEUED": ("PENDING", True),
    "REQUEUE_FED": ("PENDING", True),
    "EXPEDITING": ("PENDING", True),
    "REQUEUE_HOLD": ("PENDING", False),
    "SPECIAL_EXIT": ("PENDING", False),
    "RESV_DEL_HOLD": ("PENDING", False),
    "POWER_UP_NODE": ("CONFIGURING", False),
    "SIGNALING": ("RUNNING", False),
    "RESIZING": ("RUNNING", False),
}
_BEFORE_TIME_USED = sum(width for _, width in COLUMNS[: [name for name, _ in COLUMNS].index("TimeUsed")])
_AFTER_TIME_USED = _BEFORE_TIME_USED + dict(COLUMNS)["TimeUsed"]
_TIMES_UNKNOWN = {"", "N/A", "NONE", "None", "Unknown", "(null)"}
_NUMBER = re.compile(r"-?\d{1,20}\Z", re.ASCII)
_KEY = re.compile(r"\d{1,10}(?:_(?:\d{1,10}|\[[\d,:-]{1,500}\]))?\Z", re.ASCII)


def column_format(node_list_width: int) -> str:
    """Return the argument for `squeue -O`."""
    return ",".join(f"{name}:{width}" for name, width in (*COLUMNS, ("NodeList", node_list_width)))


def check_key(key: str) -> str:
    """Return `key` if scontrol can be told it (`12`, `12_3`, `12_[4-9]`), else raise `InputError`."""
    if not _KEY.match(key):
        raise InputError(f"not a job key: {key[:80]!r}")
    return key


Lines = dict[bytes, JobView]
"""Digest of a line of squeue → the job that it means."""


class Listing(NamedTuple):
    """What squeue printed."""

    jobs: tuple[JobView, ...]
    """By job id."""
    cut: tuple[int, ...]
    """Ids of the jobs whose node list did not fit its column: ask for these again, with a wider one."""


def parse_jobs(output: bytes, node_list_width: int, known: Lines | None = None) -> Listing:
    """Read the output of `squeue -h -a -t all --array-unique -O column_format(width)`, run with SLURM_TIME_FORMAT=%s.

    Raises `InputError` for anything that does not fit, but a node list.
    `known` holds the lines of the last answer and is brought up to date: of 10,000 jobs few change from one look to the next, and
    recognising a line costs a tenth of reading it.
    """
    known = {} if known is None else known
    lines: Lines = {}
    size = sum(width for _, width in COLUMNS) + node_list_width
    if len(output) % (size + 1):
        raise InputError(f"squeue printed {len(output)} bytes, which is no multiple of {size + 1}")
    jobs, cut = [], []
    for offset in range(0, len(output), size + 1):
        if output[offset + size] != 0x0A:
            raise InputError("a line of squeue does not end where it should")
        digest = _digest(output, offset, size)
        job = known.get(digest) or _read(output, offset, node_list_width)
        if isinstance(job, int):
            cut.append(job)
            continue
        lines[digest] = job
        jobs.append(job)
    known.clear()
    known.update(lines)
    return Listing(tuple(sorted(jobs, key=lambda job: job.job_id)), tuple(cut))


def _digest(output: bytes, offset: int, size: int) -> bytes:
    """Return what stands for the line; of the time used, which changes by itself, only what `_waits_again` looks at."""
    used = offset + _BEFORE_TIME_USED
    found = blake2b(output[offset:used], digest_size=16)
    found.update(b"0" if output.startswith(b"0:00 ", used) else b"1")
    found.update(output[offset + _AFTER_TIME_USED : offset + size])
    return found.digest()


def _read(output: bytes, start: int, node_list_width: int) -> JobView | int:
    """Return the line's job; its id where its node list did not fit."""
    fields: dict[str, str] = {}
    for name, width in COLUMNS:
        fields[name] = output[start : start + width].decode("utf-8", "replace").rstrip(" ")
        start += width
    nodes = output[start : start + node_list_width].decode("utf-8", "replace").rstrip(" ")
    return _integer(fields["JobID"]) if len(nodes) >= node_list_width else _job(fields, nodes)


def _job(fields: dict[str, str], node_list: str) -> JobView:
    raw_exit = _integer(fields["exit_code"])
    end_time, start_time = _time(fields["EndTime"]), _time(fields["StartTime"])
    reason = _text(fields["Reason"])
    state, completing = _state(fields["State"], reason, raw_exit, _waits_again(fields["TimeUsed"], start_time, end_time))
    job_id, het_job_id = _integer(fields["JobID"]), _integer(fields["HetJobID"])
    return JobView(
        job_id=job_id,
        key=_key(job_id, het_job_id, fields["ArrayJobID"], fields["ArrayTaskID"]),
        state=state,
        completing=completing,
        reason="" if reason == "None" else reason,
        restarts=_integer(fields["RestartCnt"]),
        requeue=fields["Requeue"] == "1",
        batch=fields["BatchFlag"] == "1",
        uid=_integer(fields["UserID"]),
        user=_text(fields["UserName"]),
        partition=_text(fields["Partition"]),
        # A job that POWER_DOWN_FORCE or DOWN freed from its last node is PENDING with its old node list (22.05.8).
        nodes=expand(node_list) if completing or state != "PENDING" else (),
        num_nodes=_integer(fields["NumNodes"].split("-")[0]),
        priority=_integer(fields["PriorityLong"]),
        nice=_integer(fields["Nice"]),
        submit_time=_time(fields["SubmitTime"]),
        eligible_time=_time(fields["EligibleTime"]),
        start_time=start_time,
        end_time=end_time,
        exit_code=raw_exit >> 8 & 0xFF,
        exit_signal=raw_exit & 0x7F,
        comment=_text(fields["Comment"]),
        het_job_id=het_job_id,
        reservation=_text(fields["Reservation"]),
    )


def _key(job_id: int, het_job_id: int, array_job_id: str, task: str) -> str:
    task = _text(task).partition("%")[0]
    if task:
        return f"{_integer(array_job_id)}_{task}" if task.isdigit() else f"{_integer(array_job_id)}_[{task}]"
    return str(het_job_id or job_id)


def _waits_again(time_used: str, start_time: float, end_time: float) -> bool:
    """Return whether a COMPLETING job has been requeued, as against ended.

    Every tool prints COMPLETING instead of the base state (22.05.8: squeue, scontrol and JSON alike). But slurmctld reports of a job
    whose base state is PENDING an expected start that is never past, no time used, and an end one time limit later, or none without
    a limit; of an ended one the times that were.
    """
    return time_used == "0:00" and (end_time == 0.0 or end_time > start_time)


def _state(printed: str, reason: str, raw_exit: int, waits_again: bool) -> tuple[str, bool]:
    if printed != "COMPLETING":
        return _FLAG_STATES.get(printed, (printed, False))
    if waits_again:
        return "PENDING", True
    # How it ended is hidden until COMPLETING is over; reason and exit status tell most. A cancelled job whose batch node died reads
    # COMPLETED until then.
    if reason == "TimeLimit":
        return "TIMEOUT", True
    if raw_exit == 0:
        return "COMPLETED", True
    return ("CANCELLED" if reason in {"", "None"} and raw_exit & 0x7F else "FAILED"), True


def _text(value: str) -> str:
    return "" if value in {"(null)", "N/A"} else value


def _integer(value: str) -> int:
    if value in {"N/A", "(null)"}:
        return 0
    if not _NUMBER.match(value):
        raise InputError(f"squeue printed {value[:40]!r} where a number belongs")
    return int(value)


def _time(value: str) -> float:
    return 0.0 if value in _TIMES_UNKNOWN else float(_integer(value))


# --- Nodes ------------------------------------------------------------------------------------------------------------------------

_STATE = re.compile(r" State=(\S+) ThreadsPerCore=\d")
_ADDRESS = re.compile(r" NodeAddr=(\S*) NodeHostName=")
_PARTITIONS = re.compile(r" Partitions=(\S*) ")
_BOOT = re.compile(r" BootTime=(\S+) SlurmdStartTime=")
_REASON = re.compile(r" Reason=(.*?) \[[^\s\[\]]+@[^\s\[\]]+\](?= |$)")
_NOT_FOUND = re.compile(r"Node \S+ not found\Z")


def parse_nodes(text: str) -> tuple[NodeView, ...]:
    """Return the nodes in the output of `scontrol show nodes -o`, run with SLURM_TIME_FORMAT=%s.

    A node's slurmd chooses some of the text (Arch, OS, Version). A record in which a key stands twice, and a name that has two records, is
    reported as state UNKNOWN without flags: it can hide its own node's state, and cannot make one up.
    """
    nodes: dict[str, NodeView] = {}
    for line in text.splitlines():
        if not line.startswith("NodeName="):
            continue  # "Node x not found", or what follows a newline in a node's text
        node = _node(line)
        nodes[node.name] = NodeView(node.name, "UNKNOWN") if node.name in nodes else node
    return tuple(nodes.values())


def only_missing(text: str) -> bool:
    """Return whether the output, of a command that failed, says only that some of the nodes do not exist (22.05: also hidden ones)."""
    lines = [line for line in text.splitlines() if line.strip()]
    return bool(lines) and all(line.startswith("NodeName=") or _NOT_FOUND.match(line) for line in lines)


def _node(line: str) -> NodeView:
    name = check_name(line.removeprefix("NodeName=").split(" ", 1)[0])
    states, addresses = _STATE.findall(line), _ADDRESS.findall(line)
    partitions, boots, reasons = _PARTITIONS.findall(line), _BOOT.findall(line), _REASON.findall(line)
    if len(states) != 1 or max(map(len, (addresses, partitions, boots, reasons))) > 1:
        return NodeView(name, "UNKNOWN")
    state, *flags = states[0].upper().split("+")
    if state.endswith("*"):
        state, flags = state.rstrip("*"), [*flags, "NOT_RESPONDING"]
    return NodeView(
        name=name,
        state=state,
        flags=frozenset(flags),
        reason=reasons[0] if reasons else "",
        address=addresses[0] if addresses else "",
        partitions=tuple(filter(None, partitions[0].split(","))) if partitions else (),
        boot_time=(_boot_time(boots[0]) if boots else None),
    )


def _boot_time(value: str) -> float | None:
    return float(value) if value.isascii() and value.isdigit() and len(value) <= 20 else None
