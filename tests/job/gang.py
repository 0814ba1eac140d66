"""A gang of ranks for the tests: imports PyTorch once, then forks one process per rank; DDP over gloo.

Usage: gang.py RANKS STEPS CHECKPOINTS OUT PORT NODE... [--step-s S] [--notify STEP:RANK] [--fail STEP:RANK]
Rank r uses the r-th job directory. Exits 0 if all ranks did, else prints each rank's wait status and exits 1.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

torch.optim.SGD(torch.nn.Linear(1, 1).parameters())  # loads what it needs once, before the fork


class Loader:
    """Batches from each rank's own generator, whose state is the loader's state."""

    def __init__(self, rank: int) -> None:
        self.generator = torch.Generator().manual_seed(100 + rank)

    def batch(self) -> torch.Tensor:
        return torch.rand(4, 6, generator=self.generator)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.generator.set_state(state["generator"])


def notify(node: str) -> None:
    now = time.time()
    notice = {"v": 1, "id": "last", "kind": "preempt", "deadline": now + 60, "received": now, "reason": "", "action": "save_and_park"}
    temporary = Path(node) / "node" / ".tmp"
    temporary.write_text(json.dumps(notice))
    temporary.rename(Path(node) / "node" / "notice.json")


def fail(name: str) -> None:
    if name == "file-written":
        raise OSError(28, "No space left on device")


def train(options: argparse.Namespace, rank: int) -> None:
    import holdfast
    from holdfast import faults

    os.environ.update(RANK=str(rank), WORLD_SIZE=str(options.ranks), HOLDFAST_JOB_DIR=options.nodes[rank])
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(options.port), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    ddp = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=options.steps)
    loader = Loader(rank)
    torch.manual_seed(rank)
    random.seed(rank)
    run = holdfast.Run(ddp, optimizer, scheduler, loader, directory=options.checkpoints, every_steps=1000)
    for step in run.steps(options.steps):
        loss = (ddp(loader.batch()) * random.random()).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        run.log(loss=loss.detach())
        time.sleep(options.step_s)
        if options.notify == f"{step}:{rank}":
            notify(options.nodes[rank])
        if options.fail and options.fail.startswith(f"{step}:"):
            run.save()
            faults.hook = fail if options.fail == f"{step}:{rank}" else None
    if rank == 0:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}, options.out)


def main() -> int:
    parser = argparse.ArgumentParser()
    for name, kind in (("ranks", int), ("steps", int), ("checkpoints", str), ("out", str), ("port", int)):
        parser.add_argument(name, type=kind)
    parser.add_argument("nodes", nargs="+")
    parser.add_argument("--step-s", type=float, default=0.0)
    parser.add_argument("--notify")
    parser.add_argument("--fail")
    options = parser.parse_args()
    torch.set_num_threads(1)
    children = []
    for rank in range(options.ranks):
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # whatever goes wrong, no rank outlives the test for long
            code = 1
            try:
                train(options, rank)
                code = 0
            except Exception as fault:
                print(f"rank {rank}: {type(fault).__name__}: {fault}", flush=True)
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes), flush=True)
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
