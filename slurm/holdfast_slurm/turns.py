"""Places for the commands that run at a time: whoever finds none waits in line, once for each command or once for several in a row."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


class Turns:
    """`places` commands at a time, first come, first served."""

    def __init__(self, places: int) -> None:
        self._places = asyncio.Semaphore(places)
        self._holders: set[asyncio.Task[Any] | None] = set()

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Keep one place for all that this task runs meanwhile, one command after another. Within another `together` it is that one's."""
        task = asyncio.current_task()
        if task in self._holders:
            yield
            return
        async with self._places:
            self._holders.add(task)  # the task, not its context: a task that it starts takes that along, and waits in line itself
            try:
                yield
            finally:
                self._holders.discard(task)
