"""PrologSlurmctld, the gate: waits until a job's nodes are up, so that slurmctld starts the job at that moment.

Without it a job on CLOUD nodes starts at slurmctld's next look at configuring jobs, up to 30 s after its nodes registered
(measured on 22.05, 24.11 and 26.05). The exit status is always 0: another one requeues the job, on 22.05 at once and on the
same nodes, in a loop. Leaving too early costs no more than Slurm's own tick.
"""

import argparse
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from holdfast_common.errors import HoldfastError, InputError

from holdfast_slurm.hooks.caller import connect, describe, leave, stub
from holdfast_slurm.hooks.log import HookLog

ASK_S = 20.0
"""How long one question may wait at the controller."""
GRACE_S = 3.0
"""How much later than promised an answer may come."""
RETRY_S = 0.5
_ITEM = re.compile(r"(?:[^,\[]|\[[^\[\]]*\])+")
_PREFIX = re.compile(r"[^0-9\[]*")
LIMIT_S = 3600.0
"""No gate outlives this: by then ResumeTimeout has long ended the wait."""
PATIENCE_ONCE_ANSWERED_S = 60.0
PATIENCE_OURS_S = 20.0
PATIENCE_UNKNOWN_S = 5.0


class Answer(Enum):
    """What one question to the controller came to."""

    LEAVE = auto()
    WAIT = auto()
    SILENCE = auto()
    """Not reachable, or no answer in time: it may be starting again."""


@dataclass(frozen=True, slots=True)
class GateJob:
    """The job that waits."""

    job_id: int
    nodes: tuple[str, ...]


def read_job(environ: Mapping[str, str]) -> GateJob:
    """Return the job from the environment that slurmctld gives PrologSlurmctld. Raises InputError."""
    text = environ.get("SLURM_JOB_ID", "")
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and 0 < int(text) <= 0xFFFF_FFFF):
        raise InputError(f"SLURM_JOB_ID is {text[:40]!r}")
    from holdfast_slurm.nodeset import expand

    nodes = tuple(expand(environ.get("SLURM_JOB_NODELIST", "")))
    if not nodes:
        raise InputError("SLURM_JOB_NODELIST names no node")
    return GateJob(int(text), nodes)


def surely_foreign(nodes: str, managed: str) -> bool:
    """Return whether no name of one list can be in the other, by what stands before the first digit: cheap, for most jobs enough."""
    return bool(nodes) and prefixes(nodes).isdisjoint(prefixes(managed))


def is_foreign(job: GateJob, managed: str) -> bool:
    """Return whether none of the job's nodes is in the list. Raises InputError where the list is malformed."""
    from holdfast_slurm.nodeset import expand

    return set(job.nodes).isdisjoint(expand(managed))


def prefixes(nodes: str) -> set[str]:
    """Return what the names of a list in Slurm's notation begin with, up to their first digit or bracket."""
    return {_PREFIX.match(item)[0] for item in _ITEM.findall(nodes)}  # type: ignore[index]  # it matches always


def wait(
    ask: Callable[[], Answer],
    patience_s: float,
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Ask until the answer is to leave; return False where patience or the limit ended the wait instead.

    `patience_s` is how long a controller is waited for that never answered; one that did is given PATIENCE_ONCE_ANSWERED_S
    to come back.
    """
    started = heard = now()
    while now() - started < LIMIT_S:
        answer = ask()
        if answer is Answer.LEAVE:
            return True
        if answer is Answer.WAIT:
            heard, patience_s = now(), PATIENCE_ONCE_ANSWERED_S
            sleep(0.05)  # a controller that answers WAIT at once must not be flooded
            continue
        if now() - heard >= patience_s:
            return False
        sleep(RETRY_S)
    return False


def asker(socket: Path, job: GateJob, patience_s: float, log: HookLog) -> Callable[[], Answer]:
    """Return the question whether the job's nodes are up, over one kept channel. The import of gRPC happens here."""
    channel = connect(socket)
    import grpc
    from holdfast_protos.v1 import hook_pb2

    service = stub(channel)
    request = hook_pb2.AwaitNodesRequest(job_id=job.job_id, nodes=job.nodes, wait_s=ASK_S)
    hopeless = {
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.INVALID_ARGUMENT,
    }
    heard = False

    def ask() -> Answer:
        nonlocal heard
        deadline_s = (ASK_S if heard else min(ASK_S, patience_s)) + GRACE_S
        request.wait_s = deadline_s - GRACE_S
        try:
            reply = service.AwaitNodes(request, timeout=deadline_s)
        except grpc.RpcError as error:
            if error.code() not in hopeless:
                return Answer.SILENCE
            log.note(f"job {job.job_id}: not waiting: {describe(error)}")
            return Answer.LEAVE
        heard = True
        return Answer.WAIT if reply.outcome == hook_pb2.AwaitNodesReply.WAIT else Answer.LEAVE

    return ask


def main(arguments: Sequence[str] | None = None) -> int:
    """Wait as needed; return 0 always."""
    parser = argparse.ArgumentParser(prog="holdfast-prolog-slurmctld", allow_abbrev=False)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--log", type=Path, default=None)
    parser.add_argument("--nodes", default="", help="the nodes that Holdfast manages; without it the controller is asked")
    parsed = parser.parse_args(arguments)
    log = HookLog("prolog-slurmctld", parsed.log)
    try:
        if parsed.nodes and surely_foreign(os.environ.get("SLURM_JOB_NODELIST", ""), parsed.nodes):
            return 0
        job = read_job(os.environ)
        if parsed.nodes and is_foreign(job, parsed.nodes):
            return 0
        patience_s = PATIENCE_OURS_S if parsed.nodes else PATIENCE_UNKNOWN_S
        if not wait(asker(parsed.socket, job, patience_s, log), patience_s):
            log.note(f"job {job.job_id}: the controller does not answer; the job starts at slurmctld's own tick")
    except HoldfastError as error:
        log.note(f"not waiting: {error}")
    except Exception as error:  # whatever it is, the job must not be requeued for it
        log.note(f"not waiting: {type(error).__name__}: {error}")
    return 0


if __name__ == "__main__":
    leave(main())
