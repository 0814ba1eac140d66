"""The kinds of jobs that there are, as docs/researchers.md tells what becomes of each when its node goes away."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EXIT_CODE = 85


@dataclass(frozen=True)
class Kind:
    """What a job of this kind is to Slurm and does on a notice."""

    registers: bool = False
    """It uses the library: it saves, parks, and says so."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the fake's `submit`."""
    leaves: str = ""
    """How it ends at USR1, once it has saved: with its `declared` exit code, `done` (0), `failed` (1), or by a `requeue` of its own."""
    saves: bool = True
    """It saves now and then, and so begins at its newest save."""
    lost_with_node: bool = False
    """Slurm cannot requeue it."""


SIGNAL = {"comment": "holdfast: signal=USR1"}
KINDS = {
    "library": Kind(registers=True),
    "stubborn": Kind(registers=True, options={"stop_s": 4.0}),
    "plain": Kind(),
    "stateless": Kind(saves=False),
    "signal": Kind(options={"comment": f"holdfast: signal=USR1 exit_code={EXIT_CODE}"}, leaves="declared"),
    "ends well on it": Kind(options=SIGNAL, leaves="done"),
    "fails on it": Kind(options=SIGNAL, leaves="failed"),
    "requeues itself": Kind(options=SIGNAL, leaves="requeue"),
    "salloc": Kind(options={"batch": False}, lost_with_node=True),
    "no-requeue": Kind(registers=True, options={"requeue": False}, lost_with_node=True),
}
