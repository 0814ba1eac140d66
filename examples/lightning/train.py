"""A small regression with Lightning's own SLURM auto-requeue. Nothing of Holdfast is in here: the one line that is stands in train.sh."""

import argparse
import itertools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lightning
import torch

BATCH_SIZE = 4


class Samples(torch.utils.data.IterableDataset[tuple[torch.Tensor, ...]]):
    """Endless samples, in one order, from a position on."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.inputs = torch.randn(4096, 8, generator=torch.Generator().manual_seed(7))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        for sample in itertools.count(self.first):
            inputs = self.inputs[sample % len(self.inputs)]
            yield inputs, inputs.sum().unsqueeze(0), torch.tensor(sample)


class Regression(lightning.LightningModule):
    """A linear model; prints each step that it does and the samples that it saw."""

    def __init__(self, step_s: float) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 1)
        self.step_s = step_s

    def training_step(self, batch: list[torch.Tensor], _index: int) -> torch.Tensor:
        """Return the loss of one batch."""
        inputs, targets, samples = batch
        self.print(f"step {self.global_step} samples {samples.tolist()}", flush=True)
        time.sleep(self.step_s)
        return torch.nn.functional.mse_loss(self.layer(inputs), targets)

    def train_dataloader(self) -> Iterable[Any]:
        """Return the data from the step in hand on: called after the checkpoint was read. Lightning itself would begin the epoch anew."""
        return torch.utils.data.DataLoader(Samples(self.global_step * BATCH_SIZE), batch_size=BATCH_SIZE)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.Adam(self.parameters(), lr=0.01)


def main() -> None:
    """Train, or go on where the attempt before this one was."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--step-s", type=float, default=0.1, help="how long a step lasts, to try things at leisure")
    parser.add_argument("--out", type=Path, default=Path("out"), help="a folder that all nodes see")
    options = parser.parse_args()
    lightning.seed_everything(7)
    model = Regression(options.step_s)
    trainer = lightning.Trainer(
        max_steps=options.steps,
        accelerator="cpu",
        default_root_dir=options.out,  # the requeued attempt looks here for hpc_ckpt_1.ckpt
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model)
    if trainer.global_step == options.steps:
        torch.save(model.state_dict(), options.out / "model.pt")


if __name__ == "__main__":
    main()
