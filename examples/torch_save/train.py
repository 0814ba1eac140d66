"""A training script that saves now and then with torch.save, and takes `--resume`. It knows nothing of signals, nor of Holdfast."""

import argparse
import time
from pathlib import Path

import torch


def main() -> None:
    """Train, from a checkpoint on if one is given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--step-s", type=float, default=0.1, help="how long a step lasts, to try things at leisure")
    parser.add_argument("--out", type=Path, default=Path("out"), help="a folder that all nodes see")
    parser.add_argument("--resume", type=Path, help="the checkpoint to go on from")
    options = parser.parse_args()
    options.out.mkdir(exist_ok=True)
    torch.manual_seed(7)
    inputs = torch.randn(4096, 8)
    targets = inputs.sum(1, keepdim=True)
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    first = 0
    if options.resume is not None:
        state = torch.load(options.resume)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    for step in range(first, options.steps):
        print(f"step {step} begins", flush=True)
        time.sleep(options.step_s)
        samples = slice(step % 512 * 8, step % 512 * 8 + 8)
        loss = torch.nn.functional.mse_loss(model(inputs[samples]), targets[samples])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 25 == 0:
            state = {"step": step + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, options.out / f"step-{step + 1}.pt")
    torch.save(model.state_dict(), options.out / "model.pt")


if __name__ == "__main__":
    main()
