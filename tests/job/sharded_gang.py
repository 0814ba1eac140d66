"""Gangs of ranks for the tests of sharded checkpoints: PyTorch is imported once, and forked for each rank (gloo, CPU).

Usage: sharded_gang.py FOLDER N... First each world size N saves, then each loads what every other has saved. Prints one JSON object:
for each case what was found (bitwise equality of the whole state, next losses of saver and loader).
"""

import json
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from holdfast.bandwidth import Limiter
from holdfast.clock import Clock
from holdfast.peers import Alone, Gloo, Peers
from holdfast.sharded import Shards
from holdfast.writer import HashingWriter
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

torch.optim.SGD(nn.Linear(1, 1).parameters())  # loads what it needs once, before the fork
BATCH = 12


def kinds(ranks: int) -> list[str]:
    """How a model is run on so many ranks: `tp` is a mesh of 2 x 2, tensor-parallel and FSDP2."""
    return ["ddp", "fsdp", "tp"] if ranks == 4 else ["ddp", "fsdp"]


class Net(nn.Module):
    """Odd sizes, so that shards are uneven and some are empty; a buffer in which each rank keeps something else."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 3)
        self.norm = nn.LayerNorm(3, dtype=torch.float32)
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.down(torch.relu(self.up(x))))  # type: ignore[no-any-return]


def build(kind: str, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model: nn.Module = Net()
    ranks = dist.get_world_size()
    if kind == "ddp" and ranks > 1:
        model = DistributedDataParallel(model)
    elif kind == "fsdp":
        fully_shard(model.up)
        fully_shard(model, mesh=init_device_mesh("cpu", (ranks,)))
    elif kind == "tp":
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
        parallelize_module(model, mesh["tensor"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        fully_shard(model, mesh=mesh["data"])
    return model, torch.optim.AdamW(model.parameters(), lr=0.02)


def train(kind: str, model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    """The loss on each global batch; a rank takes its part of it."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    if kind == "tp":  # two ranks share a part
        rank, ranks = rank // 2, 2
    losses = []
    for step in steps:
        batch = torch.rand(BATCH, 6, generator=torch.Generator().manual_seed(step)).tensor_split(ranks)[rank]
        optimizer.zero_grad()
        loss = model(batch).pow(2).sub(batch.sum(1, keepdim=True)).pow(2).mean()
        loss.backward()
        optimizer.step()
        total = loss.detach().double()
        dist.all_reduce(total)
        losses.append(float(total) / dist.get_world_size())
    return losses


def whole(value: Any) -> Any:
    """A state with all tensors complete, on every rank."""
    if isinstance(value, DTensor):
        return value.full_tensor().clone()  # on one rank it is the tensor itself
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    return [whole(item) for item in value] if isinstance(value, list) else value


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

    return {"model": whole(get_model_state_dict(model)), "optimizer": whole(get_optimizer_state_dict(model, optimizer))}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def save(kind: str, folder: Path, peers: Peers) -> dict[str, Any]:
    model, optimizer = build(kind, 0)
    train(kind, model, optimizer, range(3))
    dict(model.named_buffers())["module.seen" if hasattr(model, "module") else "seen"].fill_(dist.get_rank() + 1)
    shards = Shards({"model": model, "optimizer": optimizer}, peers, print)
    target = folder / f"{kind}{dist.get_world_size()}"
    target.mkdir(exist_ok=True)
    staged = shards.stage()
    saved = state(model, optimizer)
    losses = train(kind, model, optimizer, range(3, 5))  # what is staged must not change
    written = staged.write(lambda name: HashingWriter(target / name, "xxh3-128", Limiter(None, Clock())))
    everybodys = peers.gather(written)
    if dist.get_rank() == 0:
        (target / ".metadata").write_bytes(staged.metadata(everybodys))
        torch.save({"state": saved, "losses": losses}, target / "expected.pt")
    staged.release()
    return {"losses": losses, "share_bytes": peers.gather(staged.size_bytes), "total_bytes": shards.total_bytes}


def load(kind: str, source: Path, peers: Peers) -> dict[str, Any]:
    expected = torch.load(source / "expected.pt")
    model, optimizer = build(kind, 1)
    Shards({"model": model, "optimizer": optimizer}, peers, print).load(source)
    equal = same(state(model, optimizer), expected["state"])
    return {"equal": all(peers.gather(equal)), "expected": expected["losses"], "losses": train(kind, model, optimizer, range(3, 5))}


def gang(ranks: int, scratch: Path, act: Callable[[Peers], Any]) -> Any:
    """Run `act` on so many ranks; what rank 0 returned. Raises RuntimeError if any failed."""
    scratch.mkdir(exist_ok=True)
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            signal.alarm(120)
            code = 1
            try:
                torch.set_num_threads(1)
                dist.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=rank, world_size=ranks)
                result = act(Gloo(dist) if ranks > 1 else Alone())
                if rank == 0:
                    (scratch / "result").write_bytes(pickle.dumps(result))
                dist.barrier()
                code = 0
            except Exception:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        raise RuntimeError(f"of {ranks} ranks: {codes}")
    return pickle.loads((scratch / "result").read_bytes())


def main() -> None:
    folder = Path(sys.argv[1])
    sizes = [int(size) for size in sys.argv[2:]]
    stored = [(kind, size) for size in sizes for kind in kinds(size)]
    found: dict[str, Any] = {}

    def save_all(peers: Peers) -> dict[str, Any]:
        return {kind: save(kind, folder, peers) for kind in kinds(dist.get_world_size())}

    for size in sizes:
        saved = gang(size, folder / f"save{size}", save_all)
        found |= {f"save {kind}{size}": result for kind, result in saved.items()}

    def load_all(peers: Peers) -> dict[str, Any]:
        live = kinds(dist.get_world_size())
        pairs = [(source, source[0] if source[0] in live else live[-1]) for source in stored]
        pairs += [(source, live[-1]) for source in stored if source[0] == "ddp"]
        return {f"{source[0]}{source[1]} as {kind}": load(kind, folder / f"{source[0]}{source[1]}", peers) for source, kind in pairs}

    for size in sizes:
        loaded = gang(size, folder / f"load{size}", load_all)
        found |= {f"load {case}{size}": result for case, result in loaded.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
