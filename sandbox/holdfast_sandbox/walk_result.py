"""What came of a walk: each attempt, what it cost, and whether every promise held. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

from holdfast_sandbox.history.attempts import moment, reached, step_of
from holdfast_sandbox.history.machines import SECONDS_PER_HOUR, Machine, entries, holder, machines, nodes_of
from holdfast_sandbox.history.model import JobRun, JournalEntry
from holdfast_sandbox.walk_events import Line
from holdfast_sandbox.zones import SandboxZone

End = Literal["finished", "notice", "loss", "other"]
ENDS: dict[End, str] = {
    "finished": "finished",
    "notice": "notice, saved",
    "loss": "lost without notice",
    "other": "ended otherwise",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """Everything that was recorded of one walk. Times are Unix seconds."""

    run: JobRun
    journal: Sequence[JournalEntry]
    cloud: Sequence[dict[str, Any]]
    zones: Sequence[SandboxZone]
    ended: float
    """When the records were read; what ran then is charged up to here."""
    digest: str
    """Of a run that nothing disturbs."""
    lines: Sequence[Line] = ()
    trouble: Sequence[str] = ()
    """What kept the walk from its end."""
    leftovers: list[str] = field(default_factory=list)
    """Command lines of processes that outlived the sandbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt of the job."""

    number: int
    zones: tuple[str, ...]
    nodes: tuple[str, ...]
    began: float
    """Unix seconds: the first line of its batch script."""
    ran_s: float
    ended_by: End
    resumed: int
    """The step from which it went on."""
    reached: int
    lost: int
    """Steps that the next attempt did again."""
    spot_usd: float
    on_demand_usd: float
    """What the same machines would have cost in the same time."""


def attempts(walked: Walked) -> list[Attempt]:
    """Return the attempts whose batch script began, in order."""
    run = walked.run
    begins = {start.attempt: start.t for start in reversed(run.starts)}
    ends = {number: _end(walked, number, began) for number, began in begins.items()}
    money = _money(walked, ends)
    labels = {zone.name: zone.label for zone in walked.zones}
    found = []
    for number, after in pairwise([*sorted(begins), None]):  # some attempts of Slurm's counting never begin
        assert number is not None
        here = step_of(run, number, "resumed") or 0
        at = max(here, reached(run, number) or 0)
        following = None if after is None else step_of(run, after, "resumed")
        found.append(
            Attempt(
                number=number,
                zones=tuple(
                    dict.fromkeys(labels.get(machine.zone, machine.zone) for machine in _machines_of(walked, number, begins[number]))
                ),
                nodes=nodes_of(walked, run.job_id, number),
                began=begins[number],
                ran_s=ends[number] - begins[number],
                ended_by=_ended_by(walked, number, begins[number], ends[number]),
                resumed=here,
                reached=at,
                lost=0 if following is None else max(0, at - following),
                spot_usd=money.get(number, (0.0, 0.0))[0],
                on_demand_usd=money.get(number, (0.0, 0.0))[1],
            )
        )
    return found


def failures(walked: Walked, seen: Sequence[Attempt]) -> list[str]:
    """Return what was promised and did not hold."""
    run, broken = walked.run, list(walked.trouble)
    state = run.slurm.get("JobState", "unknown")
    if state != "COMPLETED":
        broken.append(f"job {run.job_id} is {state} instead of COMPLETED")
    elif run.outcome.get("digest") != walked.digest:
        broken.append(f"its final state is not that of an undisturbed run: step {run.outcome.get('step')} of {run.total_steps}")
    for attempt in seen:
        if attempt.ended_by == "notice" and attempt.lost:
            broken.append(f"attempt {attempt.number} had its notice, and {attempt.lost} steps were lost")
    return [*broken, *(f"a process outlived the sandbox: {each}" for each in walked.leftovers)]


def table(seen: Sequence[Attempt]) -> str:
    """Return the attempts as a table, with a last line of sums."""
    head = ("attempt", "where", "nodes", "ran", "ended by", "steps", "lost", "spot USD", "on demand")
    rows = [_row(attempt) for attempt in seen]
    total = ("", "", "", f"{sum(each.ran_s for each in seen):.1f} s", "", "", str(sum(each.lost for each in seen)), *_sums(seen))
    widths = [max(len(row[column]) for row in (head, *rows, total)) for column in range(len(head))]
    right = (0, 3, 6, 7, 8)
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows, total)
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1].rstrip()])


def result(walked: Walked, seen: Sequence[Attempt], broken: Sequence[str], market: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything as one JSON object."""
    return {
        "v": 1,
        "passed": not broken,
        "failures": list(broken),
        "market": dict(market),
        "job": {"id": walked.run.job_id, "nodes": walked.run.nodes, "steps": walked.run.total_steps, **walked.run.outcome},
        "attempts": [_rounded(asdict(attempt)) for attempt in seen],
        "lost_steps": sum(attempt.lost for attempt in seen),
        "spot_usd": round(sum(attempt.spot_usd for attempt in seen), 6),
        "on_demand_usd": round(sum(attempt.on_demand_usd for attempt in seen), 6),
        "events": [_rounded(asdict(line)) for line in walked.lines],
    }


def verdict(seen: Sequence[Attempt], broken: Sequence[str]) -> str:
    """Return the last words."""
    if broken:
        return "\n".join([f"FAILED: {len(broken)} findings", *(f"  - {each}" for each in broken)])
    notices = sum(attempt.ended_by == "notice" for attempt in seen)
    told = (
        f"{notices} reclaims with notice, no step lost at any of them" if notices else "the recorded market took no machine back meanwhile"
    )
    spot, on_demand = (sum(values) for values in zip(*((each.spot_usd, each.on_demand_usd) for each in seen), strict=True))
    share = f" Spot cost {100 * spot / on_demand:.0f} % of what the same machines cost on demand." if on_demand else ""
    return f"The job is done, its final state that of an undisturbed run: {told}.{share}"


def _end(walked: Walked, number: int, began: float) -> float:
    """When an attempt was over: its last record, or the end of its machine where that came without notice."""
    mine = [float(line["t"]) for line in walked.run.timeline if line["attempt"] == number]
    killed = [machine.killed for machine in _machines_of(walked, number, began) if machine.killed and machine.notice is None]
    return max([began, *mine, *killed])


def _ended_by(walked: Walked, number: int, began: float, ended: float) -> End:
    if moment(walked.run, number, "done") is not None:
        return "finished"
    used = _machines_of(walked, number, began)
    nodes = nodes_of(walked, walked.run.job_id, number)
    noticed = (entry for entry in entries(walked, "NoticeReceived") if entry.body["node"] in nodes)
    if any(began - 5 <= entry.at <= ended + 1 for entry in noticed):
        return "notice"
    return "loss" if any(machine.killed is not None for machine in used) else "other"


def _machines_of(walked: Walked, number: int, began: float) -> list[Machine]:
    """The machines on which an attempt began."""
    found = (holder(walked, node, began) for node in nodes_of(walked, walked.run.job_id, number))
    return [machine for machine in found if machine is not None]


def _money(walked: Walked, ends: Mapping[int, float]) -> dict[int, tuple[float, float]]:
    """Spot and on-demand cost by attempt. A machine's time is the attempt's that used it, and up to its end the last one's of several."""
    begins = {start.attempt: start.t for start in reversed(walked.run.starts)}
    users: dict[str, list[int]] = {}
    for number in sorted(ends):
        for machine in _machines_of(walked, number, begins[number]):
            users.setdefault(machine.instance_id, []).append(number)
    on_demand = {zone.name: zone.on_demand_usd_h for zone in walked.zones}
    found: dict[int, tuple[float, float]] = {}
    for machine in machines(walked).values():
        numbers = users.get(machine.instance_id) or [_next_attempt(ends, machine.requested)]
        for number, seconds in _shares(machine, numbers, ends, walked.ended):
            whole = machine.hours(walked.ended) * SECONDS_PER_HOUR
            spot, other = found.get(number, (0.0, 0.0))
            spot += machine.cost_usd(walked.ended) * seconds / whole if whole else 0.0
            found[number] = spot, other + on_demand.get(machine.zone, 0.0) * seconds / SECONDS_PER_HOUR
    return found


def _next_attempt(ends: Mapping[int, float], at: float) -> int:
    """Return the attempt for which something was bought that none used: the first that had not ended then."""
    return min((number for number, end in ends.items() if end >= at), default=max(ends, default=0))


def _shares(machine: Machine, numbers: Sequence[int], ends: Mapping[int, float], now: float) -> Iterable[tuple[int, float]]:
    if machine.running is None:
        return
    since, until = machine.running, machine.gone or now
    for number in numbers:
        end = until if number == numbers[-1] else min(until, max(since, ends.get(number, until)))
        yield number, end - since
        since = end


def _row(attempt: Attempt) -> tuple[str, ...]:
    ended = ENDS[attempt.ended_by]
    return (
        str(attempt.number),
        " + ".join(attempt.zones),
        ", ".join(attempt.nodes),
        f"{attempt.ran_s:.1f} s",
        ended,
        f"{attempt.resumed} to {attempt.reached}",
        str(attempt.lost),
        f"{attempt.spot_usd:.5f}",
        f"{attempt.on_demand_usd:.5f}",
    )


def _sums(seen: Sequence[Attempt]) -> tuple[str, str]:
    return f"{sum(each.spot_usd for each in seen):.5f}", f"{sum(each.on_demand_usd for each in seen):.5f}"


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in plain.items()}
