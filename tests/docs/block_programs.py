"""Runs Python blocks of the pages with a real framework: `block_programs.py <blocks.json`, a list of [mark, text].

Each block is run twice, of a thousand steps the first twenty, with fresh objects under the names that it uses, in a folder of its own.
Printed as JSON: for each block how many steps each of the two runs made. The second finds nothing left to do, if the block saves and
resumes.
"""

import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import holdfast
import holdfast.data

Names = dict[str, Any]


class Steps:
    """Counts the steps that a block makes."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *_: Any) -> float:
        self.count += 1
        return 0.5


def rows() -> Any:
    """A data set of 330 rows: five batches of 64 and a rest."""
    import torch

    class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 330

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.sin(torch.arange(4.0) + index)

    return Rows()


def of_torch(steps: Steps) -> Names:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4)
    model.register_forward_pre_hook(lambda *_: steps() and None)
    optimizer = torch.optim.AdamW(model.parameters())
    return {"torch": torch, "holdfast": holdfast, "dataset": rows(), "model": model, "optimizer": optimizer, "train": steps}


def of_epochs(steps: Steps) -> Names:
    names = of_torch(steps)
    return names | {"loader": holdfast.data.Loader(names["dataset"], batch_size=64)}


def of_ranks(steps: Steps) -> Names:
    """One rank, joined as a launcher would have it."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    if dist.is_initialized():
        dist.destroy_process_group()
    os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0", GLOO_SOCKET_IFNAME="lo")
    names = of_torch(steps)
    return names | {"fully_shard": fully_shard, "batch": lambda step: names["torch"].ones(8, 4) * step}


def of_export(steps: Steps) -> Names:
    names = of_torch(steps)
    run = holdfast.Run(model=names["model"], optimizer=names["optimizer"])
    for step in run.steps(1000):
        steps(step)
    return names


def of_accelerate(steps: Steps) -> Names:
    import accelerate

    return of_torch(steps) | {"accelerator": accelerate.Accelerator(cpu=True)}


def of_transformers(steps: Steps) -> Names:
    import torch
    import transformers

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            steps()
            return {"loss": self.net(x).pow(2).mean()}

    arguments = transformers.TrainingArguments(
        output_dir="own", num_train_epochs=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True
    )
    data = rows()
    dataset = [{"x": data[index]} for index in range(len(data))]
    return {"transformers": transformers, "model": Model(), "arguments": arguments, "dataset": dataset}


def of_lightning(steps: Steps) -> Names:
    import lightning
    import torch

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(4, 1)

        def training_step(self, batch: torch.Tensor, _index: int) -> torch.Tensor:
            steps()
            return self.net(batch).pow(2).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    return {"lightning": lightning, "holdfast": holdfast, "dataset": rows(), "module": Module()}


def of_orbax(steps: Steps) -> Names:
    import jax

    def train_step(tree: dict[str, Any]) -> dict[str, Any]:
        steps()
        return {"params": tree["params"] * 0.5, "key": tree["key"]}

    return {"jax": jax, "holdfast": holdfast, "params": jax.numpy.ones(4), "train_step": train_step}


def of_tensorflow(steps: Steps) -> Names:
    import tensorflow as tf

    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(1)])
    data = tf.data.Dataset.from_tensor_slices((tf.ones((8, 4)), tf.ones(8))).repeat().batch(4)
    model.compile(tf.keras.optimizers.SGD(0.01), "mse")
    names = {"tf": tf, "holdfast": holdfast, "model": model, "optimizer": model.optimizer, "data": data, "iterator": iter(data)}
    return names | {"train_step": steps}


def of_keras(steps: Steps) -> Names:
    """Batches are counted by the model itself: `fit` runs as a user's would."""
    names = of_tensorflow(steps)
    fit = names["model"].fit
    counting = names["tf"].keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: steps() and None)

    def counted(*given: Any, callbacks: list[Any], **keys: Any) -> Any:
        return fit(*given, callbacks=[counting, *callbacks], verbose=0, **keys)

    names["model"].fit = counted
    return names


PROGRAMS: dict[str, Callable[[Steps], Names]] = {
    "torch": of_torch,
    "epochs": of_epochs,
    "owned": of_torch,
    "export": of_export,
    "ddp": of_ranks,
    "fsdp2": of_ranks,
    "accelerate": of_accelerate,
    "transformers": of_transformers,
    "lightning": of_lightning,
    "orbax": of_orbax,
    "tensorflow": of_tensorflow,
    "keras": of_keras,
}


def play(mark: str, text: str) -> list[int]:
    """Steps made by the first run of a block, and by the second."""
    made = []
    text = re.sub(r"\b1000\b", "20", text)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for _ in range(2):
            steps = Steps()
            names = PROGRAMS[mark](steps)
            exec(compile(text, mark, "exec"), names)  # the pages' own text
            made.append(steps.count)
            if mark == "export":
                exported = names["torch"].load("model.pt")
                assert exported["model"].keys() == {"weight", "bias"}, exported.keys()
            assert mark in ("transformers", "lightning") or list(Path("checkpoints").glob("step-*/manifest.json"))
    return made


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        told = [[mark, *play(mark, text)] for mark, text in json.load(sys.stdin)]
    print(json.dumps(told))
