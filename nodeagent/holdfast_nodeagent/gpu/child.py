"""The NVML process: reads by tiers, waits for events, and writes what it finds to its standard output, a line each (see protocol.py).

It is a process of its own because a call may hang in the driver for ever, in a state that cannot be ended, or crash. It lives no longer
than the agent: the end of its input, SIGTERM (which the kernel sends as well when the agent's thread is gone) have it shut NVML down
and leave, as soon as no call is under way; after 30 s it leaves without that.

Started by process.command, as a bare interpreter, with the arguments LIBRARY FAST_S MEDIUM_S SLOW_S.
"""

import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

import pynvml

from holdfast_nodeagent.gpu.rounds import Gpus, Line

EVENT_WAIT_MS = 1000
"""An event ends the wait at once; this is how soon the thread sees that it shall leave."""
EVENT_PAUSE_S = 1.0
"""After an error of the wait: while a GPU is lost, each gives one at once."""
LEAVE_S = 30.0
"""For a call that is under way. A process that ends in the middle of one has frozen GPUs (dcgm-exporter#84)."""
EXTRA_ROUND_S = 1.0
"""Between two fast rounds that events bring forward."""
NO_NVML = 3
"""The status where NVML cannot be loaded or begun."""
_PR_SET_PDEATHSIG = 1
_WANTED_EVENTS = pynvml.nvmlEventTypeXidCriticalError | pynvml.nvmlEventTypeGpuUnavailableError | pynvml.nvmlEventTypeGpuRecoveryAction


class Child:
    """A thread that begins NVML and polls, and one that waits for events; the main one never calls NVML before they are done."""

    def __init__(self, library: str, intervals_s: dict[str, float]) -> None:
        self._library = library
        self._intervals_s = intervals_s
        self._leaving = threading.Event()
        self._wake = threading.Event()
        self._writing = threading.Lock()
        self._read_all = False
        self._begun = False
        self._registered: set[str] = set()
        self._poller = threading.Thread(target=self._work, daemon=True)
        self._waiter = threading.Thread(target=self._wait_for_events, daemon=True)

    def run(self) -> int:
        """Start, and follow the input to its end, or until SIGTERM. Returns the status."""
        self._poller.start()
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            while chunk := os.read(0, 4096):
                if b"now" in chunk:
                    self._read_all = True
                    self._wake.set()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it comes together with the input's end
        except SystemExit:
            pass
        return self._leave()

    def _leave(self) -> int:
        """NVML must not be shut down while a call is under way: that crashes (nvitop#222)."""
        self._leaving.set()
        self._wake.set()
        until = time.monotonic() + LEAVE_S
        self._poller.join(LEAVE_S)
        if self._begun:
            self._waiter.join(max(0.0, until - time.monotonic()))
        if self._poller.is_alive() or self._waiter.is_alive():
            os._exit(1)
        if not self._begun:
            return NO_NVML
        pynvml.nvmlEventSetFree(self._events)
        pynvml.nvmlShutdown()
        return 0

    def _work(self) -> None:
        """A fault of ours is no hang of the driver's, for which a machine is evacuated: it is said, and the process leaves."""
        try:
            self._begin_and_poll()
        except Exception as error:
            sys.excepthook(type(error), error, error.__traceback__)
            self._unavailable(f"fault in the NVML process: {type(error).__name__}: {error}")

    def _begin_and_poll(self) -> None:
        try:
            pynvml.nvmlLib = ctypes.CDLL(self._library or "libnvidia-ml.so.1")
            pynvml.nvmlInit()
            self._gpus = Gpus()
            self._events = pynvml.nvmlEventSetCreate()
        except (OSError, pynvml.NVMLError) as error:
            self._unavailable(str(error))
            return
        self._say(self._gpus.inventory())
        self._register()
        self._waiter.start()
        self._begun = True
        self._poll()

    def _unavailable(self, reason: str) -> None:
        self._say({"kind": "unavailable", "reason": "".join(letter for letter in reason[:200] if letter.isprintable())})
        os.kill(os.getpid(), signal.SIGTERM)  # the main thread waits for its input

    def _say(self, line: Line) -> None:
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        with self._writing:
            while data:
                data = data[os.write(1, data) :]

    def _poll(self) -> None:
        """Each tier is read on its own grid; the beat is said by this thread alone, so that a call that hangs is missed."""
        due_at = dict.fromkeys(self._intervals_s, 0.0)
        while not self._leaving.is_set():
            now, everything = time.monotonic(), self._read_all
            self._read_all = False
            due = [tier for tier in due_at if everything or now >= due_at[tier]]
            for tier in due:
                due_at[tier] = now + self._intervals_s[tier]
                self._round(tier)
                if self._leaving.is_set():
                    return
            self._wake.wait(max(0.0, min(due_at.values()) - time.monotonic()))
            if self._wake.is_set():
                self._wake.clear()
                due_at["fast"] = 0.0
                if not self._read_all:
                    self._leaving.wait(max(0.0, now + EXTRA_ROUND_S - time.monotonic()))

    def _round(self, tier: str) -> None:
        self._say(self._gpus.round(tier))
        if tier == "fast":
            self._say({"kind": "beat"})
        elif tier == "slow":
            self._say(self._gpus.processes())
            if self._gpus.find_more():
                self._register()
                self._say(self._gpus.inventory())

    def _register(self) -> None:
        """Ask for the events that each GPU has; asking for one that it has not is an error."""
        for device in self._gpus.devices:
            if device.uuid not in self._registered:
                try:
                    kinds = _WANTED_EVENTS & pynvml.nvmlDeviceGetSupportedEventTypes(device.handle)
                    pynvml.nvmlDeviceRegisterEvents(device.handle, kinds, self._events)
                except pynvml.NVMLError:
                    continue  # the kernel's log tells as well; tried again when a GPU is found
                self._registered.add(device.uuid)

    def _wait_for_events(self) -> None:
        while not self._leaving.is_set():
            try:
                event = pynvml.nvmlEventSetWait_v2(self._events, EVENT_WAIT_MS)
            except pynvml.NVMLError_Timeout:
                continue
            except pynvml.NVMLError:
                self._leaving.wait(EVENT_PAUSE_S)
                continue
            if event.eventType == pynvml.nvmlEventTypeXidCriticalError:
                self._say({"kind": "event", "code": event.eventData, "gpu": self._gpus.uuid(event.device)})
            self._wake.set()  # what follows from it stands in the fast readings


def _on_sigterm(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit


def main(arguments: Sequence[str]) -> int:
    """Run the process. Returns 0 when it was told to leave, NO_NVML where there is none."""
    library, *seconds = arguments
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until the main thread waits; the others never take it
    signal.signal(signal.SIGTERM, _on_sigterm)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    return Child(library, dict(zip(("fast", "medium", "slow"), map(float, seconds), strict=True))).run()
