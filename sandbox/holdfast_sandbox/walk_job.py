"""The job of a walk: `python -m holdfast_sandbox.walk_job --steps N --out FILE`, through the job library and nothing else.

Its "weights" are a chain of hashes over the steps and Python's random numbers, so that whatever is lost, done twice or drawn anew between
two attempts shows in the last hash. In a job of several nodes rank 0 trains, and the others hold their nodes until it is done.
"""

import argparse
import hashlib
import json
import os
import random
import time
from pathlib import Path
from typing import Any

SEED = 7
EVERY_STEPS = 50
"""A checkpoint as often as this, besides those for notices."""


class Weights:
    """The chain."""

    def __init__(self) -> None:
        self.digest = b""

    def train(self, step: int) -> None:
        """Do one step."""
        self.digest = hashlib.sha256(self.digest + f"{step}/{random.random()}".encode()).digest()

    def state_dict(self) -> dict[str, Any]:
        """As the job library wants it."""
        return {"digest": self.digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the job library wants it."""
        self.digest = state["digest"]


def undisturbed(steps: int) -> str:
    """Return the hash with which a run ends that nothing disturbs."""
    source = random.getstate()
    try:
        random.seed(SEED)
        weights = Weights()
        for step in range(steps):
            weights.train(step)
        return weights.digest.hex()
    finally:
        random.setstate(source)


def train(steps: int, step_s: float, out: Path) -> None:
    """Train, and write step and hash."""
    import holdfast

    random.seed(SEED)
    weights = Weights()
    run = holdfast.Run(weights, every_steps=EVERY_STEPS)
    attempt = os.environ.get("SLURM_RESTART_COUNT", "0")
    for step in run.steps(steps):
        weights.train(step)
        time.sleep(step_s)
        print(f"step {step} attempt {attempt}", flush=True)
    temporary = out.with_name(f"{out.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"step": run.step, "digest": weights.digest.hex()}), encoding="utf-8")
    temporary.replace(out)


def main() -> None:
    """Train as rank 0, or wait for it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--step-s", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if os.environ.get("SLURM_PROCID", "0") == "0":
        os.environ.update(RANK="0", WORLD_SIZE="1")
        train(options.steps, options.step_s, options.out)
    while not options.out.exists():
        time.sleep(0.2)


if __name__ == "__main__":
    main()
