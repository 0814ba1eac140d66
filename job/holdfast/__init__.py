"""Checkpointing for training jobs on nodes that can be taken away.

    run = holdfast.Run(model=model, optimizer=optimizer, loader=loader)
    for step in run.steps(total):
        loss = train(step)
        run.log(loss=loss)

Importing this needs the standard library only. Outside Slurm and Holdfast the same script runs unchanged: there are no
notices then. What each attempt records of itself, and its schema: `holdfast.timeline`.
"""

import time
from typing import Any

from holdfast.clock import Clock
from holdfast.errors import BadCheckpointError, Fenced, HoldfastError, ProtocolError, SaveError
from holdfast.jobdir import Notice
from holdfast.run import Run
from holdfast.timeline import mark_early as _mark_early

__all__ = ["BadCheckpointError", "Clock", "Fenced", "HoldfastError", "Notice", "ProtocolError", "Run", "SaveError", "mark"]


def mark(event: str, **keys: Any) -> None:
    """Record a moment of start-up in the attempt's timeline, such as `mark("torch_loaded")`; call it before `Run`."""
    _mark_early(event, time.time(), keys)
