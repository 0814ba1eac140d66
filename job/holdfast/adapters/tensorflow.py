"""TensorFlow, one process: `tf.train.Checkpoint` in a loop of one's own, and a callback for Keras.

run = holdfast.Run(state=TensorFlowState(tf.train.Checkpoint(model=model, optimizer=optimizer, iterator=iterator)))
for step in run.steps(1000):
    train_step(next(iterator))
"""

from pathlib import Path
from typing import Any

import holdfast
from holdfast.adapters import missing
from holdfast.errors import HoldfastError

try:
    import tensorflow as tf
except ModuleNotFoundError as fault:
    raise missing("holdfast.adapters.tensorflow", "tensorflow") from fault

NAME = "tf"


class TensorFlowState:
    """A `tf.train.Checkpoint`, or that of a `tf.train.CheckpointManager`, as an object of a Run.

    `keras` are the Keras models in it: their dropout has random generators, which TensorFlow leaves out by itself. All variables must
    exist when the Run resumes (`model.build(…)`, `optimizer.build(model.trainable_variables)`). TensorFlow's global random generator is no
    part of it: track a `tf.random.Generator`.
    """

    def __init__(self, checkpoint: Any, *keras: Any) -> None:
        variables = [variable.value for model in keras for variable in model.variables]
        self._checkpoint = tf.train.Checkpoint(checkpoint=getattr(checkpoint, "checkpoint", checkpoint), keras=variables)

    def save_files(self, folder: Path) -> None:
        """By `Checkpoint.write`."""
        self._checkpoint.write(str(folder / NAME))

    def load_files(self, folder: Path) -> None:
        """By `Checkpoint.read`. Raises HoldfastError where a variable has no value in the checkpoint, or a value no variable."""
        status = self._checkpoint.read(str(folder / NAME))
        try:
            status.assert_consumed()
        except AssertionError as fault:
            raise HoldfastError(
                f"{folder} and the objects of tf.train.Checkpoint differ: {str(fault)[:500]}."
                " Make all variables before the Run resumes (model.build, optimizer.build)"
            ) from fault


class HoldfastCallback(tf.keras.callbacks.Callback):
    """Resumes, saves and parks a run of `model.fit`. `options` are those of `holdfast.Run`: directory, every_s, every_steps, keep, …

    `model` is built and compiled; making the callback restores it. `step` is how many batches it has seen: have `fit` go on there,

        callback = HoldfastCallback(model)
        model.fit(data.skip(callback.step), steps_per_epoch=100, epochs=10, initial_epoch=callback.step // 100, callbacks=[callback])

    with data that repeats and is in the same order each time. Training ends after epochs * steps_per_epoch batches in all.
    """

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__()
        if not model.built or getattr(model, "optimizer", None) is None:
            raise HoldfastError("the model must be built (model.build) and compiled with an optimizer before it can be restored")
        model.optimizer.build(model.trainable_variables)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        self.run = holdfast.Run(state=TensorFlowState(checkpoint, model), **options)
        self._batch = 0
        self._total: int | None = None
        self.run.start(None)

    @property
    def step(self) -> int:
        """Batches done, in all attempts."""
        return self.run.step

    def on_train_begin(self, logs: Any = None) -> None:
        """How many there will be is known now."""
        steps = self.params.get("steps")
        if steps is not None:
            self._total = steps * self.params["epochs"]
            self.run.expect(self._total)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Batches are counted within an epoch."""
        self._batch = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """A boundary; of several batches where `steps_per_execution` runs those as one."""
        for _ in range(batch + 1 - self._batch):
            self.run.step_done()
        self._batch = batch + 1
        if self._total is not None and self.run.step >= self._total:
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        """Training is over."""
        self.run.finish()
