"""A training function that submitit submits, checkpoints and requeues. Of Holdfast there is one line: the comment with the signal."""

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import submitit
import torch


class Training:
    """What submitit pickles. On SIGUSR2 it calls `checkpoint`, which says what to run after the requeue."""

    def __init__(self, steps: int, step_s: float, out: Path) -> None:
        self.steps, self.step_s, self.out = steps, step_s, out
        self.state: dict[str, Any] | None = None

    def __call__(self) -> int:
        """Train, or go on from the state that `checkpoint` took along."""
        torch.manual_seed(7)
        inputs = torch.randn(4096, 8)
        targets = inputs.sum(1, keepdim=True)
        model = torch.nn.Linear(8, 1)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        first = 0
        if self.state is not None:
            model.load_state_dict(self.state["model"])
            optimizer.load_state_dict(self.state["optimizer"])
            first = self.state["step"]
        for step in range(first, self.steps):
            print(f"step {step} begins", flush=True)
            time.sleep(self.step_s)
            samples = slice(step % 512 * 8, step % 512 * 8 + 8)
            loss = torch.nn.functional.mse_loss(model(inputs[samples]), targets[samples])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            # A copy between two steps: `checkpoint` is called wherever the signal finds us, half-way through a step too.
            self.state = copy.deepcopy({"step": step + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()})
        self.out.mkdir(exist_ok=True)
        torch.save(model.state_dict(), self.out / "model.pt")
        return self.steps

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return what to run next: this object, with its state."""
        return submitit.helpers.DelayedSubmission(self)


def main() -> None:
    """Submit the training, or do it here."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--step-s", type=float, default=0.1, help="how long a step lasts, to try things at leisure")
    parser.add_argument("--out", type=Path, default=Path("out"), help="a folder that all nodes see")
    parser.add_argument("--partition", help="submit to this partition; without it train here")
    options = parser.parse_args()
    training = Training(options.steps, options.step_s, options.out.absolute())
    if options.partition is None:
        training()
        return
    executor = submitit.SlurmExecutor(folder=options.out.absolute() / "submitit")
    executor.update_parameters(
        partition=options.partition,
        time=60,  # minutes; of ten or less submitit takes each interruption for a time-out, and gives up after the third
        comment="holdfast: signal=USR2",
        additional_parameters={"requeue": True},
        setup=['echo "attempt ${SLURM_RESTART_COUNT:-0} on $SLURMD_NODENAME"'],
    )
    print(executor.submit(training).job_id)


if __name__ == "__main__":
    main()
