"""Accelerate in a loop of one's own: `holdfast.Run(state=AccelerateState(accelerator))`."""

from pathlib import Path
from typing import Any


class AccelerateState:
    """What an `Accelerator` prepared (models, optimizers, schedulers, its random generators), as an object of a Run.

    Make it, and enter `Run.steps`, after `accelerator.prepare`. Where the data was is part of it only with
    `DataLoaderConfiguration(use_stateful_dataloader=True)`; else give the Run a `loader`.
    """

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator

    def save_files(self, folder: Path) -> None:
        """By `accelerator.save_state`. Collective."""
        self._accelerator.save_state(str(folder))
        self._accelerator.wait_for_everyone()

    def load_files(self, folder: Path) -> None:
        """By `accelerator.load_state`. Collective."""
        self._accelerator.load_state(str(folder))
