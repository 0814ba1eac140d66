"""A tiny language model under Hugging Face's Trainer, which saves on SIGTERM (`enable_jit_checkpoint`): nothing of Holdfast is in here."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

INTERRUPTED = 85  # the exit code that train.sh declares


class Steps(TrainerCallback):
    """Prints each step, and makes it last."""

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the Trainer before each step."""
        print(f"step {state.global_step} begins", flush=True)
        time.sleep(self.step_s)


def tiny_trainer(options: argparse.Namespace, *callbacks: TrainerCallback, **settings: Any) -> Trainer:
    """Return a trainer of a model with some thousand parameters on random tokens."""
    torch.manual_seed(7)
    tokens = torch.randint(0, 64, (512, 16))
    data = [{"input_ids": row, "labels": row} for row in tokens]
    # No dropout: what the Trainer saves in the middle of a step has drawn this step's masks, and the step done again would draw others.
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes = {"vocab_size": 64, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **no_dropout, bos_token_id=0, eos_token_id=0))
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True}
    sized = {"max_steps": options.steps, "per_device_train_batch_size": 4}
    args = TrainingArguments(output_dir=str(options.out), **sized, **quiet, **settings)
    return Trainer(model=model, args=args, train_dataset=data, callbacks=list(callbacks))


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--step-s", type=float, default=0.1, help="how long a step lasts, to try things at leisure")
    parser.add_argument("--out", type=Path, default=Path("out"), help="a folder that all nodes see")
    return parser.parse_args()


def main() -> None:
    """Train, or go on where the attempt before this one was."""
    options = arguments()
    # On SIGTERM: wait three seconds, save at the next step, end.
    trainer = tiny_trainer(options, Steps(options.step_s), enable_jit_checkpoint=True, save_steps=50)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(options.out)) if options.out.is_dir() else None)
    if trainer.state.global_step < options.steps:
        sys.exit(INTERRUPTED)  # the Trainer ends as if all were done
    torch.save(trainer.model.state_dict(), options.out / "model.pt")


if __name__ == "__main__":
    main()
