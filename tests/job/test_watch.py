import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from holdfast.clock import Clock
from holdfast.jobdir import NoticeFile
from holdfast.watch import Watch


@pytest.fixture
def watch(node: Any) -> Iterator[Watch]:
    made = Watch(NoticeFile(node.path / "node" / "notice.json", print), Clock(), lambda notice, t: None)
    yield made
    made.close()
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def test_the_signal_wakes_the_thread(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.watch.POLL_EVERY_S", 60.0)
    seen = threading.Event()
    watch = Watch(NoticeFile(node.path / "node" / "notice.json", print), Clock(), lambda notice, t: seen.set())
    try:
        watch.start()
        node.notify()
        assert not seen.wait(0.02)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert seen.wait(8)
    finally:
        watch.close()


def test_a_lost_signal_costs_a_poll(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.watch.POLL_EVERY_S", 0.02)
    seen = threading.Event()
    watch = Watch(NoticeFile(node.path / "node" / "notice.json", print), Clock(), lambda notice, t: seen.set())
    try:
        watch.start()
        node.notify()
        assert seen.wait(8)
    finally:
        watch.close()


def test_a_users_handler_is_left_alone(watch: Watch) -> None:
    called: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: called.append(number))
    watch.start()
    assert watch.wake.signal is None
    os.kill(os.getpid(), signal.SIGUSR1)
    assert called == [signal.SIGUSR1]


def test_a_users_wakeup_descriptor_is_left_alone(watch: Watch) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(writer)
    try:
        watch.start()
        assert watch.wake.signal is None
        assert signal.set_wakeup_fd(-1) == writer
    finally:
        signal.set_wakeup_fd(-1)
        os.close(reader)
        os.close(writer)


def test_outside_the_main_thread_there_is_no_signal(watch: Watch) -> None:
    thread = threading.Thread(target=watch.start)
    thread.start()
    thread.join()
    assert watch.wake.signal is None
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_late_wake_up_after_closing_does_not_kill(node: Any) -> None:
    watch = Watch(NoticeFile(node.path / "node" / "notice.json", print), Clock(), lambda notice, t: None)
    watch.start()
    watch.close()
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


SLOW = """
import sys, time
import holdfast
run = holdfast.Run(directory=sys.argv[1])
for step in run.steps(1000):
    time.sleep(0.01)
"""


@pytest.mark.timeout(90)
def test_a_parked_process_dies_of_term_at_once(
    node: Any, tmp_path: Path, processes: Callable[..., subprocess.Popen[str]], until: Callable[..., Any]
) -> None:
    process = processes("-c", SLOW, str(tmp_path / "ck"))
    rank = until(lambda: node.report("rank.0").get("step", 0) >= 0 and node.report("rank.0"))
    assert rank["pid"] == process.pid
    until(lambda: node.report().get("state") == "running")
    node.notify()
    os.kill(process.pid, rank["wake_signal"])
    until(lambda: node.report().get("state") == "parked")
    process.terminate()
    assert process.wait(10) == -signal.SIGTERM
    lines = [json.loads(line) for line in (node.path / "job" / "timeline.rank0.jsonl").read_text().splitlines()]
    assert lines[0]["event"] == "process_start"
    assert lines[-1]["event"] == "parked"
    told = [line["event"] for line in lines]
    assert told.index("notice_seen") < told.index("save_began")
    by_the_loop = [line["t"] for line in lines if line["event"] != "notice_seen"]  # that comes from another thread, between any two
    assert by_the_loop == sorted(by_the_loop)
