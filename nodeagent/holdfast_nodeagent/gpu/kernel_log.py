"""The kernel's messages, from /dev/kmsg: the driver's XIDs stand there with the process that they are blamed on.

Format (Documentation/ABI/testing/dev-kmsg): `priority,sequence,microseconds,flags;text`, then continuation lines that begin with a
space and hold `KEY=value`, which are left out. Control characters and backslashes are written as `\\x0a`.
Nothing here can block: the device is read without waiting, and a regular file that stands for it is looked at ten times a second.
"""

import asyncio
import contextlib
import errno
import logging
import os
import re
import stat
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from holdfast_common.clock import Clock

FILE_POLL_S = 0.1
"""How often a regular file is looked at; the device itself wakes its reader."""
RETRY_S = 10.0
READ_BYTES = 64 * 1024
"""More than any record of the kernel's (CONSOLE_EXT_LOG_MAX is 8 KiB); for a smaller buffer than a record, it says EINVAL."""
MAX_LINE_BYTES = 64 * 1024
"""Of a regular file: a longer line is no record, and is dropped."""
YIELD_EVERY = 128
"""Records between two looks at other tasks: a full buffer at the start holds thousands."""

_RECORD = re.compile(rb"(\d{1,10}),(\d{1,20}),(\d{1,20}),[^;\n]*;([^\n]*)")
_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")

log = logging.getLogger(__name__)

Line = tuple[int, float, str]
"""Sequence number, Unix seconds, text."""


def parse_record(record: bytes, now: float, monotonic: float) -> Line | None:
    """Return one record, None where it is none (a continuation line, or broken).

    The kernel counts from its boot; where the wall clock was set since, the time is what it would have shown with today's setting.
    """
    match = _RECORD.match(record)
    if match is None:
        return None
    age_s = max(0.0, monotonic - int(match[3]) / 1e6)
    text = _ESCAPE.sub(lambda escape: bytes([int(escape[1], 16)]), match[4])
    return int(match[2]), now - age_s, text.decode("utf-8", "replace")


class KernelLog:
    """Reads the messages since boot that the kernel still has, and then each as it comes."""

    def __init__(self, path: Path, clock: Clock, after_seq: int = -1, on_caught_up: Callable[[], None] = lambda: None) -> None:
        """`on_caught_up` is called each time that there is nothing more to read, or the log cannot be read."""
        self._path = path
        self._on_caught_up = on_caught_up
        self._clock = clock
        self._after_seq = after_seq
        self.fault = ""
        """Why it cannot be read now; empty: it can."""

    async def lines(self) -> AsyncGenerator[Line]:
        """Yield (sequence number, Unix seconds, text) for ever, those after `after_seq`.

        Where the log is not there or may not be read, that is logged once, and it is tried again every 10 s. Closing the generator
        closes the log.
        """
        while True:
            try:
                handle = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                self._say(error.strerror or str(error))
                await self._clock.sleep(RETRY_S)
                continue
            try:
                self._say("")
                regular = stat.S_ISREG(os.fstat(handle).st_mode)
                records = self._file_records(handle) if regular else self._device_records(handle)
                async with contextlib.aclosing(records):
                    async for record in records:
                        line = parse_record(record, self._clock.now(), self._clock.monotonic())
                        if line is not None and line[0] > self._after_seq:
                            self._after_seq = line[0]
                            yield line
            except OSError as error:
                self._say(error.strerror or str(error))
                await self._clock.sleep(RETRY_S)
            finally:
                os.close(handle)

    def _say(self, fault: str) -> None:
        if fault and fault != self.fault:
            log.warning("the kernel's messages cannot be read from %s: %s", self._path, fault)
        self.fault = fault
        if fault:
            self._on_caught_up()

    async def _device_records(self, handle: int) -> AsyncGenerator[bytes]:
        """Yield what each read gives: one record. EPIPE: records were overwritten before we came; the next read goes on after them."""
        for count in range(1 << 62):
            if count % YIELD_EVERY == 0:
                await self._clock.sleep(0)
            try:
                record = os.read(handle, READ_BYTES)
            except BlockingIOError:
                self._on_caught_up()
                await _readable(handle)
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
                log.warning("some of the kernel's messages were overwritten before they could be read")
            else:
                if not record:
                    raise OSError(errno.EIO, "it ended")
                yield record

    async def _file_records(self, handle: int) -> AsyncGenerator[bytes]:
        """Yield the lines of a regular file as it grows; ends when another file has taken its name."""
        rest, position, count = b"", 0, 0
        while True:
            chunk = os.pread(handle, READ_BYTES, position)
            position += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                rest = b"!"  # what follows up to the line's end is no record either
            for line in lines:
                count += 1
                if count % YIELD_EVERY == 0:
                    await self._clock.sleep(0)
                yield line
            if len(chunk) == READ_BYTES:
                continue
            self._on_caught_up()
            await self._clock.sleep(FILE_POLL_S)
            if os.fstat(handle).st_size < position:  # truncated: it begins anew, and so do its numbers
                rest, position, self._after_seq = b"", 0, -1
            elif self._replaced(handle):
                self._after_seq = -1
                return

    def _replaced(self, handle: int) -> bool:
        try:
            return os.stat(self._path).st_ino != os.fstat(handle).st_ino
        except FileNotFoundError:
            return False


async def _readable(handle: int) -> None:
    """Wait until a device has something to read."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(handle, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(handle)
