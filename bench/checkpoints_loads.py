"""Resuming from a checkpoint that is verified first, beside `torch.distributed.checkpoint.load`, which does not."""

import os
import time
from pathlib import Path
from typing import Any

import holdfast
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver

from bench.checkpoints_model import App, Trained, barrier, synchronize
from bench.checkpoints_saves import HoldfastWay

FRESH, IN_PLACE = "new optimizer", "optimizer with state"


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Both in turns, first onto an optimizer as a script makes it, then onto one that has its state."""
    folder = Path(settings["folder"])
    trained = Trained(settings["kind"], settings["state_mib"], settings["device"])
    run = HoldfastWay(trained, folder / "holdfast")
    trained.step()
    run.run.step_done()
    run.save(folder)
    run.close()
    state_dict_saver.save({"app": App(trained)}, checkpoint_id=folder / "dcp")
    found = []
    for number in range(settings["loads"]):
        for onto in (FRESH, IN_PLACE) if settings["in_place"] else (FRESH,):
            for name in ("holdfast.Run", "dcp.load")[:: 1 if number % 2 else -1]:
                if onto == FRESH:
                    trained.optimizer = trained.new_optimizer()
                if settings["cold"]:
                    forget(folder)
                synchronize(trained.device)
                barrier()
                timing = _resume(trained, folder / "holdfast") if name == "holdfast.Run" else _load(trained, folder / "dcp")
                found.append({"way": name, "onto": onto, "round": number + 1, **timing})
                barrier()
    return {"loads": found}


def _resume(trained: Trained, folder: Path) -> dict[str, float]:
    run = holdfast.Run(model=trained.model, optimizer=trained.optimizer, directory=folder, every_steps=10**6)
    began = time.perf_counter()
    run.start()
    synchronize(trained.device)
    took_s = time.perf_counter() - began
    if run.step != 2:
        raise ValueError(f"resumed at step {run.step} where 2 was saved")
    run.finish()
    run.close()
    return {"took_s": took_s}


def _load(trained: Trained, folder: Path) -> dict[str, float]:
    began = time.perf_counter()
    state_dict_loader.load({"app": App(trained)}, checkpoint_id=folder)
    synchronize(trained.device)
    return {"took_s": time.perf_counter() - began}


def forget(folder: Path) -> None:
    """Have the kernel drop the files' pages, as after a reboot; of a tmpfs there is nothing to drop."""
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)
