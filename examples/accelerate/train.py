"""Two processes under `accelerate launch`, with the lines of `holdfast.Run` in the loop."""

import argparse
import time
from pathlib import Path

import holdfast.data
import torch
from accelerate import Accelerator


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
    data = torch.utils.data.TensorDataset(inputs, inputs.sum(1, keepdim=True), torch.arange(len(inputs)))
    loader = holdfast.data.Loader(data, batch_size=8)  # knows its place; a loader that accelerate prepared would begin anew
    model = torch.nn.Linear(8, 1)
    prepared, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=0.01))
    run = holdfast.Run(model, optimizer, loader=loader, directory=options.out / "checkpoints")
    for step, (inputs, targets, samples) in zip(run.steps(options.steps), loader.endless(), strict=False):
        accelerator.print(f"step {step} samples {samples.tolist()}", flush=True)
        time.sleep(options.step_s)
        loss = torch.nn.functional.mse_loss(prepared(inputs), targets)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        run.log(loss=loss)
    if accelerator.is_main_process:
        torch.save(model.state_dict(), options.out / "model.pt")
    accelerator.end_training()


if __name__ == "__main__":
    main()
