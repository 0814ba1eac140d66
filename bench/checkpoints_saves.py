"""The ways to save, taking turns in one process on the same state; and the memory of each, in processes of their own."""

import json
import mmap
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import holdfast
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from bench.checkpoints_model import DDP, MIB, App, Trained, barrier, synchronize

HOLDFAST, ASYNC, ASYNC_KEPT = "holdfast.Run", "dcp.async_save", "dcp.async_save, buffers kept"
SYNC, TORCH, PLAIN = "dcp.save", "torch.save", "plain copy, warm buffers"
BLOCKING = (HOLDFAST, ASYNC, ASYNC_KEPT)
WAYS = (*BLOCKING, SYNC, TORCH, PLAIN)
ALL_FROM_ROUND = 3
"""Only what is compared on the first two saves runs in the first two rounds: memory that others free would be warm already."""
PATIENCE_S = 120.0

Timing = dict[str, float]
"""`blocked_s`: for how long the training loop waits; `total_s`: until all of it is durable."""


def warm_up_s(state_mib: int) -> float:
    """How long training goes on before the first save, here: a few steps of a real run."""
    return 2.0 + 4.0 * state_mib / 1024


class HoldfastWay:
    """A Run with a save at every second step; the steps between do nothing but let it end."""

    def __init__(self, trained: Trained, folder: Path) -> None:
        self._folder = folder
        self.run = holdfast.Run(model=trained.model, optimizer=trained.optimizer, directory=folder, every_steps=2, keep=1)
        self.run.start()

    def save(self, _folder: Path) -> Timing:
        """One save: `step_done` timed from outside, its end by the record of the run."""
        if self.run.step % 2 == 0:
            self.run.step_done()
            barrier()
        began, wall = time.perf_counter(), time.time()
        self.run.step_done()
        blocked_s = time.perf_counter() - began
        ended = self._ended(self.run.step)
        self._pruned()
        return {"blocked_s": blocked_s, "total_s": ended["t"] - wall, "reported_s": ended["blocked_s"]}

    def _ended(self, step: int) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            for line in (self._folder / "attempts.jsonl").read_text().splitlines():
                event: dict[str, Any] = json.loads(line)
                if event["event"] == "save_ended" and event["step"] == step:
                    if not event["ok"]:
                        raise ValueError(f"the save at step {step} failed: {event['error']}")
                    return event
            time.sleep(0.01)
        raise TimeoutError(f"the save at step {step} does not end")

    def _pruned(self) -> None:
        """Wait until the older checkpoint is gone."""
        end = time.monotonic() + PATIENCE_S
        while len(list(self._folder.glob("step-*"))) > 1 and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.05)

    def close(self) -> None:
        """End the run."""
        self.run.finish()
        self.run.close()


class PlainCopy:
    """The same bytes into memory that is there already: the floor. One mapping in huge pages, as good as memory gets; pinned for a GPU."""

    def __init__(self, trained: Trained, share_bytes: int) -> None:
        self._sources, self._device = trained.share_tensors(), trained.device
        if share_bytes < sum(source.nbytes for source in self._sources):  # under DDP each rank's share is a part
            self._sources = _first(self._sources, share_bytes)
        self.size_bytes = sum(source.nbytes for source in self._sources)
        memory = mmap.mmap(-1, self.size_bytes + mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        whole = torch.frombuffer(memory, dtype=torch.uint8).zero_()
        if self._device.type == "cuda":
            torch.cuda.cudart().cudaHostRegister(whole.data_ptr(), whole.nbytes, 0)  # type: ignore[no-untyped-call]
        self._targets, end = [], 0
        for source in sorted(self._sources, key=lambda tensor: -tensor.element_size()):
            self._targets.append((whole[end : end + source.nbytes].view(source.dtype).view(source.shape), source))
            end += source.nbytes

    def save(self, _folder: Path) -> Timing:
        """Copy."""
        began = time.perf_counter()
        with torch.no_grad():
            for target, source in self._targets:
                target.copy_(source, non_blocking=True)
        synchronize(self._device)
        return {"blocked_s": time.perf_counter() - began}


def _first(tensors: list[torch.Tensor], size_bytes: int) -> list[torch.Tensor]:
    """The largest tensors that make up about so many bytes."""
    found, left = [], size_bytes
    for tensor in sorted(tensors, key=lambda tensor: -tensor.nbytes):
        if tensor.nbytes <= left:
            found.append(tensor)
            left -= tensor.nbytes
    return found


def _asynchronous(trained: Trained, stager: DefaultStager | None) -> Callable[[Path], Timing]:
    app = App(trained)

    def save(folder: Path) -> Timing:
        began = time.perf_counter()
        future: Any = state_dict_saver.async_save({"app": app}, checkpoint_id=folder, async_stager=stager)
        blocked_s = time.perf_counter() - began
        future.result()
        return {"blocked_s": blocked_s, "total_s": time.perf_counter() - began}

    return save


def _kept(trained: Trained) -> DefaultStager:
    cuda = trained.device.type == "cuda"
    return DefaultStager(
        StagingOptions(use_pinned_memory=cuda, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=cuda)
    )


def _synchronous(trained: Trained) -> Callable[[Path], Timing]:
    app = App(trained)

    def save(folder: Path) -> Timing:
        began = time.perf_counter()
        state_dict_saver.save({"app": app}, checkpoint_id=folder)
        took_s = time.perf_counter() - began
        return {"blocked_s": took_s, "total_s": took_s}

    return save


def _torch_save(trained: Trained, kind: str) -> Callable[[Path], Timing]:
    rank = dist.get_rank() if dist.is_initialized() else 0

    def save(folder: Path) -> Timing:
        began = time.perf_counter()
        if rank == 0 or kind != DDP:
            folder.mkdir(exist_ok=True)
            torch.save({"model": trained.model.state_dict(), "optimizer": trained.optimizer.state_dict()}, folder / f"{rank}.pt")
        took_s = time.perf_counter() - began
        return {"blocked_s": took_s, "total_s": took_s}

    return save


def _ways(trained: Trained, kind: str, run: HoldfastWay, share_bytes: int) -> dict[str, Callable[[Path], Timing]]:
    return {
        HOLDFAST: run.save,
        ASYNC: _asynchronous(trained, None),
        ASYNC_KEPT: _asynchronous(trained, _kept(trained)),
        SYNC: _synchronous(trained),
        TORCH: _torch_save(trained, kind),
        PLAIN: PlainCopy(trained, share_bytes).save,
    }


def turns(number: int, repeat: int) -> list[str]:
    """Who saves in a round, and in which order: everybody is first, and after everybody, at some time."""
    ways = list(BLOCKING if number < ALL_FROM_ROUND else WAYS)
    place = (number + repeat) % len(ways)
    return ways[place:] + ways[:place]


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """All ways, several rounds. The first round is everybody's first save."""
    kind, folder = settings["kind"], Path(settings["folder"])
    trained = Trained(kind, settings["state_mib"], settings["device"])
    run = HoldfastWay(trained, folder / "holdfast")
    trained.step()
    run.run.step_done()
    state_bytes = sum(tensor.nbytes for tensor in trained.share_tensors())
    share_bytes = state_bytes // (dist.get_world_size() if kind == DDP else 1)
    ways = _ways(trained, kind, run, share_bytes)
    time.sleep(warm_up_s(settings["state_mib"]))
    found = []
    for number in range(1, settings["rounds"] + 1):
        for name in turns(number, settings["repeat"]):
            target = folder / f"{number}"
            synchronize(trained.device)
            barrier()
            found.append({"way": name, "round": number, **ways[name](target)})
            barrier()
            if not dist.is_initialized() or dist.get_rank() == 0:
                shutil.rmtree(target, ignore_errors=True)
    run.close()
    return {"saves": found, "state_bytes": state_bytes, "share_bytes": share_bytes}


def memory(settings: dict[str, Any]) -> dict[str, Any]:
    """Peak of resident memory that one way adds to the state, over three saves."""
    kind, folder, name = settings["kind"], Path(settings["folder"]), settings["way"]
    trained = Trained(kind, settings["state_mib"], settings["device"])
    run = HoldfastWay(trained, folder / "holdfast") if name == HOLDFAST else None
    trained.step()
    barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
    before = _status_bytes("VmRSS")
    if run is not None:
        run.run.step_done()
        save: Callable[[Path], Timing] = run.save
        time.sleep(warm_up_s(settings["state_mib"]))
    elif name in (ASYNC, ASYNC_KEPT):
        save = _asynchronous(trained, _kept(trained) if name == ASYNC_KEPT else None)
    else:
        save = _synchronous(trained) if name == SYNC else _torch_save(trained, kind)
    for number in range(3):
        barrier()
        save(folder / f"{number}")
        barrier()
        shutil.rmtree(folder / f"{number}", ignore_errors=True)
    added = _status_bytes("VmHWM") - before
    if run is not None:
        run.close()
    return {"added_mib": added / MIB, "state_mib": sum(tensor.nbytes for tensor in trained.share_tensors()) / MIB}


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1]) * 1024
