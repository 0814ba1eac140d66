"""Progress on stderr: a bar by rich where that is installed and stderr is a terminal, else a plain line every few seconds."""

import importlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from holdfast.cli.checkpoint_text import size
from holdfast.store.base import Progress

LINE_EVERY_S = 5.0


@contextmanager
def display(wanted: bool | None) -> Iterator[Callable[[str], Progress | None]]:
    """Gives a function from a label to a callback for the bytes of that task. None: nothing is to be shown (`wanted` is False, or None
    and stderr is no terminal).
    """
    terminal = sys.stderr.isatty()
    if wanted is False or (wanted is None and not terminal):
        yield lambda _label: None
    elif terminal and importlib.util.find_spec("rich") is not None:
        with _rich() as bars:
            yield lambda label: _bar(bars, label)
    else:
        yield _Lines


def _rich() -> Any:
    progress = importlib.import_module("rich.progress")
    columns = [progress.TextColumn("{task.description}"), progress.BarColumn(), progress.DownloadColumn()]
    columns += [progress.TransferSpeedColumn(), progress.TimeRemainingColumn()]
    return progress.Progress(*columns, console=importlib.import_module("rich.console").Console(stderr=True), transient=True)


def _bar(bars: Any, label: str) -> Progress:
    task = bars.add_task(label)
    return lambda done, total: bars.update(task, completed=done, total=total, visible=done < total)


class _Lines:
    """One task, told in lines."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._began = self._told = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self._told < LINE_EVERY_S:
            return
        self._told = now
        speed = size(int(done / max(now - self._began, 1e-3)))
        print(f"{self._label}: {size(done)} of {size(total)}, {speed}/s", file=sys.stderr, flush=True)
