"""Data-parallel training under torchrun, with the lines of `holdfast.Run` in its loop."""

import argparse
import time
from pathlib import Path

import holdfast
import torch
import torch.distributed as dist
from holdfast.data import GlobalSampler


def main() -> None:
    """Train, or go on where the attempt before this one was."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--step-s", type=float, default=0.1, help="how long a step lasts, to try things at leisure")
    parser.add_argument("--out", type=Path, default=Path("out"), help="a folder that all nodes see")
    options = parser.parse_args()
    dist.init_process_group("gloo")  # rank, world size and meeting point come from torchrun
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(7)
    inputs = torch.randn(4096, 8)
    targets = inputs.sum(1, keepdim=True)
    model = torch.nn.Linear(8, 1)
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sampler = GlobalSampler(len(inputs), batch_size=8, rank=rank, world_size=world_size)
    run = holdfast.Run(model, optimizer, loader=sampler, directory=options.out / "checkpoints")
    for step in run.steps(options.steps):
        samples = next(sampler)
        if rank == 0:
            print(f"step {step} samples {samples}", flush=True)
        time.sleep(options.step_s)
        loss = torch.nn.functional.mse_loss(parallel(inputs[samples]), targets[samples])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(loss=loss)
    if rank == 0:
        torch.save(model.state_dict(), options.out / "model.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
