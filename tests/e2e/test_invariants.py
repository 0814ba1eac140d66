"""The check at the end of each test sees what it is there for: a record in which one thing is wrong is not passed."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from e2e_bed import Entry
from e2e_invariants import violations


def launch(launch_id: str = "L1", *nodes: str) -> Entry:
    return Entry(0, 0.0, "Launch", "", {"command": {"launch_id": launch_id, "nodes": list(nodes or ("n1",))}})


def bind(at: float, instance: str, node: str = "n1") -> Entry:
    return Entry(0, at, "BindInstance", "", {"command": {"instance_id": instance, "node": node}})


def requested(instance: str, launch_id: str = "L1") -> dict[str, Any]:
    return {"event": "requested", "t": 1.0, "instance_id": instance, "tags": {"holdfast:launch": launch_id}}


@dataclass
class Account:
    """What a bed would tell: here one job that was interrupted once, and one instance that is its node."""

    root: Path
    entries: list[Entry] = field(
        default_factory=lambda: [launch(), bind(2.0, "i-1"), Entry(0, 3.0, "JobRequeued", "", {"job_id": 7, "attempt": 0, "began": True})]
    )
    cloud_record: list[dict[str, Any]] = field(default_factory=lambda: [requested("i-1")])
    living: list[dict[str, Any]] = field(default_factory=lambda: [{"instance_id": "i-1", "state": "running", "ip": "127.77.0.1"}])
    state: str = "IDLE+CLOUD"
    comment: str = "holdfast: attempt 1 on n1; interrupted 1 time(s)"
    log: str = "all is well\n"
    reservations: str = "No reservations in the system\n"
    requeued_by_slurm: dict[int, int] = field(default_factory=dict)
    forgotten: frozenset[int] = frozenset()
    requeued_again: frozenset[int] = frozenset()
    jobs: tuple[Any, ...] = (SimpleNamespace(job_id=7),)
    faults: tuple[str, ...] = ()

    def journal(self, kind: str = "", job_id: int | None = None) -> list[Entry]:
        return [entry for entry in self.entries if entry.kind == kind and (job_id is None or entry.body.get("job_id") == job_id)]

    def record(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.cloud_record if line["event"] == event]

    def hook_faults(self) -> tuple[str, ...]:
        return self.faults

    @property
    def cloud(self) -> Any:
        return SimpleNamespace(instances=lambda: self.living)

    @property
    def slurm(self) -> Any:
        return SimpleNamespace(
            node=lambda name: {"NodeAddr": "127.77.0.1", "State": self.state},
            job=lambda job_id: {"Restarts": "1", "AdminComment": self.comment},
        )

    @property
    def sandbox(self) -> Any:
        (self.root / "controller.log").write_text(self.log)
        told = {"nodes": f"NodeName=n1 State={self.state}\n", "reservations": self.reservations}

        def run(command: list[str], *, check: bool = True) -> Any:
            return SimpleNamespace(stdout=told[command[2]])

        return SimpleNamespace(layout=SimpleNamespace(cloud=self.root, log=self.root), run=run)


WRONG: dict[str, dict[str, Any]] = {
    "stands in the journal twice": {"entries": [launch(), launch(), bind(2.0, "i-1")]},
    "is not in the journal": {"cloud_record": [requested("i-1"), requested("i-2", "L2")]},
    "brought 2 instances": {"cloud_record": [requested("i-1"), requested("i-2")]},
    "n1 was given to i-2 while i-1 lived": {
        "entries": [launch(), bind(2.0, "i-1"), bind(4.0, "i-2")],
        "cloud_record": [requested("i-1"), {"event": "terminated", "t": 5.0, "instance_id": "i-1"}],
    },
    "i-9 (running) is no node": {"living": [{"instance_id": "i-9", "state": "running", "ip": "127.77.0.9"}]},
    "and its node n1 is IDLE+CLOUD at": {"living": [{"instance_id": "i-1", "state": "running", "ip": "127.77.0.9"}]},
    "and its node n1 is IDLE+CLOUD+POWERED_DOWN": {"state": "IDLE+CLOUD+POWERED_DOWN"},
    "n1 is left IDLE+CLOUD+DRAIN": {"state": "IDLE+CLOUD+DRAIN"},
    "n1 is still IDLE+CLOUD+POWERING_UP": {"state": "IDLE+CLOUD+POWERING_UP"},
    "n1 is still IDLE+CLOUD+COMPLETING": {"state": "IDLE+CLOUD+COMPLETING"},
    "reservation holdfast-7 is left": {"reservations": "ReservationName=holdfast-7 StartTime=2026-11-27T23:00:00 Nodes=n1\n"},
    "was requeued 2 times": {
        "entries": [launch(), bind(2.0, "i-1"), *[Entry(0, 3.0, "JobRequeued", "", {"job_id": 7, "attempt": 0, "began": True})] * 2]
    },
    "was interrupted 1 times, and attempt 1 is told of 2": {"comment": "holdfast: attempt 1 on n1; interrupted 2 time(s)"},
    "was interrupted 1 times, and attempt 1 is told of 0": {"comment": "holdfast: attempt 1 on n1; interrupted 0 time(s)"},
    "hooks.log: not taken": {"faults": ("not taken",)},
    "an effect broke": {"log": '{"event": "an effect broke"}\n'},
}


@pytest.mark.parametrize("comment", ["attempt 1 on n1; interrupted 1 time(s)", "attempt 0 on n1; interrupted 0 time(s)"])
def test_nothing_is_wrong_where_nothing_is(comment: str, tmp_path: Path) -> None:
    """An attempt that ended before it could be announced leaves what the one before was told."""
    assert violations(Account(tmp_path, comment=f"holdfast: {comment}")) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("told", WRONG)
def test_sees(told: str, tmp_path: Path) -> None:
    found = violations(Account(tmp_path, **WRONG[told]))  # type: ignore[arg-type]
    assert [fault for fault in found if told in fault], found
