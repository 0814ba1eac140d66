"""The kernel's messages from a regular file, and from the kernel where that is allowed."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from holdfast_common.clock import SystemClock, VirtualClock
from holdfast_common.health.kernel import parse_line
from holdfast_nodeagent.gpu.kernel_log import RETRY_S, KernelLog, Line, parse_record
from holdfast_sandbox.nvml.kernel_log import append, xid_line
from hypothesis import given
from hypothesis import strategies as st

Eventually = Callable[[Callable[[], object]], Awaitable[None]]
KMSG = Path("/dev/kmsg")
NOW, UP_S = 1_700_000_000.0, 5000.0


def test_a_record() -> None:
    assert parse_record(b"6,339,4999000000,-;NVRM: Xid (PCI:0000:18:00): 79, pid=7\n SUBSYSTEM=pci\n", NOW, UP_S) == (
        339,
        NOW - 1.0,
        "NVRM: Xid (PCI:0000:18:00): 79, pid=7",
    )
    assert parse_record(b"4,1,5000000000,-,caller=T1;a;b\\x0ac\\xc3\\xa9\\x5cx\n", NOW, UP_S) == (1, NOW, "a;b\ncé\\x")


def test_a_message_of_three_lines_is_one_record_and_says_what_it_says() -> None:
    record = (
        b"3,412,4999000000,-;NVRM: The NVIDIA GPU 0000:b3:00.0\\x0aNVRM: (PCI ID: 10de:26b5) installed in this system has\\x0a"
        b"NVRM: fallen off the bus and is not responding to commands.\n"
    )
    line = parse_record(record, NOW, UP_S)
    assert line is not None
    event = parse_line(line[2], line[1])
    assert event is not None
    assert (event.kind, event.gpu, event.at) == ("off_bus", "PCI:0000:b3:00.0", NOW - 1.0)


def test_a_record_from_the_future_is_of_now() -> None:
    assert parse_record(b"6,1,9000000000,-;x", NOW, UP_S) == (1, NOW, "x")


@pytest.mark.parametrize("bad", [b"", b" SUBSYSTEM=pci", b"hello", b"6,1,2;", b"6,x,2,-;x", b"6,1,2,-", b"-6,1,2,-;x"])
def test_what_is_no_record(bad: bytes) -> None:
    assert parse_record(bad, NOW, UP_S) is None


@given(st.binary())
def test_any_bytes_are_a_record_or_none(record: bytes) -> None:
    for bytes_read in (record, b"6,1,2,-;" + record):
        line = parse_record(bytes_read, NOW, UP_S)
        assert line is None or line[1] <= NOW


class Reader:
    """Collects lines in a task."""

    def __init__(self, lines: AsyncGenerator[Line]) -> None:
        self.lines: list[Line] = []
        self._task = asyncio.create_task(self._read(lines))

    async def _read(self, lines: AsyncGenerator[Line]) -> None:
        async with aclosing(lines):
            async for line in lines:
                self.lines.append(line)

    @property
    def texts(self) -> list[str]:
        return [text for _, _, text in self.lines]

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


@pytest.fixture
async def follow(clock: VirtualClock) -> AsyncIterator[Callable[..., Reader]]:
    readers: list[Reader] = []

    def start(path: Path, after_seq: int = -1) -> Reader:
        readers.append(Reader(KernelLog(path, clock, after_seq).lines()))
        return readers[-1]

    yield start
    for reader in readers:
        await reader.close()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kmsg"


def write(path: Path, content: bytes, mode: str = "wb") -> None:
    with path.open(mode) as file:
        file.write(content)


async def test_a_file_is_read_from_its_beginning_and_followed(path: Path, clock: VirtualClock, follow: Callable[..., Reader]) -> None:
    append(path, xid_line("0000:18:00.0", 79, 4242, "python"))
    reader = follow(path)
    await clock.advance(0.1)
    append(path, "second")
    await clock.advance(0.1)
    assert [(seq, text.split(",")[0]) for seq, _, text in reader.lines] == [(0, "NVRM: Xid (PCI:0000:18:00): 79"), (1, "second")]


async def test_lines_up_to_the_one_last_seen_are_skipped(path: Path, clock: VirtualClock, follow: Callable[..., Reader]) -> None:
    for text in ("one", "two", "three"):
        append(path, text)
    reader = follow(path, after_seq=1)
    await clock.advance(0.1)
    assert reader.texts == ["three"]


async def test_half_a_line_waits_for_its_end(path: Path, clock: VirtualClock, follow: Callable[..., Reader]) -> None:
    write(path, b"6,0,1,-;on")
    reader = follow(path)
    await clock.advance(0.1)
    assert reader.texts == []
    write(path, b"e\n6,1,2,-;two\n SUBSYSTEM=pci\nrubbish\n6,2,3,-;three\n", "ab")
    await clock.advance(0.1)
    assert reader.texts == ["one", "two", "three"]


async def test_a_truncated_file_begins_anew(path: Path, clock: VirtualClock, follow: Callable[..., Reader]) -> None:
    for text in ("one", "two"):
        append(path, text)
    reader = follow(path)
    await clock.advance(0.1)
    write(path, b"6,0,1,-;new\n")
    await clock.advance(0.2)
    assert reader.texts == ["one", "two", "new"]


async def test_a_file_that_is_replaced_is_read_anew(path: Path, clock: VirtualClock, follow: Callable[..., Reader]) -> None:
    append(path, "one")
    reader = follow(path)
    await clock.advance(0.1)
    other = path.with_name("other")
    append(other, "a new one, which is longer")
    other.replace(path)
    await clock.advance(0.2)
    assert reader.texts == ["one", "a new one, which is longer"]


async def test_an_endless_line_takes_no_memory_and_hides_no_other(path: Path, clock: VirtualClock, follow: Callable[..., Reader]) -> None:
    write(path, b"6,0,1,-;" + b"x" * 1_000_000 + b"\n6,1,2,-;two\n")
    reader = follow(path)
    await clock.advance(0.1)
    assert reader.texts == ["two"]


async def test_thousands_of_lines_at_the_start_let_others_run(path: Path, clock: VirtualClock, follow: Callable[..., Reader]) -> None:
    write(path, b"".join(b"6,%d,1,-;x\n" % number for number in range(5000)))
    reader = follow(path)
    await asyncio.sleep(0)
    assert len(reader.lines) < 5000
    await clock.advance(0.1)
    assert len(reader.lines) == 5000


async def test_a_log_that_is_not_there_is_said_once_and_tried_again(
    path: Path, clock: VirtualClock, follow: Callable[..., Reader], caplog: pytest.LogCaptureFixture
) -> None:
    reader = follow(path)
    await clock.advance(3 * RETRY_S)
    assert [record.getMessage() for record in caplog.records] == [
        f"the kernel's messages cannot be read from {path}: No such file or directory"
    ]
    append(path, "one")
    await clock.advance(RETRY_S + 0.1)
    assert reader.texts == ["one"]


def open_descriptors(path: Path) -> list[str]:
    return [name for name in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{name}") == str(path)]


async def test_the_log_is_closed_with_its_reader(path: Path, clock: VirtualClock, follow: Callable[..., Reader]) -> None:
    append(path, "one")
    reader = follow(path)
    await clock.advance(0.1)
    assert open_descriptors(path)
    await reader.close()
    assert not open_descriptors(path)


def say(text: str) -> None:
    """Write to the kernel's own log. A message without a newline stays open there until the next one."""
    with KMSG.open("wb", buffering=0) as file:
        file.write(f"<6>{text}\n".encode())


async def test_the_kernels_own_log(eventually: Eventually) -> None:
    marker = f"holdfast test {os.getpid()}"
    try:
        say(marker)
    except OSError as error:
        pytest.skip(f"{KMSG} cannot be written here: {error.strerror}")
    reader = Reader(KernelLog(KMSG, SystemClock()).lines())
    try:
        await eventually(lambda: marker in reader.texts)
        say(f"{marker} again")
        await eventually(lambda: f"{marker} again" in reader.texts)
    finally:
        await reader.close()
    assert abs(reader.lines[-1][1] - SystemClock().now()) < 60
