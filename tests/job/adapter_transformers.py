"""Hugging Face's Trainer in the bed: shuffled data, accumulated gradients, dropout, evaluation; one process or two."""

import os
from pathlib import Path
from typing import Any

import accelerate
import holdfast
import torch
import transformers
from adapter_bed import AtStep, Bed, digest, main
from holdfast.adapters.accelerate import AccelerateState
from holdfast.adapters.transformers import HoldfastCallback
from holdfast.errors import HoldfastError

transformers.Trainer, transformers.TrainingArguments  # both load what they need once, before the forks  # noqa: B018
torch.optim.AdamW(torch.nn.Linear(1, 1).parameters())
ROWS, STEPS = 48, 20


class Data(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.sin(torch.arange(6.0) + 10 * index), "labels": torch.tensor([float(index % 3)])}


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.net(x)
        return {"loss": (found - labels).pow(2).mean(), "logits": found}


class Step(transformers.TrainerCallback):
    """Calls the bed within each step."""

    def __init__(self, at_step: AtStep) -> None:
        self._at_step = at_step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._at_step(state.global_step)


def trainer_of(directory: Path, at_step: AtStep) -> tuple[transformers.Trainer, HoldfastCallback]:
    torch.manual_seed(0)
    arguments = transformers.TrainingArguments(
        output_dir=str(directory.parent / "own"),
        max_steps=STEPS,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4 // int(os.environ.get("WORLD_SIZE", "1")),
        eval_strategy="steps",
        eval_steps=4,
        save_strategy="no",
        logging_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    callback = HoldfastCallback(directory=directory, every_steps=3)
    callbacks = [Step(at_step), callback]
    return transformers.Trainer(Model(), arguments, train_dataset=Data(), eval_dataset=Data(), callbacks=callbacks), callback


def train(directory: Path, at_step: AtStep) -> str:
    """Three lines of a user's: the callback, the trainer, train."""
    trainer, callback = trainer_of(directory, at_step)
    trainer.train(resume_from_checkpoint=callback.resume_path(trainer))
    evaluated = [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert evaluated == [4, 8, 12, 16, 20], f"each evaluation is in the history once: {evaluated}"
    weights = [value.numpy().tobytes() for value in trainer.accelerator.unwrap_model(trainer.model).state_dict().values()]
    return digest([*weights, torch.get_rng_state().numpy().tobytes()])


def without_path(directory: Path, at_step: AtStep) -> str:
    """Somebody forgets to say what to resume from; what that is told, without the call and without its answer."""
    told = []
    for asked in (False, True):
        train(directory, at_step) if asked else None
        trainer, callback = trainer_of(directory, at_step)
        callback.resume_path(trainer) if asked else None
        try:
            trainer.train()
        except HoldfastError as fault:
            told.append(str(fault))
    return "\n".join(told)


def misuse(bed: Bed) -> dict[str, Any]:
    return {"told": bed.run("misuse", "misuse"), "logs": bed.logs()}


def loop(directory: Path, at_step: AtStep) -> str:
    """A loop of one's own with Accelerate; the batches are a function of the step."""
    accelerator = accelerate.Accelerator(cpu=True)
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model, optimizer = accelerator.prepare(model, optimizer)
    run = holdfast.Run(state=AccelerateState(accelerator), directory=directory, every_steps=3)
    data = Data()
    for step in run.steps(STEPS):
        at_step(step)
        loss = model(**torch.utils.data.default_collate([data[2 * step], data[2 * step + 1]]))["loss"]
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
    return digest([*(value.numpy().tobytes() for value in model.state_dict().values()), torch.get_rng_state().numpy().tobytes()])


if __name__ == "__main__":
    torch.set_num_threads(1)
    parts = {"alone": (train, Bed.alone), "ranks": (train, Bed.ranks), "accelerate": (loop, Bed.alone)}
    main({**parts, "misuse": (without_path, misuse)})
