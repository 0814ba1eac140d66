"""What `run.steps` adds to a step of 1 ms: stretches of the bare loop and of a Run, in turns.

Two measures. Direct: what the loop spends between two bodies, and the CPU that other threads of the process take meanwhile, as if it all
came out of the steps. And the difference of neighbouring stretches, which sees everything, also what else the machine does.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import holdfast
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from bench.checkpoints_model import barrier

STEP_S = 0.001
WARM_STEPS = 300
"""Before a stretch of a Run is timed: the ranks' first meetings, and the buffers that are got ready in a thread, are once in a run."""
BUSY, SLEEP = "busy", "sleep"


def _busy() -> Callable[[], None]:
    """A fixed amount of work in kernels, as training is: what takes the processor away makes it longer."""
    a = torch.full((48, 48), 0.01)
    out = torch.empty_like(a)

    def work(count: int) -> None:
        for _ in range(count):
            torch.mm(a, a, out=out)

    def seconds(count: int) -> float:
        began = time.perf_counter()
        work(count)
        return time.perf_counter() - began

    count = max(1, round(1000 * STEP_S / min(seconds(1000) for _ in range(10))))
    return lambda: work(count)


def _sleep() -> None:
    time.sleep(STEP_S)


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Microseconds a step, of each stretch, by kind of step."""
    found = []
    steps = settings["steps"]
    for name, step in ((BUSY, _busy()), (SLEEP, _sleep)):
        for pair in range(settings["pairs"]):
            folder = Path(settings["folder"]) / f"{name}-{pair}"
            for way in ("bare", "run")[:: 1 if pair % 2 else -1]:
                barrier()
                taken = _bare(step, steps) if way == "bare" else _run(step, steps, folder)
                found.append({"step": name, "pair": pair, "way": way, **{key: seconds / steps * 1e6 for key, seconds in taken.items()}})
    return {"stretches": found}


def _bare(step: Callable[[], None], steps: int) -> dict[str, float]:
    began, threads = time.perf_counter(), _other_threads_s()
    for _ in range(steps):
        step()
    return {"us": time.perf_counter() - began, "threads_us": _other_threads_s() - threads}


def _other_threads_s() -> float:
    """CPU time of all threads of the process but this one."""
    return time.process_time() - time.thread_time()


def _leave_groups() -> None:
    """Each Run makes gloo groups of its own, whose threads go on polling: else those of a stretch would be counted with the next."""
    if dist.is_initialized():
        for group in list(distributed_c10d._world.pg_map):
            if group is not dist.group.WORLD:
                dist.destroy_process_group(group)


def _run(step: Callable[[], None], steps: int, folder: Path) -> dict[str, float]:
    """A stretch in the midst of a loop: finding the ranks, what is done once after the first step, and leaving are not a step's."""
    run = holdfast.Run(model=torch.nn.Linear(64, 64), directory=folder)
    loop = run.steps(10 * steps)
    for _ in range(WARM_STEPS):
        next(loop)
        step()
    next(loop)
    barrier()
    between, threads = 0.0, _other_threads_s()
    began = time.perf_counter()
    for _ in range(steps):
        step()
        left = time.perf_counter()
        next(loop)
        between += time.perf_counter() - left
    taken = {"us": time.perf_counter() - began, "between_us": between, "threads_us": _other_threads_s() - threads}
    loop.close()  # type: ignore[attr-defined]
    run.close()
    barrier()
    _leave_groups()
    return taken
