"""What a test tells a gang of ranks."""

from typing import Any, TypedDict

SAMPLES, BATCH = 96, 12
"""The data set's, and of a step of all ranks together: 8 steps are an epoch."""


class Settings(TypedDict):
    """One attempt of a run. Folders are paths; the test makes them."""

    ranks: int
    steps: int
    port: int
    out: str
    """Gets `rank<r>.jsonl` (a line for each step), the gang's exit codes and words, and takes `go-<step>` for steps that are held."""
    checkpoints: str
    nodes: list[str]
    """A job directory for each rank."""
    kind: str
    """`ddp`, `fsdp`, `alone` (ranks that never meet in training), or `dropout` (DDP, with buffers, random states and a
    loader of each rank's own)."""
    acts: list[tuple[int, int, str, Any]]
    """Step, rank, and what happens in its body before it trains. See `gang_training.act`."""
    step_s: float
    digests: list[int]
    """Before these steps the whole state is digested."""
    stop: int | None
    """The loop is left by break in the body of this step."""
    environment: dict[str, dict[str, str]]
    """By rank."""
    run: dict[str, Any]
    """Arguments of `holdfast.Run`."""
