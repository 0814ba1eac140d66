"""From the ranks' timings to figures and targets: pure."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bench.checkpoints_loads import FRESH
from bench.checkpoints_model import MIB
from bench.checkpoints_saves import ASYNC, HOLDFAST, PLAIN, SYNC
from bench.checkpoints_steps import BUSY
from bench.checkpoints_uploads import HOLDFAST as UPLOAD

EARLY, LATE = (1, 2), 5
TARGETS = {
    "blocked, save 1 / async": 0.5,
    "blocked, save 2 / async": 0.5,
    "blocked, from save 5 / async": 1.0,
    "blocked, from save 5 / plain copy": 1.5,
    "end to end / dcp.save": 1.0,
    "verify and load / dcp.load": 1.15,
    "run.steps, excess us a step": 20.0,
    "upload / raw client's best": 0.8,
}
"""At most; of the upload at least."""
AT_LEAST = {"upload / raw client's best"}

Rows = list[dict[str, Any]]


def slowest(ranks: list[Rows]) -> Rows:
    """One row of all ranks' for each measurement: training stands still until the last of them is through."""
    return [
        {key: max(row[key] for row in rows) if key.endswith("_s") else value for key, value in rows[0].items()}
        for rows in zip(*ranks, strict=True)
    ]


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, best and worst."""
    found = list(values)
    if not found:
        raise ValueError("nothing was measured")
    return {"median": statistics.median(found), "least": min(found), "most": max(found), "count": len(found)}


def ratios(
    rows: Rows, key: str, value: str, ours: str, other: str, among: Callable[[dict[str, Any]], bool] = lambda _row: True
) -> list[float]:
    """Ours by the other's, of the same repeat and round."""
    found: dict[tuple[int, int], dict[str, float]] = {}
    for row in rows:
        if among(row) and value in row:
            found.setdefault((row.get("repeat", 0), row["round"]), {})[row[key]] = row[value]
    return [pair[ours] / pair[other] for pair in found.values() if ours in pair and other in pair]


def saves(rows: Rows, share_bytes: int) -> dict[str, Any]:
    """Of one kind: how long training is blocked and a save takes, and the ratios that the targets are about."""
    gib = share_bytes / MIB / 1024
    ways: dict[str, dict[str, Any]] = {}
    for way in dict.fromkeys(row["way"] for row in rows):
        own = [row for row in rows if row["way"] == way]
        groups = {"save 1": [r for r in own if r["round"] == 1], "save 2": [r for r in own if r["round"] == 2]}
        groups["later"] = [row for row in own if row["round"] >= LATE]
        blocked = {name: spread(row["blocked_s"] for row in group) for name, group in groups.items() if group}
        total = [row["total_s"] for row in own if "total_s" in row and row["round"] > max(EARLY)]
        ways[way] = {"blocked_s": blocked, "blocked_s_per_gib": blocked["later"]["median"] / gib if "later" in blocked else None}
        ways[way] |= {"total_s": spread(total)} if total else {}
    against: dict[str, list[float]] = {}
    for number in EARLY:
        against[f"blocked, save {number} / async"] = ratios(
            rows,
            "way",
            "blocked_s",
            HOLDFAST,
            ASYNC,
            lambda row, number=number: row["round"] == number,  # type: ignore[misc]
        )
    against["blocked, from save 5 / async"] = ratios(rows, "way", "blocked_s", HOLDFAST, ASYNC, _late)
    against["blocked, from save 5 / plain copy"] = ratios(rows, "way", "blocked_s", HOLDFAST, PLAIN, _late)
    against["end to end / dcp.save"] = ratios(rows, "way", "total_s", HOLDFAST, SYNC)
    reported = [row["reported_s"] / row["blocked_s"] for row in rows if row["way"] == HOLDFAST]
    return {
        "ways": ways,
        "ratios": {name: spread(values) for name, values in against.items() if values},
        "reported_share": spread(reported),
    }


def _late(row: dict[str, Any]) -> bool:
    return bool(row["round"] >= LATE)


def loads(rows: Rows) -> dict[str, Any]:
    """Seconds of both, and their ratio, by what they load onto."""
    found: dict[str, Any] = {}
    for onto in dict.fromkeys(row["onto"] for row in rows):
        own = [row for row in rows if row["onto"] == onto]
        seconds = {way: spread(row["took_s"] for row in own if row["way"] == way) for way in dict.fromkeys(row["way"] for row in own)}
        found[onto] = {"s": seconds, "ratio": spread(ratios(own, "way", "took_s", "holdfast.Run", "dcp.load"))}
    return found


def steps(ranks: list[Rows]) -> dict[str, Any]:
    """What a Run adds to each kind of step, of the rank that it adds most to."""
    found = {}
    for step in dict.fromkeys(row["step"] for row in ranks[0]):
        by_rank = [_excess([row for row in rows if row["step"] == step]) for rows in ranks]
        found[step] = max(by_rank, key=lambda figures: figures["direct_us"]["median"])
    return found


def _excess(rows: Rows) -> dict[str, Any]:
    """Direct, of each stretch; and by pairs of neighbours, with the standard error of their mean."""
    pairs: dict[int, dict[str, dict[str, Any]]] = {}
    for row in rows:
        pairs.setdefault(row["pair"], {})[row["way"]] = row
    runs = [pair["run"] for pair in pairs.values()]
    threads = [pair["run"]["threads_us"] - pair["bare"]["threads_us"] for pair in pairs.values()]
    differences = [pair["run"]["us"] - pair["bare"]["us"] for pair in pairs.values()]
    return {
        "bare_us": spread(pair["bare"]["us"] for pair in pairs.values()),
        "between_us": spread(run["between_us"] for run in runs),
        "threads_us": spread(threads),
        "direct_us": spread(run["between_us"] + more for run, more in zip(runs, threads, strict=True)),
        "paired_us": spread(differences),
        "paired_mean_us": statistics.mean(differences),
        "paired_error_us": statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else 0.0,
    }


def uploads(rows: Rows) -> dict[str, Any]:
    """MiB/s of every client; ours by the best of the raw ones, that is whose median is the highest."""
    clients = {name: spread(row["mib_s"] for row in rows if row["client"] == name) for name in dict.fromkeys(row["client"] for row in rows)}
    best = max((name for name in clients if name != UPLOAD), key=lambda name: clients[name]["median"])
    return {"mib_s": clients, "best": best, "ratio": spread(ratios(rows, "client", "mib_s", UPLOAD, best))}


def verifications(rows: Rows) -> dict[str, Any]:
    """Seconds of each command."""
    return {name: spread(row["s"] for row in rows if row["command"] == name) for name in dict.fromkeys(row["command"] for row in rows)}


def judged(found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What each target is held against: its name, and of what (ranks), to a spread whose median counts."""
    rows: dict[str, dict[str, Any]] = {}
    for kind, figures in found["saves"].items():
        for name, value in figures["ratios"].items():
            rows[f"{name}: {kind}"] = value
    for kind, figures in found["loads"].items():
        for onto, value in figures.items():
            if onto == FRESH or "cold" not in kind:
                rows[f"verify and load / dcp.load: {kind}, {onto}"] = value["ratio"]
    for kind, figures in found["steps"].items():
        for step, value in figures.items():
            rows[f"run.steps, excess us a step: {kind}, {step}"] = value["direct_us"]
    if "uploads" in found:
        rows["upload / raw client's best: one rank"] = found["uploads"]["ratio"]
    return rows


def limit_of(name: str) -> tuple[float, bool]:
    """The target of a judged row, and whether it is a least."""
    target = name.partition(":")[0]
    return TARGETS[target], target in AT_LEAST


def met(rows: Mapping[str, Mapping[str, float]]) -> dict[str, bool]:
    """Which targets hold. What has no target (a sleeping step, a cold cache) is not among them."""
    found = {}
    for name, value in rows.items():
        limit, least = limit_of(name)
        if "cold" not in name and not (name.startswith("run.steps") and BUSY not in name):
            found[name] = value["median"] >= limit if least else value["median"] <= limit
    return found
