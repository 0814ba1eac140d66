"""Following a walk through the controller's own interface: its stream of events, and how far the job is."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from holdfast_common.clock import Clock, SystemClock
from holdfast_controller.cli.connection import CALL_TIMEOUT_S, ask
from holdfast_controller.cli.stream import body_of, follow

from holdfast_sandbox.walk_events import Line, Narrator

PROGRESS_S = 5.0
"""So often the job's progress is told, while nothing else is."""

Tell = Callable[[Line], None]


class WalkTimeoutError(Exception):
    """The job was not over in time."""


def watch(socket: Path, narrator: Narrator, tell: Tell, total_steps: int, most_s: float) -> None:
    """Tell everything as it comes, and return when the job is over. Raises WalkTimeoutError after `most_s`, CliError."""
    ask(socket, lambda stub: _watch(stub, socket, narrator, tell, total_steps, most_s))


async def _watch(stub: Any, socket: Path, narrator: Narrator, tell: Tell, total_steps: int, most_s: float) -> None:
    clock = SystemClock()
    told = _Told(clock.monotonic())

    def say(line: Line) -> None:
        told.at = clock.monotonic()
        tell(line)

    progress = asyncio.create_task(_progress(stub, narrator, say, told, total_steps, clock))
    try:
        async with asyncio.timeout(most_s):
            async for event in follow(stub, 0, clock, socket, lambda text: say(Line(clock.now(), "", "aside", text))):
                for line in narrator.lines(event.at, event.kind, body_of(event)):
                    say(line)
                if narrator.ended:
                    return
    except TimeoutError:
        raise WalkTimeoutError(f"the job was not over within {most_s:.0f} s") from None
    finally:
        progress.cancel()
        await asyncio.gather(progress, return_exceptions=True)


class _Told:
    """When something was told last, by the monotonic clock."""

    def __init__(self, at: float) -> None:
        self.at = at


async def _progress(stub: Any, narrator: Narrator, say: Tell, told: _Told, total_steps: int, clock: Clock) -> None:
    import grpc.aio
    from holdfast_protos.v1 import admin_pb2

    while True:
        await clock.sleep(max(0.2, told.at + PROGRESS_S - clock.monotonic()))
        if clock.monotonic() < told.at + PROGRESS_S:
            continue
        with suppress(grpc.aio.AioRpcError):  # a controller that is away is told of by the stream
            reply = await stub.ListJobs(admin_pb2.ListJobsRequest(ids=[str(narrator.job_id)]), timeout=CALL_TIMEOUT_S)
            for job in reply.jobs:
                where = " + ".join(dict.fromkeys(narrator.zone_of(node) for node in job.nodes))
                text = f"step {job.step} of {total_steps}" if job.phase == "running" and job.step >= 0 else f"the job is {job.phase}"
                say(Line(clock.now(), where, "progress", text))
        told.at = clock.monotonic()
