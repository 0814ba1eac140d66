"""TensorFlow in the bed: a loop of one's own with an iterator and a generator, and Keras' fit."""

from pathlib import Path

import holdfast
import tensorflow as tf
from adapter_bed import AtStep, Bed, digest, main
from holdfast.adapters.tensorflow import HoldfastCallback, TensorFlowState

STEPS, EPOCH = 20, 5


def data() -> tf.data.Dataset:
    rows = tf.sin(tf.reshape(tf.range(240, dtype=tf.float32), (40, 6)))
    return tf.data.Dataset.from_tensor_slices((rows, tf.reduce_sum(rows, 1))).shuffle(40, seed=3).repeat().batch(4)


def model_of() -> tf.keras.Model:
    tf.keras.utils.set_random_seed(0)
    layers = tf.keras.layers
    return tf.keras.Sequential([tf.keras.Input((6,)), layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(1)])


def train(directory: Path, at_step: AtStep) -> str:
    """A loop of one's own: the checkpoint has the model, the optimizer, where the data was, and a random generator."""
    model, optimizer, generator = model_of(), tf.keras.optimizers.Adam(0.01), tf.random.Generator.from_seed(1)
    optimizer.build(model.trainable_variables)
    iterator = iter(data())
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, iterator=iterator, generator=generator)
    run = holdfast.Run(state=TensorFlowState(checkpoint, model), directory=directory, every_steps=3)
    for step in run.steps(STEPS):
        at_step(step)
        x, y = next(iterator)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x + generator.normal(x.shape), training=True)[:, 0] - y) ** 2)
        optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True))
    return digest(variable.numpy().tobytes() for variable in [*model.variables, *optimizer.variables])


class Step(tf.keras.callbacks.Callback):
    def __init__(self, at_step: AtStep, callback: HoldfastCallback) -> None:
        super().__init__()
        self._at_step, self._callback = at_step, callback

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        self._at_step(self._callback.step)


def fit(directory: Path, at_step: AtStep) -> str:
    """Keras: two lines of a user's."""
    model = model_of()
    model.compile(tf.keras.optimizers.Adam(0.01), "mse")
    callback = HoldfastCallback(model, directory=directory, every_steps=3)
    keys = {"steps_per_epoch": EPOCH, "epochs": STEPS // EPOCH, "initial_epoch": callback.step // EPOCH, "verbose": 0}
    model.fit(data().skip(callback.step), callbacks=[Step(at_step, callback), callback], **keys)
    assert callback.step == STEPS
    return digest(variable.numpy().tobytes() for variable in [*model.variables, *model.optimizer.variables])


if __name__ == "__main__":
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    main({"alone": (train, Bed.alone), "keras": (fit, Bed.alone)})
