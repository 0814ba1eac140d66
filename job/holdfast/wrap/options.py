"""What `holdfast run` was asked for."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

AUTO, NONE = "auto", "none"


@dataclass(frozen=True)
class Options:
    """`signal`: "auto" (by the framework that is seen), "none", or a signal's number; `checkpoints`: places, empty to find them out."""

    command: Sequence[str]
    checkpoints: Sequence[str] = field(default=())
    signal: str | int = AUTO
    resume_args: Sequence[str] = field(default=())
    hook: bool = True
    verify: bool = True


def parse_signal(text: str) -> str | int:
    """ "auto", "none", or the number of a signal given as `USR1`, `SIGUSR1` or `10`. Raises ValueError."""
    if text.lower() in (AUTO, NONE):
        return text.lower()
    name = text.upper()
    if name.isdecimal():
        number = int(name)
    else:
        found = signal.Signals.__members__.get(name if name.startswith("SIG") else "SIG" + name)
        number = 0 if found is None else int(found)
    if number not in signal.valid_signals() or number in (signal.SIGKILL, signal.SIGSTOP):
        raise ValueError(f"{text!r} is no signal that a program can catch")
    return number


def name_of(number: int) -> str:
    """A signal's name, such as SIGUSR1."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
