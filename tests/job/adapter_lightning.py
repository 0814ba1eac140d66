"""Lightning in the bed: dropout, a schedule by steps, validation after each epoch, one process or two by DDP."""

import os
import sys
from pathlib import Path
from typing import Any

import torch

if "other_name" in sys.argv:
    import pytorch_lightning as pl
else:
    import lightning.pytorch as pl

from adapter_bed import AtStep, Bed, digest, main
from holdfast.adapters.lightning import HoldfastCallback
from holdfast.errors import HoldfastError

torch.optim.Adam(torch.nn.Linear(1, 1).parameters())  # loads what it needs once, before the forks
EPOCHS, BATCHES, ROWS = 4, 5, 4


class Loader:
    """Batches by a position that is its state; each rank has rows of its own."""

    def __init__(self) -> None:
        self.position, self._resumed = 0, False

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Any:
        if not self._resumed:
            self.position = 0
        self._resumed = False
        rank = int(os.environ.get("RANK", "0"))
        while self.position < BATCHES:
            self.position += 1
            yield torch.sin(torch.arange(ROWS * 6.0).reshape(ROWS, 6) + 100 * self.position + 1000 * rank)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position, self._resumed = state["position"] % BATCHES, True


class Module(pl.LightningModule):
    def __init__(self, at_step: AtStep) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
        self._at_step = at_step

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self._at_step(self.trainer.global_step)
        return self.net(batch).pow(2).mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val", self.net(batch).pow(2).mean(), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.7), "interval": "step"}]


def train(directory: Path, at_step: AtStep, ckpt_path: str | None = None) -> str:
    """Two lines of a user's: the trainer with the callback, and fit."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    torch.manual_seed(0)
    module = Module(at_step)
    torch.manual_seed(rank)
    trainer = pl.Trainer(
        callbacks=[HoldfastCallback(directory=directory, every_steps=3)],
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=directory.parent,
    )
    trainer.fit(module, Loader(), Loader(), ckpt_path=ckpt_path)
    return digest([*(value.numpy().tobytes() for value in module.state_dict().values()), torch.get_rng_state().numpy().tobytes()])


def under_srun(bed: Bed) -> dict[str, Any]:
    """Lightning takes an srun step for one that it shall requeue itself."""
    srun = {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost"}
    return {"parked": bed.park("srun", "srun", **srun), "logs": bed.logs()}


def with_path(directory: Path, at_step: AtStep) -> str:
    """Somebody gives fit a ckpt_path as well; what that is told."""
    train(directory.with_name("made"), at_step)
    given = max(directory.with_name("made").glob("step-*/trainer/lightning.ckpt"))
    try:
        return train(directory, at_step, str(given))
    except HoldfastError as fault:
        return str(fault)


def misuse(bed: Bed) -> dict[str, Any]:
    return {"told": bed.run("misuse", "misuse"), "logs": bed.logs()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    parts = {"alone": (train, Bed.alone), "ranks": (train, Bed.ranks), "srun": (train, under_srun), "misuse": (with_path, misuse)}
    main({**parts, "other_name": (train, Bed.alone)})
