"""Data-parallel training under torchrun, with the lines of `holdfast.Run` in its loop."""

import argparse
import time
from pathlib import Path

import holdfast.data
import torch
import torch.distributed as dist


def main() -> None:
    """Train, or go on where the attempt before this one was."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--step-s", type=float, default=0.1, help="how long a step lasts, to try things at leisure")
    parser.add_argument("--out", type=Path, default=Path("out"), help="a folder that all nodes see")
    options = parser.parse_args()
    dist.init_process_group("gloo")  # rank, world size and meeting point come from torchrun
    torch.manual_seed(7)
    inputs = torch.randn(4096, 8)
    data = torch.utils.data.TensorDataset(inputs, inputs.sum(1, keepdim=True), torch.arange(len(inputs)))
    loader = holdfast.data.Loader(data, batch_size=8)  # of all ranks together: each gets its share
    model = torch.nn.Linear(8, 1)
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run = holdfast.Run(model, optimizer, loader=loader, directory=options.out / "checkpoints")
    for step, (inputs, targets, samples) in zip(run.steps(options.steps), loader.endless(), strict=False):
        if dist.get_rank() == 0:
            print(f"step {step} samples {samples.tolist()}", flush=True)
        time.sleep(options.step_s)
        loss = torch.nn.functional.mse_loss(parallel(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(loss=loss)
    if dist.get_rank() == 0:
        torch.save(model.state_dict(), options.out / "model.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
