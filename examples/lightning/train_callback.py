"""The model of train.py on two ranks with Holdfast's callback: saved between two steps and verified, requeued by the controller."""

import argparse
from pathlib import Path

import holdfast.data
import lightning
import torch
from holdfast.adapters.lightning import HoldfastCallback
from train import BATCH_SIZE, Regression


def main() -> None:
    """Train, or go on where the attempt before this one was."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--step-s", type=float, default=0.1, help="how long a step lasts, to try things at leisure")
    parser.add_argument("--out", type=Path, default=Path("out"), help="a folder that all nodes see")
    options = parser.parse_args()
    lightning.seed_everything(7)
    inputs = torch.randn(4096, 8)
    data = torch.utils.data.TensorDataset(inputs, inputs.sum(1, keepdim=True), torch.arange(len(inputs)))
    model = Regression(options.step_s)
    trainer = lightning.Trainer(
        max_steps=options.steps,
        accelerator="cpu",
        devices=2,
        callbacks=[HoldfastCallback(directory=options.out / "checkpoints")],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # Not torchdata's StatefulDataLoader with shuffle=True: on several ranks Lightning wraps its sampler, and goes on in another order.
    trainer.fit(model, holdfast.data.Loader(data, batch_size=2 * BATCH_SIZE))
    if trainer.is_global_zero:
        torch.save(model.state_dict(), options.out / "model.pt")


if __name__ == "__main__":
    main()
