"""Calls that may hang, in real threads and real time."""

import asyncio
import gc
import threading

import pytest
from holdfast_common.clock import SystemClock, settle
from holdfast_nodeagent.health.calls import ThreadCalls


async def test_a_call_returns_what_it_returns_and_raises_what_it_raises() -> None:
    calls = ThreadCalls(SystemClock())
    assert await calls.make("a", lambda: 7, 5.0) == 7

    def missing() -> int:
        raise FileNotFoundError(2, "No such file")

    with pytest.raises(FileNotFoundError):
        await calls.make("a", missing, 5.0)
    assert await calls.make("a", lambda: 8, 5.0) == 8


async def test_one_that_hangs_is_given_up_and_no_other_is_begun_on_its_subject() -> None:
    calls, goes_on, begun = ThreadCalls(SystemClock()), threading.Event(), list[str]()

    def hang() -> str:
        begun.append(threading.current_thread().name)
        goes_on.wait()
        return "late"

    for _ in range(3):
        with pytest.raises(TimeoutError, match=r"mount /ckpt has not answered within 0\.01 s"):
            await calls.make("mount /ckpt", hang, 0.01)
    assert await calls.make("disk /", lambda: "another subject", 5.0) == "another subject"
    assert len(begun) == 1
    waiting = asyncio.ensure_future(calls.make("mount /ckpt", lambda: "anew", 5.0))
    await asyncio.sleep(0)
    goes_on.set()
    assert await waiting == "late"
    assert await calls.make("mount /ckpt", lambda: "anew", 5.0) == "anew"


async def test_a_fault_that_comes_after_everyone_has_left_makes_no_noise(caplog: pytest.LogCaptureFixture) -> None:
    calls, goes_on = ThreadCalls(SystemClock()), threading.Event()

    def fail() -> None:
        goes_on.wait()
        raise OSError(5, "I/O error")

    with pytest.raises(TimeoutError):
        await calls.make("x", fail, 0.01)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "call x"]
    goes_on.set()
    thread.join()
    await settle()
    gc.collect()
    assert not caplog.records
    assert await calls.make("x", lambda: 1, 5.0) == 1
