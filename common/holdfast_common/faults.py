"""Death at a chosen step: `HOLDFAST_FAULT=evacuate.requeued:2` ends the process at the second pass of that point.

For tests of crash safety only: without the variable a fault point costs one look into a dictionary. The process ends by `os._exit`, as
after SIGKILL: nothing is flushed, no `finally` runs.
"""

import os

VARIABLE = "HOLDFAST_FAULT"
EXIT_CODE = 86

_passes: dict[str, int] = {}


def fault_point(name: str) -> None:
    """End the process here with code 86, if the environment names this point and it has been passed often enough.

    A malformed count is taken as 1: whoever set the variable wanted a death at this point.
    """
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    point, _, count = wanted.partition(":")
    if point != name:
        return
    _passes[name] = _passes.get(name, 0) + 1
    if _passes[name] >= (int(count) if count.isdecimal() else 1):
        os._exit(EXIT_CODE)
