"""The thread that writes checkpoints while training goes on: one job after another, in the order in which they were given."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """A daemon thread, started with the first job: unlike an executor's, it lets a process end whose file system hangs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, work: Callable[[], T]) -> Future[T]:
        """Do `work` after everything that was given before; the future has what it returns or raises."""
        future: Future[T] = Future()
        self._jobs.put((work, future))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        return future

    def stop(self) -> None:
        """End the thread once all that was given is done; waits for that."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while job := self._jobs.get():
            work, future = job
            try:
                future.set_result(work())
            except BaseException as fault:
                future.set_exception(fault)
            del job, work, future  # and with them what they hold while the thread waits
