"""Ranks for trials through the public API: imports PyTorch once, then forks one process per rank (DDP over gloo).

Usage: trials.py SETTINGS, a JSON object: ranks, steps, checkpoints, out (a folder: rank<r>.jsonl gets a line for each step), nodes
(a job directory for each rank), port, run (arguments of holdfast.Run), acts (what happens in the body of a step:
[step, rank, what, argument]: `sleep` seconds, `notify` an action, `die` at a fault point once the first checkpoint stands, `full`: the next
write fails).
Prints the ranks' exit codes.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SAMPLES, BATCH = 96, 12
torch.optim.AdamW(torch.nn.Linear(1, 1).parameters())  # loads what it needs once, before the fork


class Numbers(torch.utils.data.Dataset[tuple[int, torch.Tensor]]):
    """Sample n is a vector that follows from n."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        return index, torch.randn(6, generator=torch.Generator().manual_seed(index))


def notify(node: str, action: str) -> None:
    now = time.time()
    notice = {
        "v": 1,
        "id": f"n-{Path(node).name}",
        "kind": "preempt",
        "deadline": now + 60,
        "received": now,
        "reason": "",
        "action": action,
    }
    temporary = Path(node) / "node" / ".tmp"
    temporary.write_text(json.dumps(notice))
    temporary.rename(Path(node) / "node" / "notice.json")


def act(what: str, argument: Any, node: str, checkpoints: Path) -> None:
    from holdfast import faults

    def die(name: str) -> None:
        if name == argument:
            os.kill(os.getpid(), signal.SIGKILL)

    def full(name: str) -> None:
        if name == "file-written":
            faults.hook = None
            raise OSError(28, "No space left on device")

    if what == "sleep":
        time.sleep(argument)
    elif what == "notify":
        notify(node, argument)
    elif what == "full":
        faults.hook = full
    else:
        while not list(checkpoints.glob("step-*/manifest.json")):
            time.sleep(0.01)
        faults.hook = die


def train(settings: dict[str, Any], rank: int) -> None:
    import holdfast
    import holdfast.data

    ranks, node = settings["ranks"], settings["nodes"][rank]
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), HOLDFAST_JOB_DIR=node, GLOO_SOCKET_IFNAME="lo")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(settings["port"]))
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    ddp = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(ddp.parameters(), lr=0.01)
    loader = holdfast.data.Loader(Numbers(), batch_size=BATCH, seed=5)
    run = holdfast.Run(ddp, optimizer, loader=loader, directory=settings["checkpoints"], **settings["run"])
    with (Path(settings["out"]) / f"rank{rank}.jsonl").open("a", buffering=1) as out:
        for step, (samples, values) in zip(run.steps(settings["steps"]), loader.endless(), strict=False):
            loss = ddp(values).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mean = loss.detach().clone()
            dist.all_reduce(mean)
            out.write(json.dumps({"step": step, "samples": samples.tolist(), "loss": float(mean) / ranks}) + "\n")
            for at, who, what, argument in settings["acts"]:
                if (at, who) == (step, rank):
                    act(what, argument, node, Path(settings["checkpoints"]))
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, Path(settings["out"]) / f"end{rank}.pt")
    dist.destroy_process_group()


def main() -> int:
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    children = []
    for rank in range(settings["ranks"]):
        child = os.fork()
        if child == 0:
            signal.alarm(50)  # whatever goes wrong, no rank outlives the test for long
            code = 1
            try:
                train(settings, rank)
                code = 0
            except Exception as fault:
                print(f"rank {rank}: {type(fault).__name__}: {fault}", flush=True)
            finally:
                os._exit(code)
        children.append(child)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
