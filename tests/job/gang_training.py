"""What the ranks of a gang do: train a small model through the public API, and what a test wants done in the body of a step."""

import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import holdfast
import holdfast.data
import holdfast.sharded
import torch
import torch.distributed as dist
import torch.distributed.checkpoint.state_dict as whole_state
from gang_settings import BATCH, SAMPLES, Settings
from holdfast import faults
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel


class Numbers(torch.utils.data.Dataset[tuple[int, torch.Tensor]]):
    """Sample n is a vector that follows from n."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        return index, torch.randn(6, generator=torch.Generator().manual_seed(index))


class Noise:
    """A loader whose state is each rank's own."""

    def __init__(self, rank: int) -> None:
        self.generator = torch.Generator().manual_seed(100 + rank)

    def endless(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield torch.arange(0), torch.rand(4, 6, generator=self.generator)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.generator.set_state(state["generator"])


def warm() -> None:
    """Load now what every rank would load after the fork."""
    model = nn.Linear(1, 1)
    torch.optim.AdamW(model.parameters())
    whole_state.get_model_state_dict(model)


def build(kind: str) -> tuple[nn.Module, nn.Module]:
    """The model, and as what it is run."""
    torch.manual_seed(0)
    if kind == "dropout":
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    else:
        model = nn.Sequential(nn.Linear(6, 15), nn.Tanh(), nn.Linear(15, 1))  # 15: FSDP2's shards are uneven
    if kind == "fsdp":
        for layer in (model[0], model):
            fully_shard(layer)
    return model, DistributedDataParallel(model) if kind in ("ddp", "dropout") else model


def run(settings: Settings, rank: int) -> None:
    """Be one rank, until its loop is over."""
    environment = {"RANK": str(rank), "WORLD_SIZE": str(settings["ranks"]), "HOLDFAST_JOB_DIR": settings["nodes"][rank]}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(settings["port"]), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ.update(environment | settings["environment"].get(str(rank), {}))
    dist.init_process_group("gloo")
    with (Path(settings["out"]) / f"rank{rank}.jsonl").open("a", buffering=1) as out:
        train(settings, rank, lambda line: print(json.dumps(line), file=out))
    dist.destroy_process_group()


def train(settings: Settings, rank: int, tell: Callable[[dict[str, Any]], None]) -> None:
    kind = settings["kind"]
    model, runs_as = build(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=64)
    loader: Any = Noise(rank) if kind == "dropout" else holdfast.data.Loader(Numbers(), batch_size=BATCH, seed=5)
    torch.manual_seed(rank)
    random.seed(rank)
    training = holdfast.Run(runs_as, optimizer, scheduler, loader, directory=settings["checkpoints"], **settings["run"])
    for step, (samples, values) in zip(training.steps(settings["steps"]), loader.endless(), strict=False):
        if step in settings["digests"]:
            tell({"before": step, "digests": digests(model, optimizer, scheduler)})
        for at, who, what, argument in settings["acts"]:
            if (at, who) == (step, rank):
                act(settings, step, rank, what, argument, training)
        loss = runs_as(values * (random.random() if kind == "dropout" else 1)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        mean = loss.detach().clone()
        if kind != "alone":
            dist.all_reduce(mean)
        tell({"step": step, "t": time.time(), "samples": samples.tolist(), "loss": float(mean) / settings["ranks"]})
        training.log(loss=loss.detach())
        time.sleep(settings["step_s"])
        if step == settings["stop"]:
            return  # the loop is left early
    generators = [float(torch.rand(1)), random.random()]
    tell({"before": settings["steps"], "digests": digests(model, optimizer, scheduler), "generators": generators})


def act(settings: Settings, step: int, rank: int, what: str, argument: Any, training: holdfast.Run) -> None:
    """`hold` until the test says go; `sleep` seconds; `save`; `full`: the next write fails (the disk is full, half-way through a file);
    `die`: once a checkpoint stands, be killed at the fault point of that name.
    """
    if what == "hold":
        (Path(settings["out"]) / f"held-{step}.{rank}").touch()
        wait_for((Path(settings["out"]) / f"go-{step}").exists)
    elif what == "sleep":
        time.sleep(argument)
    elif what == "save":
        training.save()
    elif what == "full":
        faults.hook = full
    else:
        assert what == "die"
        wait_for(lambda: any(Path(settings["checkpoints"]).glob("step-*/manifest.json")))
        faults.hook = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == argument else None


def full(name: str) -> None:
    if name == "file-partial":
        faults.hook = None
        raise OSError(28, "No space left on device")


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.005)


def digests(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> dict[str, str]:
    """One for every tensor and number of the whole state. Collective for what is sharded."""
    state = {
        "model": whole_state.get_model_state_dict(model),
        "optimizer": whole_state.get_optimizer_state_dict(model, optimizer),
        "scheduler": scheduler.state_dict(),
    }
    return dict(leaves(state, ""))


def leaves(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, DTensor):
        value = value.full_tensor()
    if isinstance(value, torch.Tensor):
        content = f"{value.dtype}{tuple(value.shape)}".encode() + value.detach().contiguous().numpy().tobytes()
        yield name, hashlib.blake2b(content, digest_size=8).hexdigest()
    elif isinstance(value, dict):
        for key, item in sorted(value.items(), key=lambda pair: str(pair[0])):
            yield from leaves(item, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from leaves(item, f"{name}/{number}")
    else:
        yield name, repr(value)
