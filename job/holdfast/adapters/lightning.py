"""Lightning: `Trainer(callbacks=[HoldfastCallback()])`, and nothing else.

The checkpoint is Lightning's own, written and read by the `Trainer` that it belongs to: all that Lightning, its plugins, the
module, the data module and the other callbacks put into it. Holdfast adds the random generators of each rank. `fit` gets no
`ckpt_path`: only once Lightning has joined its ranks, inside `fit`, can they agree on what to resume from.
"""

import inspect
import os
import sys
from pathlib import Path
from typing import Any

import holdfast
from holdfast import rng
from holdfast.adapters import missing
from holdfast.board import say
from holdfast.errors import HoldfastError
from holdfast.jobdir import VARIABLE

NAME = "lightning.ckpt"
_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _bases() -> tuple[type, ...]:
    """`Checkpoint` of each Lightning that the program has loaded (two packages hold the same code).

    A `Checkpoint` and not just a `Callback`: Lightning calls those last, when the others have done their part of a step.
    """
    found = tuple(sys.modules[f"{name}.callbacks"].Checkpoint for name in _PACKAGES if f"{name}.callbacks" in sys.modules)
    if not found:
        raise missing("holdfast.adapters.lightning", "lightning")
    return found


class _Files:
    """A trainer's state as an object of a Run."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def save_files(self, folder: Path) -> None:
        """Collective, as the trainer's strategy has it."""
        if "Async" in type(getattr(self.trainer.strategy, "checkpoint_io", None)).__name__:
            raise HoldfastError("AsyncCheckpointIO returns before its file is written: leave it out, nothing could be verified")
        self.trainer.save_checkpoint(folder / NAME, weights_only=False)

    def load_files(self, folder: Path) -> None:
        """Have Lightning read the file; it applies it in its own order, as it would after `fit(ckpt_path=…)`."""
        resume = self.trainer._checkpoint_connector.resume_start
        trusted = {"weights_only": False} if "weights_only" in inspect.signature(resume).parameters else {}
        resume(folder / NAME, **trusted)


class HoldfastCallback:
    """Resumes, saves and parks a Lightning run. `options` are those of `holdfast.Run`: directory, every_s, every_steps, keep, …

    A step is one that moved the optimizer: within an accumulation of gradients nothing is saved. `run` is the Run, from `fit` on.
    Lightning's own requeue is switched off where Holdfast does it. Each module of the program that is to be restored inside an
    epoch needs a loader with `state_dict` and `load_state_dict`, such as torchdata's StatefulDataLoader; Lightning warns otherwise.

    Raises MissingFrameworkError where no Lightning has been imported; in `fit`, HoldfastError for a `ckpt_path`, and what
    `holdfast.Run` raises.
    """

    run: "holdfast.Run"

    def __new__(cls, **options: Any) -> "HoldfastCallback":
        """Take in Lightning's class now: which of its two packages the program uses is known here, not at import."""
        made: HoldfastCallback = object.__new__(type(cls.__name__, (cls, *_bases()), {}))
        return made

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._files: _Files | None = None
        self._moved = 0
        self._random: dict[str, Any] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """The ranks are joined, nothing is restored yet."""
        if stage == "fit" and not trainer.strategy.restore_checkpoint_after_setup:
            self._start(trainer)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """The strategy is set up; those that shard the model are restored from here on."""
        if trainer.strategy.restore_checkpoint_after_setup:
            self._start(trainer)

    def _start(self, trainer: Any) -> None:
        self._no_own_requeue(trainer)
        if self._files is None:
            self._files = _Files(trainer)
            self.run = holdfast.Run(trainer=self._files, **self._options)
        self._files.trainer = trainer
        if self.run.start(None) > 0:
            self._random = rng.capture()

    def _no_own_requeue(self, trainer: Any) -> None:
        environment: Any = getattr(getattr(trainer, "_accelerator_connector", None), "cluster_environment", None)
        if getattr(environment, "auto_requeue", False) and VARIABLE in os.environ:
            environment.auto_requeue = False
            if trainer.is_global_zero:
                say("Lightning's own requeue is switched off, since Holdfast requeues this job")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """All is restored. Loaders and sanity checks have drawn random numbers meanwhile: put the generators back."""
        if trainer.ckpt_path:
            raise HoldfastError(
                f"Lightning was given {trainer.ckpt_path} to resume from (ckpt_path, or an hpc_ckpt file of its own requeue):"
                " HoldfastCallback resumes by itself. Give fit no ckpt_path; to begin with other weights, load them into the module"
            )
        if self._random is not None:
            rng.restore(self._random)
            self._random = None
        self._moved = trainer.global_step
        total = trainer.estimated_stepping_batches
        if 0 < total < float("inf"):
            self.run.expect(int(total))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A boundary, if the optimizer has moved."""
        if trainer.global_step != self._moved:
            self._moved = trainer.global_step
            self.run.log(**trainer.callback_metrics)
            self.run.step_done()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Training is over."""
        self.run.finish()
