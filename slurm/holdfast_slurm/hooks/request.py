"""What slurmctld asks of ResumeProgram, SuspendProgram and ResumeFailProgram: a node list in argv, and for ResumeProgram a
file with the jobs. Everything here is parsed strictly and within bounds.
"""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

from holdfast_common.errors import InputError

from holdfast_slurm.nodeset import expand

RESUME_FILE_LIMIT_BYTES = 16 << 20
_NODES_LIMIT = 65_536
_NAMES_LIMIT = 100_000
_JOB_ID_LIMIT = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class JobNodes:
    """One job of a resume file."""

    job_id: int
    nodes: tuple[str, ...]
    """What is to be resumed for the job."""
    nodes_alloc: tuple[str, ...] = ()
    """The whole allocation, where Slurm tells it (23.02 and later)."""


@dataclass(frozen=True, slots=True)
class PowerRequest:
    """The nodes of one call of a hook, and for ResumeProgram the jobs that they are for."""

    nodes: tuple[str, ...]
    jobs: tuple[JobNodes, ...] = ()
    faults: tuple[str, ...] = field(default=())
    """What was wrong with the resume file, if anything; the node list is used all the same."""


def read_request(node_list: str, environ: Mapping[str, str]) -> PowerRequest:
    """Return what is asked. A resume file that cannot be used is left out with a fault. Raises InputError without any node.

    Slurm 22.05 writes `{"jobs":[{"job_id":1,"nodes":"a-[1-2]"}],"all_nodes":"…"}`; 23.02 and later write `nodes_resume`,
    `nodes_alloc` and `all_nodes_resume` as well (measured on 22.05, 24.11 and 26.05).
    """
    path = environ.get("SLURM_RESUME_FILE", "")
    faults: list[str] = []
    listed = ""
    jobs: tuple[JobNodes, ...] = ()
    if path:
        try:
            listed, jobs = parse_resume_file(_read(path))
        except InputError as error:
            faults.append(f"resume file not used: {error}")
    nodes = _names(node_list) if node_list else _names(listed)
    if not nodes:
        raise InputError("no nodes given")
    return PowerRequest(nodes, jobs, tuple(faults))


def parse_resume_file(text: bytes) -> tuple[str, tuple[JobNodes, ...]]:
    """Return the list of all nodes (unexpanded, may be empty) and the jobs. Raises InputError where anything is malformed."""
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {str(error)[:200]}") from None
    if not isinstance(document, dict) or not isinstance(document.get("jobs"), list):
        raise InputError("not an object with a list of jobs")
    jobs: list[JobNodes] = []
    names = 0
    for entry in document["jobs"]:
        jobs.append(_job(entry))
        names += len(jobs[-1].nodes) + len(jobs[-1].nodes_alloc)
        if names > _NAMES_LIMIT:
            raise InputError("its jobs name too many nodes")
    return _text(document, "all_nodes_resume") or _text(document, "all_nodes"), tuple(jobs)


def _job(entry: object) -> JobNodes:
    if not isinstance(entry, dict):
        raise InputError("a job is not an object")
    job_id = entry.get("job_id")
    if not isinstance(job_id, int) or isinstance(job_id, bool) or not 0 < job_id <= _JOB_ID_LIMIT:
        raise InputError("a job_id is no number of a job")
    nodes = _names(_text(entry, "nodes_resume") or _text(entry, "nodes"))
    return JobNodes(job_id, nodes, _names(_text(entry, "nodes_alloc")))


def _text(entry: Mapping[str, object], key: str) -> str:
    value = entry.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{key} is not text")
    return value


def _names(text: str) -> tuple[str, ...]:
    if not text:
        return ()
    names = tuple(expand(text))
    if len(names) > _NODES_LIMIT:
        raise InputError(f"{len(names)} nodes in one list")
    return names


def _refuse_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def _read(path: str) -> bytes:
    """Read a regular file whole. O_NONBLOCK: a pipe in its place must not hold the hook."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InputError("not a regular file")
            text = file.read(RESUME_FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise InputError(error.strerror or "cannot be read") from None
    if len(text) > RESUME_FILE_LIMIT_BYTES:
        raise InputError(f"longer than {RESUME_FILE_LIMIT_BYTES} bytes")
    return text
