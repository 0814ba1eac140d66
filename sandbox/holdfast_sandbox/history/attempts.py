"""What a job did when, from its attempts' own files. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from holdfast_sandbox.history.model import JobRun

BETWEEN_S = 0.1
"""From the end of a last save until the job says that it is parked or done; no training."""
PhaseKind = Literal["waits", "starts", "trains", "saves"]


@dataclass(frozen=True, slots=True)
class Phase:
    """What a job was at between two moments (Unix seconds)."""

    kind: PhaseKind
    begin: float
    end: float
    attempt: int


def events(run: JobRun, attempt: int, name: str) -> list[dict[str, Any]]:
    """Return an attempt's events of a name, in order: rank 0's, and those that it recorded for others."""
    return [line for line in run.timeline if line["attempt"] == attempt and line["event"] == name]


def moment(run: JobRun, attempt: int, name: str) -> float | None:
    """Return when an attempt's first event of a name was."""
    return next((float(line["t"]) for line in events(run, attempt, name)), None)


def step_of(run: JobRun, attempt: int, name: str) -> int | None:
    """Return the step that an attempt's last event of a name gives."""
    return next((int(line["step"]) for line in reversed(events(run, attempt, name))), None)


def reached(run: JobRun, attempt: int) -> int | None:
    """Return how many steps were done when an attempt ended: one more than the last that its output names."""
    return max((last + 1 for of, _, last in run.steps if of == attempt), default=None)


def first_line(run: JobRun, attempt: int) -> float | None:
    """Return when the attempt's batch script began."""
    return next((start.t for start in run.starts if start.attempt == attempt), None)


def saves(run: JobRun, attempt: int) -> Iterator[tuple[dict[str, Any], float | None]]:
    """Yield each save of an attempt: how it began, and when it ended (None: it never did)."""
    ends = events(run, attempt, "save_ended")
    for began in events(run, attempt, "save_began"):
        yield began, next((float(end["t"]) for end in ends if end["step"] == began["step"] and end["t"] >= began["t"]), None)


def phases(run: JobRun, submitted: float, lost_at: dict[int, float]) -> list[Phase]:
    """Return the job's life in order, without gaps. `lost_at`: when an attempt's machine was taken away without notice."""
    found: list[Phase] = []
    at = submitted
    for start in sorted(run.starts, key=lambda start: start.attempt):
        attempt = start.attempt
        found.append(Phase("waits", at, start.t, attempt))
        trains_at = moment(run, attempt, "first_step")
        mine = [float(line["t"]) for line in run.timeline if line["attempt"] == attempt]
        at = lost_at.get(attempt) or max([start.t, *mine])
        if trains_at is None:
            found.append(Phase("starts", start.t, at, attempt))
            continue
        found.append(Phase("starts", start.t, trains_at, attempt))
        for began, ended in saves(run, attempt):
            found.append(Phase("trains", trains_at, began["t"], attempt))
            trains_at = ended or at
            found.append(Phase("saves", began["t"], trains_at, attempt))
        if at - trains_at <= BETWEEN_S:
            found[-1] = replace(found[-1], end=at)
        else:
            found.append(Phase("trains", trains_at, at, attempt))
    return [phase for phase in found if phase.end > phase.begin]
