"""A training run without a framework: its "weights" are a chain of hashes over the steps and Python's random numbers.

So whatever is lost, done twice or drawn anew between two attempts shows in the last hash. Standard library only; checkpoints as any
other job, through `holdfast.Run`. The result goes to --out as JSON: step, digest.
"""

import argparse
import hashlib
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import holdfast


class Weights:
    """The chain, and some ballast that makes a checkpoint as large as asked for."""

    def __init__(self, ballast_kib: int) -> None:
        self.digest = b""
        self._ballast = bytes(1024 * ballast_kib)

    def train(self, step: int) -> None:
        self.digest = hashlib.sha256(self.digest + f"{step}/{random.random()}".encode()).digest()

    def state_dict(self) -> dict[str, Any]:
        return {"digest": self.digest, "ballast": self._ballast}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.digest = state["digest"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--step-s", type=float, default=0.05)
    parser.add_argument("--every-steps", type=int)
    parser.add_argument("--ballast-kib", type=int, default=1)
    parser.add_argument("--until", type=Path, help="go on until this file is there, with --steps the most")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    random.seed(7)
    weights = Weights(options.ballast_kib)
    run = holdfast.Run(weights, every_steps=options.every_steps)
    for step in run.steps(options.steps):
        weights.train(step)
        time.sleep(options.step_s)
        if options.until is not None and options.until.exists():
            break
    temporary = options.out.with_name(f"{options.out.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"step": run.step, "digest": weights.digest.hex()}))
    temporary.replace(options.out)


if __name__ == "__main__":
    main()
