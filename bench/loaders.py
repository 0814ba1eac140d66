"""`bench/loader`: what a position that can be resumed costs, beside PyTorch's DataLoader. Exit status: 0 all targets met, else 1."""

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from holdfast.data import Loader
from holdfast.data.order import Order
from holdfast.data.samples import seed_generators, untouched_generators
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from bench import program

TARGETS = {"resume_at_1e9_s": 0.1, "order_mib": 1.0, "main_cpu_ratio": 1.2}
"""At most: until the first batch at the billionth sample is there, no workers; memory of an order of 100 million samples; CPU
time of the training process for a batch, of DataLoader's, with two workers."""
SAMPLES, BATCH, WORKERS = 16_384, 256, 2
ORDERS = {
    "Loader": ("from holdfast.data.order import Order; o = Order({n}, 0, True); [o.sample(p) for p in range(256)]", 10**8),
    "torch.randperm": ("import torch; o = torch.randperm({n}, generator=torch.Generator().manual_seed(0))", 10**8),
    "random.shuffle of a list": ("import random; o = list(range({n})); random.Random(0).shuffle(o)", 4 * 10**6),
}
PEAK = """
import time
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


class Pictures:
    """Small images in memory, flipped and shifted by chance: a few calls of PyTorch a sample, as little as any real data set does."""

    def __init__(self) -> None:
        self.images = torch.zeros(1000, 3, 32, 32, dtype=torch.uint8)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> torch.Tensor:
        image = self.images[index % 1000].float()
        if random.random() < 0.5:
            image = image.flip(2)
        return image.roll((int(torch.randint(-4, 5, ())), int(numpy.random.randint(-4, 5))), (1, 2))


class Endless:
    """A data set of two billion samples, which cost nothing."""

    def __len__(self) -> int:
        return 2 * 10**9

    def __getitem__(self, index: int) -> int:
        return index


def epoch(batches: Any) -> dict[str, float]:
    """Seconds of an epoch: on the clock, and of CPU in the training process and in its workers, which have ended by then."""
    began, main, workers = time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    count = sum(1 for _ in batches)
    took, main = time.perf_counter() - began, time.process_time() - main
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - workers.ru_utime - workers.ru_stime
    return {"samples_per_s": SAMPLES / took, "main_us_per_batch": main / count * 1e6, "worker_us_per_sample": spent / SAMPLES * 1e6}


def throughput(repeats: int, workers: int) -> dict[str, dict[str, float]]:
    """The loaders take turns, so that what else the machine does meets all of them."""
    data: Any = Pictures()
    options: dict[str, Any] = {"num_workers": workers}
    made: dict[str, Callable[[], Any]] = {
        "DataLoader": lambda: DataLoader(data, BATCH, shuffle=True, drop_last=True, **options),
        "Loader, seed_samples=False": lambda: Loader(data, BATCH, seed_samples=False, **options),
        "Loader": lambda: Loader(data, BATCH, **options),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in made}
    for _ in range(repeats):
        for name, make in made.items():
            found[name].append(epoch(make()))
    return {name: {key: statistics.median(turn[key] for turn in turns) for key in turns[0]} for name, turns in found.items()}


def orders() -> dict[str, dict[str, float]]:
    """Time until an epoch's first sample is known, and memory, each in a process of its own."""
    found = {}
    for name, (code, size) in ORDERS.items():
        imports, _, work = code.format(n=size).partition("; ")
        script = f"{imports}\n{PEAK}\na, t = peak(), time.perf_counter()\n{work}\nprint(time.perf_counter() - t, (peak() - a) / 1024)"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        seconds, mib = map(float, done.stdout.split())
        found[name] = {"samples": size, "s": seconds, "mib": mib}
    return found


def each_us(work: Callable[[int], object], count: int = 20_000) -> float:
    """Microseconds of CPU for one call."""
    began = time.process_time()
    for number in range(count):
        work(number)
    return (time.process_time() - began) / count * 1e6


def guarded(_: int) -> None:
    """What a batch without workers costs beside its samples."""
    with untouched_generators():
        pass


def resume_s() -> float:
    """Seconds from a state at the billionth sample to the batch there."""
    next(iter(DataLoader([0])))  # type: ignore[arg-type]  # loads what the first one loads
    loader = Loader(Endless(), BATCH)
    began = time.perf_counter()
    loader.load_state_dict({**loader.state_dict(), "samples": 10**9})
    next(iter(loader))
    return time.perf_counter() - began


def measure(options: argparse.Namespace, folder: Path, say: program.Say) -> dict[str, Any]:
    """Everything, as `program.run` wants it."""
    load, order = os.getloadavg()[0], Order(10**8, 0, True)
    say("orders")
    found: dict[str, Any] = {"orders": orders(), "resume_at_1e9_s": resume_s()}
    say("parts")
    with untouched_generators():
        found["us"] = {
            "a sample's place in the order": each_us(order.sample),
            "a sample's seeds": each_us(lambda number: seed_generators(0, 0, number)),
            "a batch without workers: generators kept and put back": each_us(guarded),
        }
    for workers in (WORKERS, 0):
        say(f"epochs, {workers} workers")
        found[f"workers_{workers}"] = throughput(options.repeats, workers)
    turns = found[f"workers_{WORKERS}"]
    found["main_cpu_ratio"] = turns["Loader"]["main_us_per_batch"] / turns["DataLoader"]["main_us_per_batch"]
    found["order_mib"] = found["orders"]["Loader"]["mib"]
    found["targets_met"] = {name: found[name] <= most for name, most in TARGETS.items()}
    return found | {"machine": program.machine(load)}


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print tables."""
    table = Table("order", "samples", "s", "MiB", title="An epoch's order, until its first 256 samples are known")
    for name, row in found["orders"].items():
        table.add_row(name, f"{row['samples']:.0e}", f"{row['s']:.4f}", f"{row['mib']:.1f}")
    console.print(table)
    for workers in (WORKERS, 0):
        title = f"{SAMPLES} samples in batches of {BATCH}, {workers} workers (medians)"
        table = Table("", "samples/s", "training process, us CPU a batch", "workers, us CPU a sample", title=title)
        for name, row in found[f"workers_{workers}"].items():
            table.add_row(name, f"{row['samples_per_s']:.0f}", f"{row['main_us_per_batch']:.0f}", f"{row['worker_us_per_sample']:.1f}")
        console.print(table)
    for name, value in found["us"].items():
        console.print(f"{name}: {value:.1f} us", highlight=False)
    for name, met in found["targets_met"].items():
        console.print(f"target {name} <= {TARGETS[name]:g}: {found[name]:.3g}, {'met' if met else 'MISSED'}", highlight=False)
    console.print(found["machine"], style="dim", highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="bench/loader", description="holdfast.data.Loader beside PyTorch's DataLoader.")
    parser.add_argument("--repeats", type=int, default=5, help="epochs of each loader (5)")
    program.add_options(parser, "loader")
    return program.run("loader", parser.parse_args(arguments), measure, show, width=120)


if __name__ == "__main__":
    sys.exit(main())
