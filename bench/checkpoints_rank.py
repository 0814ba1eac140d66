"""One rank of a measurement of `bench/checkpoint`: a process that the command starts, and how it does."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

PARTS = ("saves", "memory", "loads", "steps")


def main(text: str) -> None:
    """Do what the settings (JSON) say; the figures go into `rank<r>.json`."""
    settings = json.loads(text)
    if settings["part"] not in PARTS:
        raise KeyError(settings["part"])
    warnings.simplefilter("ignore")
    import torch
    import torch.distributed as dist

    from bench import checkpoints_loads, checkpoints_saves, checkpoints_steps

    torch.set_num_threads(settings["threads"])
    measures: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "saves": checkpoints_saves.measure,
        "memory": checkpoints_saves.memory,
        "loads": checkpoints_loads.measure,
        "steps": checkpoints_steps.measure,
    }
    rank, world_size = settings["rank"], settings["world_size"]
    if world_size > 1:
        dist.init_process_group("gloo", init_method=f"file://{settings['folder']}/meeting", rank=rank, world_size=world_size)
    found = measures[settings["part"]](settings)
    (Path(settings["folder"]) / f"rank{rank}.json").write_text(json.dumps(found))
    if world_size > 1:
        dist.destroy_process_group()


def run_ranks(part: str, folder: Path, *, world_size: int, timeout_s: float, device: str = "cpu", **settings: Any) -> list[dict[str, Any]]:
    """Run one part on so many ranks; each rank's figures. Raises ValueError with what a rank said if it fails, TimeoutExpired.

    One rank has PyTorch's own number of threads, several share the cores.
    """
    folder.mkdir(parents=True)
    job = _job_directory(folder)
    threads = max(1, (os.cpu_count() or 1) // world_size)
    processes = []
    for rank in range(world_size):
        own = {"part": part, "folder": str(folder), "rank": rank, "world_size": world_size, "threads": threads, "device": device}
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "HOLDFAST", "OMP"))}
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size), "GLOO_SOCKET_IFNAME": "lo"}
        environment |= {"HOLDFAST_JOB_DIR": str(job)} if part == "steps" else {}
        command = [sys.executable, "-m", "bench.checkpoints_rank", json.dumps(own | settings)]
        with (folder / f"rank{rank}.log").open("wb") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=Path(__file__).parents[1]))
    try:
        codes = [process.wait(timeout_s) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for rank, code in enumerate(codes):
        if code != 0:
            said = (folder / f"rank{rank}.log").read_text()[-2000:]
            raise ValueError(f"{part}: rank {rank} ended with exit code {code}: {said}")
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world_size)]


def _job_directory(folder: Path) -> Path:
    """As Prolog and the node's agent make it, so that a Run looks for notices and reports as it does on a cluster."""
    path = folder / "job-directory"
    (path / "node").mkdir(parents=True)
    (path / "job").mkdir(mode=0o700)
    context = {"v": 1, "job_id": 1, "attempt": 0, "node": "bench", "nodes": ["bench"], "hazard_per_h": 0.05, "market": "spot"}
    (path / "node" / "context.json").write_text(json.dumps(context))
    return path


if __name__ == "__main__":
    main(sys.argv[1])
