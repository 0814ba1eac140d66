"""Hugging Face's Trainer, in three lines:

    holdfast_callback = HoldfastCallback()
    trainer = Trainer(…, callbacks=[holdfast_callback])
    trainer.train(resume_from_checkpoint=holdfast_callback.resume_path(trainer))

The checkpoint is the Trainer's own: model, optimizer, scheduler, scaler, random generators, trainer_state.json.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import holdfast
from holdfast.adapters import missing
from holdfast.errors import HoldfastError

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as fault:
    raise missing("holdfast.adapters.transformers", "transformers") from fault


class _Files:
    """A trainer's state as an object of a Run."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.path: str | None = None

    def save_files(self, folder: Path) -> None:
        """The trainer makes a folder `checkpoint-<step>` in this one. Collective where its parallelism needs that."""
        if self.trainer.optimizer is None:  # a notice came before training began; Run tries again a second later
            raise HoldfastError("the trainer has not begun: it has no state to save yet")
        with _arguments(self.trainer.args, output_dir=str(folder), save_only_model=False, push_to_hub=False, save_total_limit=None):
            self.trainer._save_checkpoint(self.trainer.model_wrapped, trial=None)

    def load_files(self, folder: Path) -> None:
        """Only find it: the trainer reads it in `train`, when it has made what the state belongs to."""
        found = list(folder.glob("checkpoint-*"))
        if len(found) != 1:
            raise HoldfastError(f"{folder} has {len(found)} folders checkpoint-*, not one")
        self.path = str(found[0])


@contextmanager
def _arguments(args: Any, **changes: Any) -> Iterator[None]:
    """Other training arguments for a while."""
    before = {name: getattr(args, name) for name in changes}
    for name, value in changes.items():
        setattr(args, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(args, name, value)


class HoldfastCallback(TrainerCallback):
    """Resumes, saves and parks a Trainer's run. `options` are those of `holdfast.Run`: directory, every_s, every_steps, keep, …

    The trainer's own saving goes on as its arguments say; `save_strategy="no"` leaves it to Holdfast. `run` is the Run, once
    `resume_path` was called. A step is the trainer's: one that moved the optimizer. What belongs to a step (its evaluation, its
    log) is done before it is saved, so the boundary is where the next step begins.
    """

    run: "holdfast.Run"

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._files: _Files | None = None
        self._due = False

    def resume_path(self, trainer: Any) -> str | None:
        """The folder of the newest checkpoint that verifies, for `train(resume_from_checkpoint=…)`; None on the first start.

        Call it on all ranks, once the trainer is made. Raises what `holdfast.Run` and its `start` raise.
        """
        if self._files is None:
            self._files = _Files(trainer)
            self.run = holdfast.Run(trainer=self._files, **self._options)
            self.run.start(None)
        return self._files.path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """All is restored. Raises HoldfastError where that is not what `resume_path` gave."""
        if self._files is None:
            raise HoldfastError("call trainer.train(resume_from_checkpoint=callback.resume_path(trainer))")
        if state.global_step != self.run.step:
            raise HoldfastError(
                f"the trainer begins at step {state.global_step}, the checkpoint is of step {self.run.step}:"
                " give train the resume_from_checkpoint=callback.resume_path(trainer)"
            )
        self.run.expect(state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The step is made; its evaluation is not."""
        self._due = True

    def _boundary(self) -> None:
        if self._due:
            self._due = False
            self.run.step_done()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The boundary inside an epoch."""
        self._boundary()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The boundary between two epochs: before the data is shuffled anew."""
        self._boundary()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """What the trainer logs goes into status.json, too."""
        self.run.log(**(logs or {}))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training is over."""
        self._boundary()
        self.run.finish()
