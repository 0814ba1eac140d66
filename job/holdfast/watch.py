"""Seeing a notice: the file is the truth, a signal only wakes a thread that looks at it.

Python runs a signal's handler in the main thread between bytecodes, so not before a collective or a kernel launch
returns (measured: 5 s late in a gloo barrier); a byte on a wake-up descriptor reaches a thread in about a millisecond.
"""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable
from types import FrameType

from holdfast.clock import Clock
from holdfast.jobdir import Notice, NoticeFile

POLL_EVERY_S = 1.0
"""How often the thread looks without being woken: lost signals, containers and spawned workers then cost a second."""


def _ignore(_signal: int, _frame: FrameType | None) -> None:
    """The handler of the wake-up signal: its descriptor does the work. It stands so that the signal does not kill."""


class WakeUp:
    """SIGUSR1 as a wake-up. `signal` is its number, or None where it could not be had without taking it from the user."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.reader, self._writer = -1, -1

    def install(self) -> None:
        """Open the pipe. The signal only in the main thread, and only if neither it nor the wake-up descriptor is in use."""
        self.reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGUSR1) not in (signal.SIG_DFL, signal.SIG_IGN, _ignore):
            return
        before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)
            return
        signal.signal(signal.SIGUSR1, _ignore)
        self.signal = int(signal.SIGUSR1)

    def poke(self) -> None:
        """Wake the thread from within the process."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full of wake-ups already
            os.write(self._writer, b"\0")

    def close(self) -> None:
        """Give the descriptors back; nothing happens the second time. The handler stays: a late wake-up must not kill."""
        if self.reader < 0:
            return
        if self.signal is not None and threading.current_thread() is threading.main_thread():
            before = signal.set_wakeup_fd(-1)
            if before not in (-1, self._writer):
                signal.set_wakeup_fd(before)
        os.close(self._writer)
        os.close(self.reader)
        self.reader = self._writer = -1


class Watch:
    """Polls the notice file from the training loop and from a thread; remembers which notices have been dealt with.

    `on_seen` is called once for each notice, from whichever thread saw it, with the Unix time of that moment; no other thread
    gets the notice from here before it has returned.
    """

    def __init__(self, file: NoticeFile | None, clock: Clock, on_seen: Callable[[Notice, float], None]) -> None:
        self._file = file
        self._clock = clock
        self._on_seen = on_seen
        self._seen: dict[tuple[str, str], float] = {}
        self._handled: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self.standing: Notice | None = None
        """The notice that stood at the last look. Reading it takes no lock, so that a signal handler may."""
        self._changed = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.wake = WakeUp()

    def start(self) -> None:
        """Install the wake-up and start the thread, if there is a file to watch."""
        if self._file is None or self._thread is not None:
            return
        self.wake.install()
        self._thread = threading.Thread(target=self._run, name="holdfast-watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            if select.select([self.wake.reader], [], [], POLL_EVERY_S)[0]:
                try:
                    os.read(self.wake.reader, 4096)
                except BlockingIOError:
                    continue
            self.poll()

    def poll(self) -> Notice | None:
        """Look at the file; the notice that stands in it, dealt with or not."""
        if self._file is None:
            return None
        with self._lock:
            notice = self.standing = self._file.poll()
            if notice is None:  # withdrawn, or never there: should it come again, it counts as new
                self._seen.clear()
                self._handled.clear()
            if notice is None or notice.key in self._seen:
                return notice
            seen_at = self._seen[notice.key] = self._clock.wall()
            self._on_seen(notice, seen_at)  # held until told: else a thread that is late tells of it after a newer one, or after the save
        self._changed.set()
        return notice

    def pending(self) -> tuple[Notice, float] | None:
        """The notice that has not been dealt with, and when it was seen."""
        notice = self.poll()
        if notice is None or notice.key in self._handled:
            return None
        return notice, self._seen.get(notice.key, self._clock.wall())

    def handled(self, notice: Notice) -> None:
        """It has been dealt with: by a save, or by being learnt of while parked."""
        self.handled_key(notice.key)

    def handled_key(self, key: tuple[str, str]) -> None:
        """The notice of that key has been dealt with."""
        self._handled.add(key)

    def wait(self, seconds: float) -> None:
        """Wait that long, or until a new notice is seen."""
        self._changed.wait(seconds)
        self._changed.clear()

    def close(self) -> None:
        """Stop the thread and give the wake-up back."""
        if self._thread is not None:
            self._stopping = True
            self.wake.poke()
            self._thread.join(timeout=5)
            self._thread = None
        self.wake.close()
