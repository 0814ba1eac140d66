"""What `run.steps` adds to a step of 1 ms: stretches of the bare loop and of a Run, in turns."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import holdfast
import torch

from bench.checkpoints_model import barrier

STEP_S = 0.001
WARM_STEPS = 100
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
    """Seconds and CPU seconds a step, of each stretch, by kind of step."""
    found = []
    steps = settings["steps"]
    for name, step in ((BUSY, _busy()), (SLEEP, _sleep)):
        for pair in range(settings["pairs"]):
            folder = Path(settings["folder"]) / f"{name}-{pair}"
            for way in ("bare", "run")[:: 1 if pair % 2 else -1]:
                barrier()
                took_s, cpu_s = _bare(step, steps) if way == "bare" else _run(step, steps, folder)
                found.append({"step": name, "pair": pair, "way": way, "us": took_s / steps * 1e6, "cpu_us": cpu_s / steps * 1e6})
    return {"stretches": found}


def _bare(step: Callable[[], None], steps: int) -> tuple[float, float]:
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    return time.perf_counter() - began, time.process_time() - cpu


def _run(step: Callable[[], None], steps: int, folder: Path) -> tuple[float, float]:
    """A stretch in the midst of a loop: finding the ranks, what is done once after the first step, and leaving are not a step's."""
    run = holdfast.Run(model=torch.nn.Linear(64, 64), directory=folder)
    loop = run.steps(10 * steps)
    for _ in range(WARM_STEPS):
        step()
        next(loop)
    barrier()
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
        next(loop)
    took = time.perf_counter() - began, time.process_time() - cpu
    loop.close()  # type: ignore[attr-defined]
    run.close()
    return took
