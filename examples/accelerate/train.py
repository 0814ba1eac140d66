"""Two processes under `accelerate launch`, with the lines of `holdfast.Run` in the loop."""

import argparse
import time
from pathlib import Path

import holdfast
import torch
from accelerate import Accelerator
from holdfast.data import GlobalSampler


def main() -> None:
    """Train, or go on where the attempt before this one was."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--step-s", type=float, default=0.1, help="how long a step lasts, to try things at leisure")
    parser.add_argument("--out", type=Path, default=Path("out"), help="a folder that all nodes see")
    options = parser.parse_args()
    accelerator = Accelerator(cpu=True)  # without GPUs: gloo
    torch.manual_seed(7)
    inputs = torch.randn(4096, 8)
    targets = inputs.sum(1, keepdim=True)
    model = torch.nn.Linear(8, 1)
    prepared, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=0.01))
    # The data's place is holdfast's to keep: a loader that accelerate prepared would begin anew.
    sampler = GlobalSampler(len(inputs), batch_size=8, rank=accelerator.process_index, world_size=accelerator.num_processes)
    run = holdfast.Run(model, optimizer, loader=sampler, directory=options.out / "checkpoints")
    for step in run.steps(options.steps):
        samples = next(sampler)
        accelerator.print(f"step {step} samples {samples}", flush=True)
        time.sleep(options.step_s)
        loss = torch.nn.functional.mse_loss(prepared(inputs[samples]), targets[samples])
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        run.log(loss=loss)
    if accelerator.is_main_process:
        torch.save(model.state_dict(), options.out / "model.pt")
    accelerator.end_training()


if __name__ == "__main__":
    main()
