"""Slurm through its own commands: `scontrol`, `squeue` and `scancel`, version 22.05 and later."""

import asyncio
import contextlib
import os
import re
import signal as signals
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from holdfast_common.errors import InputError, SlurmRefused, SlurmUnavailable
from holdfast_common.views import JobView, NodeView

from holdfast_slurm import parse
from holdfast_slurm.nodeset import check_name, fold
from holdfast_slurm.turns import Turns

MAX_PROCESSES = 16
"""Commands at a time; the rest wait, so that a mass reclaim starts no thousands of processes."""
MAX_OUTPUT_BYTES = 256 * 1024 * 1024
BATCH = 500
"""Nodes in one update: 200 cost slurmctld 10 to 70 ms (measured), and a reason and 500 ranges are far from the limits of a command line."""
MAX_TEXT_BYTES = 1000
NODE_LIST_WIDTHS = (1024, 65_536, 2_000_000)
RESERVATION_FLAGS = "Flags=IGNORE_JOBS,FLEX,PURGE_COMP=00:05:00"
LARGE_BYTES = 256 * 1024
"""An answer that is larger is read in a thread: 10,000 jobs, all new, would hold the event loop for 0.4 s (measured)."""

_UNAVAILABLE = re.compile(
    r"unable to contact|socket timed out|connect(ion)? (failure|refused|timed out|reset)|zero bytes were transmitted"
    r"|no route to host|standby mode|transport endpoint|temporarily unable|temporarily unavailable|munge|unexpected message received"
    r"|authentication (error|credential)|insane message length|header lengths|could not establish a configuration source"
    r"|unable to process configuration",
    re.IGNORECASE,
)
_NO_JOB = re.compile(r"invalid job id specified|job \S+ not found", re.IGNORECASE)
_VERSION = re.compile(r"^SLURM_VERSION\s*=\s*(\d+)\.(\d+)", re.MULTILINE)
_NO_RESERVATION = re.compile(r"requested reservation is invalid", re.IGNORECASE)
_RESERVATION = re.compile(r"holdfast-[0-9]{1,10}\Z", re.ASCII)
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,63}\Z", re.ASCII)
_SIGNAL = re.compile(r"(?:SIG)?[A-Z][A-Z0-9]{1,9}\Z|[1-9]\d?\Z", re.ASCII)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True)
class _Answer:
    code: int
    output: bytes
    errors: str


class ScontrolClient:
    """Implements `holdfast_slurm.client.Slurm`.

    Programs are started by absolute path, without a shell, in a process group of their own, with an environment of ours only. One
    that does not answer within `timeout_s` is killed with its group. Slurm retries a refused connection for MessageTimeout itself
    (4 s were measured with 5 s configured), so `timeout_s` should be longer than that.
    """

    def __init__(self, bin_dir: Path, slurm_conf: Path, timeout_s: float = 15.0) -> None:
        self._bin = bin_dir.absolute()
        self._timeout_s = timeout_s
        self._turns = Turns(MAX_PROCESSES)
        self._lines: parse.Lines = {}
        self._environment = {
            "SLURM_CONF": str(slurm_conf.absolute()),
            "SLURM_TIME_FORMAT": "%s",  # honoured by scontrol and squeue alike (22.05.8)
            "SLURM_BITSTR_LEN": "480",  # array task lists: longer ones end in "...", which no command takes for a key
            "TZ": "UTC",
            "LC_ALL": "C",
        }

    def together(self) -> AbstractAsyncContextManager[None]:
        """Wait in line once for several commands."""
        return self._turns.together()

    async def ping(self) -> bool:
        """Return whether slurmctld answers."""
        try:
            return b" is UP" in (await self._start("scontrol", "ping")).output
        except SlurmUnavailable:
            return False

    async def version(self) -> tuple[int, int]:
        """Return the release that runs, such as (22, 5)."""
        match = _VERSION.search(_decode(await self._run("scontrol", "show", "config")))
        if match is None:
            raise SlurmUnavailable("scontrol show config names no SLURM_VERSION")
        return int(match.group(1)), int(match.group(2))

    async def reconfigure(self) -> None:
        """`scontrol reconfigure`."""
        await self._run("scontrol", "reconfigure")

    async def nodes(self, names: Sequence[str] | None = None) -> tuple[NodeView, ...]:
        """Return all nodes, or those of `names` that slurmctld shows."""
        if names is None:
            return _parse_nodes(_decode(await self._run("scontrol", "show", "nodes", "-a", "-o")))
        views: list[NodeView] = []
        for folded in _batches(names):
            answer = await self._start("scontrol", "show", "nodes", folded, "-a", "-o")
            text = _decode(answer.output)
            if answer.code and not parse.only_missing(text):
                raise _fault(("scontrol", "show", "nodes"), answer)
            views.extend(_parse_nodes(text))
        return tuple(views)

    async def jobs(self, node: str = "") -> tuple[JobView, ...]:
        """Return every job that slurmctld remembers, or those that it has on a node."""
        if node:
            return await self._squeue({}, "-w", check_name(node))
        lines = self._lines.copy()  # two looks may be under way
        views = await self._squeue(lines)
        self._lines = lines
        return views

    async def job(self, key: str) -> JobView | None:
        """Return one job, or None where there is none of that key."""
        parse.check_key(key)
        views = await self._squeue({}, "-j", key)
        matching = [view for view in views if str(view.job_id) == key] or [view for view in views if view.key == key]
        return matching[0] if matching else None

    async def drain(self, names: Sequence[str], reason: str) -> None:
        """Let no new job start on the nodes."""
        await self._update_nodes(names, "state=DRAIN", _reason(reason))

    async def resume(self, names: Sequence[str]) -> None:
        """Undo a drain or a DOWN. Refused ("Invalid node state specified") for a node that is neither."""
        await self._update_nodes(names, "state=RESUME")

    async def down(self, names: Sequence[str], reason: str) -> None:
        """Set DOWN."""
        await self._update_nodes(names, "state=DOWN", _reason(reason))

    async def power_down(self, names: Sequence[str], reason: str) -> None:
        """POWER_DOWN_FORCE."""
        await self._update_nodes(names, "state=POWER_DOWN_FORCE", _reason(reason))

    async def power_up(self, names: Sequence[str]) -> None:
        """POWER_UP."""
        await self._update_nodes(names, "state=POWER_UP")

    async def set_addresses(self, addresses: Mapping[str, str]) -> None:
        """Tell slurmctld where each node is reached."""
        # One list of addresses in the order of one list of names; a single address for several nodes is refused (22.05.8).
        pairs = [(check_name(name), check_name(address)) for name, address in addresses.items()]
        for start in range(0, len(pairs), BATCH):
            batch = pairs[start : start + BATCH]
            names, targets = ",".join(name for name, _ in batch), ",".join(address for _, address in batch)
            await self._run("scontrol", "update", f"nodename={names}", f"nodeaddr={targets}")

    async def requeue(self, key: str, *, ended: bool = False) -> None:
        """Requeue; with `ended` also a job that has completed.

        Without it Slurm reports success, and does nothing, for a job that is PENDING, COMPLETING or COMPLETED (measured on 22.05.8).
        """
        incomplete = [] if ended else ["incomplete"]
        await self._run("scontrol", "requeue", *incomplete, parse.check_key(key))

    async def start_after(self, key: str, delay_s: int) -> None:
        """`StartTime=now+N`."""
        if not 0 <= delay_s <= 31_536_000:
            raise InputError(f"a job cannot be put off by {delay_s} s")
        await self._update_job(key, f"StartTime=now+{delay_s}" if delay_s else "StartTime=now")

    async def update_job(self, key: str, *, admin_comment: str | None = None, nice: int | None = None, priority: int | None = None) -> None:
        """Set what is not None, in one update."""
        if nice is not None and abs(nice) > 2_147_483_645:
            raise InputError(f"nice {nice} is out of Slurm's range")
        if priority is not None and not 0 <= priority <= 4_294_967_293:
            raise InputError(f"priority {priority} is out of Slurm's range")
        changes = [f"AdminComment={_clean(admin_comment)}"] if admin_comment is not None else []
        changes += [f"Nice={nice}"] if nice is not None else []
        changes += [f"Priority={priority}"] if priority is not None else []
        if changes:
            await self._update_job(key, *changes)

    async def hold(self, key: str) -> None:
        """Hold a pending job."""
        await self._run("scontrol", "hold", parse.check_key(key))

    async def release(self, key: str) -> None:
        """Release a held job."""
        await self._run("scontrol", "release", parse.check_key(key))

    async def reserve(self, name: str, nodes: Sequence[str], user: str) -> None:
        """Create the reservation, or give it these nodes."""
        if not _USER.match(user):
            raise InputError(f"not a user's name: {user[:40]!r}")
        what = (f"ReservationName={_reservation(name)}", f"Nodes={fold(nodes)}", f"Users={user}")
        try:
            await self._run("scontrol", "update", *what)
        except SlurmRefused as error:
            if not _NO_RESERVATION.search(str(error)):
                raise
            # Without an end: a job that outlives a reservation which it uses is killed (ResvOverRun).
            await self._run("scontrol", "create", "reservation", *what, "StartTime=now", "Duration=UNLIMITED", RESERVATION_FLAGS)

    async def use_reservation(self, key: str, name: str) -> None:
        """Let the job use the reservation, or none."""
        await self._update_job(key, f"ReservationName={_reservation(name) if name else ''}")

    async def unreserve(self, name: str) -> None:
        """Delete the reservation."""
        try:
            await self._run("scontrol", "delete", f"ReservationName={_reservation(name)}")
        except SlurmRefused as error:
            if not _NO_RESERVATION.search(str(error)):
                raise

    async def signal(self, key: str, signal: str, *, batch: bool = False) -> None:
        """Send a signal by `scancel` to the steps, or to the batch shell alone."""
        if not _SIGNAL.match(signal):
            raise InputError(f"not a signal: {signal[:40]!r}")
        batch_only = ["--batch"] if batch else []
        await self._run("scancel", f"--signal={signal}", *batch_only, parse.check_key(key))

    async def _squeue(self, known: parse.Lines, *options: str) -> tuple[JobView, ...]:
        """Return what squeue lists; of a few jobs with long node lists it is asked again, in a wider column (lines are as long as it)."""
        narrow, *wider = NODE_LIST_WIDTHS
        jobs, cut = await self._listing(narrow, known, *options)
        for width in wider:
            batches = [cut[start : start + BATCH] for start in range(0, len(cut), BATCH)]
            listings = [await self._listing(width, {}, "-j", ",".join(map(str, batch))) for batch in batches]
            asked = set(cut)  # of an array's or a heterogeneous job's own id squeue lists all that belong to it
            jobs = (*jobs, *(job for listing in listings for job in listing.jobs if job.job_id in asked))
            cut = tuple(job_id for listing in listings for job_id in listing.cut if job_id in asked)
        if cut:
            raise SlurmUnavailable(f"the node list of job {cut[0]} is longer than 2 MB")
        return jobs

    async def _listing(self, width: int, known: parse.Lines, *options: str) -> parse.Listing:
        # --array-unique: else squeue folds a requeued task of an array into the line of those that never ran.
        argv = ("squeue", "-h", "-a", "-t", "all", "--array-unique", "-O", parse.column_format(width), *options)
        answer = await self._start(*argv)
        if answer.code:
            if options and _NO_JOB.search(answer.errors):
                return parse.Listing((), ())
            raise _fault(argv[:1], answer)
        try:
            read = partial(parse.parse_jobs, answer.output, width, known)
            return await asyncio.to_thread(read) if len(answer.output) > LARGE_BYTES else read()
        except InputError as error:
            # squeue leaves a column that it does not know out, says so on stderr, and succeeds.
            raise SlurmUnavailable(f"squeue's answer is not understood: {error}; {answer.errors[:200]}") from error

    async def _update_nodes(self, names: Sequence[str], *changes: str) -> None:
        for folded in _batches(names):
            await self._run("scontrol", "update", f"nodename={folded}", *changes)

    async def _update_job(self, key: str, *changes: str) -> None:
        await self._run("scontrol", "update", f"jobid={parse.check_key(key)}", *changes)

    async def _run(self, *argv: str) -> bytes:
        answer = await self._start(*argv)
        if answer.code:
            raise _fault(argv, answer)
        return answer.output

    async def _start(self, program: str, *arguments: str) -> _Answer:
        async with self._turns.together():
            return await self._execute(program, *arguments)

    async def _spawn(self, program: str, *arguments: str) -> asyncio.subprocess.Process:
        """Start it. Cancelled halfway, asyncio would end the program alone, and wait for whatever else of its group has the pipes."""
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                self._bin / program,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._environment,
                cwd="/",
                start_new_session=True,
            )
        )
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                await _kill(await starting)
            raise

    async def _execute(self, program: str, *arguments: str) -> _Answer:
        try:
            process = await self._spawn(program, *arguments)
        except OSError as error:
            raise SlurmUnavailable(f"cannot start {self._bin / program}: {error}") from None
        try:
            async with asyncio.timeout(self._timeout_s):
                assert process.stdout is not None
                assert process.stderr is not None
                output, errors = await asyncio.gather(_read(process.stdout, MAX_OUTPUT_BYTES), _read(process.stderr, 1024 * 1024))
                code = await process.wait()
        except TimeoutError:
            raise SlurmUnavailable(f"{program} gave no answer within {self._timeout_s:g} s") from None
        finally:
            await _kill(process)
        return _Answer(code, output, _decode(errors).strip())


async def _read(stream: asyncio.StreamReader, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := await stream.read(1 << 20):
        size += len(chunk)
        if size > limit:
            raise SlurmUnavailable(f"a command of Slurm printed more than {limit} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


async def _kill(process: asyncio.subprocess.Process) -> None:
    """End the whole group, also when the caller was cancelled, and reap the process.

    Our ends of its pipes are closed first: up to Python 3.12 `wait` returns only after end of file on both, and that is never read
    from a stream that asyncio has paused because nobody takes its 128 KiB, nor from one that a process outside the group holds open.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signals.SIGKILL)
        transport: asyncio.SubprocessTransport = cast(Any, process)._transport  # asyncio offers no public way to it
        for descriptor in (1, 2):
            pipe = transport.get_pipe_transport(descriptor)
            if pipe is not None:
                pipe.close()
        await process.wait()


def _fault(argv: Sequence[str], answer: _Answer) -> SlurmRefused | SlurmUnavailable:
    said = answer.errors or _decode(answer.output[:500]).strip() or f"exit status {answer.code} without a message"
    message = f"{' '.join(argv[:3])}: {' '.join(said.split())[:500]}"
    # A signal kills the command without its having asked: no answer.
    if answer.code < 0 or _UNAVAILABLE.search(said):
        return SlurmUnavailable(message)
    return SlurmRefused(message)


def _reservation(name: str) -> str:
    if not _RESERVATION.match(name):
        raise InputError(f"a reservation of ours is named 'holdfast-JOBID', not {name[:40]!r}")
    return name


def _parse_nodes(text: str) -> tuple[NodeView, ...]:
    try:
        return parse.parse_nodes(text)
    except InputError as error:
        raise SlurmUnavailable(f"scontrol's list of nodes is not understood: {error}") from error


def _batches(names: Sequence[str]) -> Iterator[str]:
    for start in range(0, len(names), BATCH):
        yield fold(names[start : start + BATCH])


def _reason(text: str) -> str:
    if not text.startswith("holdfast:"):
        raise InputError(f"a reason that we write begins with 'holdfast:', not {text[:40]!r}")
    return f"reason={_clean(text)}"


def _clean(text: str) -> str:
    """One printable line of at most `MAX_TEXT_BYTES`: a newline in it would break the records that we read back."""
    return _UNPRINTABLE.sub(" ", text).encode("utf-8", "replace")[:MAX_TEXT_BYTES].decode("utf-8", "ignore")


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace")
