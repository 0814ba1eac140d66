"""What a turn of the controller's loop costs by itself: 1,000 nodes, 2,000 jobs, in memory. Nothing else of the loop runs meanwhile.

CPU time of the thread is what is counted: what others do on the machine meanwhile says nothing of the loop.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from holdfast_common.notice import Notice, NoticeKind
from holdfast_common.views import JobView, NodeView
from holdfast_controller import events as e
from holdfast_controller.decide import decide
from holdfast_controller.fleet import Fleet
from holdfast_controller.journal import dump_fleet
from holdfast_controller.plan import Plan, Plans
from holdfast_controller.providers.base import Instance, Market, Pool
from holdfast_controller.reconcile import job_news, node_news
from holdfast_slurm.parse import COLUMNS, Lines, parse_jobs

NODES, JOBS, LISTED = 1000, 2000, 10_000
WIDTH = 1024
REPEATS = 7
AT = 1.8e9


def measure() -> dict[str, float]:
    """Return seconds: the median of several turns for what happens all the time, the one turn for what happens once."""
    fleet, plans = _fleet(), _plans()
    _settle(fleet, plans, AT + 1)
    views = tuple(replace(node.view) for node in fleet.nodes.values() if node.view is not None)
    jobs = tuple(replace(job.view) for job in fleet.jobs.values())
    found = {
        "decide, at rest": _median(lambda: decide(fleet, plans, AT + 20)),
        "news of a look at Slurm": _median(lambda: (node_news(fleet, views, AT + 3), job_news(fleet, jobs, AT + 3))),
        "a snapshot as text (in a thread)": _median(lambda: dump_fleet(fleet)),
    }
    rows = b"".join(_row(number) for number in range(1, LISTED + 1))
    known: Lines = {}
    found["squeue's 10,000 jobs, all new (in a thread)"] = _once(lambda: parse_jobs(rows, WIDTH, known))
    found["squeue's 10,000 jobs, known (in a thread)"] = _median(lambda: parse_jobs(rows, WIDTH, known))
    notices = [Notice(f"notice-{number}", NoticeKind.PREEMPT, AT + 124, AT + 4, "spot") for number in range(NODES)]
    received = [e.NoticeReceived(AT + 4, name, notice) for name, notice in zip(fleet.nodes, notices, strict=True)]
    found["1,000 notices taken in"] = _once(lambda: [fleet.apply(event) for event in received])
    found["decide, all nodes reclaimed"] = _median(lambda: decide(fleet, plans, AT + 5))
    fresh = Fleet(epoch="bench", cloud_listed=True)
    fresh.manage(frozenset(plans.by_node))
    fresh.apply(e.NodesRequested(AT, tuple(fresh.nodes), 1))
    found["decide, 1,000 nodes asked for"] = _median(lambda: decide(fresh, plans, AT + 1))
    return found


def _median(work: Callable[[], object]) -> float:
    return sorted(_once(work) for _ in range(REPEATS))[REPEATS // 2]


def _once(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def _plans() -> Plans:
    pool = Pool("a", "aws", "r", "a", "g1", Market.SPOT)
    plan = Plan("spot", "gpu", (pool,))
    return Plans({f"spot-{number}": plan for number in range(1, NODES + 1)})


def _fleet() -> Fleet:
    fleet = Fleet(epoch="bench")
    fleet.manage(frozenset(_plans().by_node))
    fleet.apply(e.CloudListed(AT))
    fleet.looked(AT, after_outage=True)
    for number, name in enumerate(fleet.nodes):
        iid, address = f"i-{number}", f"10.0.{number // 250}.{number % 250}"
        fleet.apply(
            e.InstanceChanged(AT, Instance(iid, f"hf-{number}", "aws/r/a/g1/spot", "running", address, tags={"holdfast:nodes": name}))
        )
        fleet.apply(e.AgentArrived(AT, iid, f"boot-{number}", f"hf-{number}", address, name))
        fleet.apply(e.NodeChanged(AT, NodeView(name, "ALLOCATED", frozenset({"CLOUD"}), "", address, ("spot",), AT)))
    for number, name in enumerate([*fleet.nodes, *[""] * (JOBS - NODES)], 1):
        state = "RUNNING" if name else "PENDING"
        fleet.apply(e.JobChanged(AT, JobView(number, str(number), state, partition="spot", nodes=(name,) if name else (), priority=1)))
    return fleet


def _settle(fleet: Fleet, plans: Plans, now: float) -> None:
    command_id = 0
    while due := decide(fleet, plans, now):
        for command in due:
            command_id += 1
            fleet.apply(e.CommandIssued(now, command_id, command))
            fleet.apply(e.CommandFinished(now, command_id, command.key, "ok", "", 1.0, command.refs()))


def _row(number: int) -> bytes:
    said = {"JobID": str(number), "ArrayJobID": str(number), "State": "PENDING", "Partition": "spot", "UserName": "ann", "Requeue": "1"}
    zero = {"HetJobID", "RestartCnt", "BatchFlag", "UserID", "NumNodes", "PriorityLong", "Nice", "exit_code"}
    cells = [said.get(name, "0" if name in zero else "N/A").ljust(width) for name, width in COLUMNS]
    return "".join(cells).encode() + b" " * WIDTH + b"\n"
