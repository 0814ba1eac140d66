"""The kernel's lines, and the file that stands for /dev/kmsg."""

import threading
from pathlib import Path

import pytest
from holdfast_sandbox.nvml.kernel_log import append, off_bus_line, sxid_line, xid_line

PCI = "0000:3b:00.0"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (xid_line(PCI, 79), "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."),
        (xid_line(PCI, 43, 812, "python3"), "NVRM: Xid (PCI:0000:3b:00): 43, pid=812, name=python3, Ch 00000010"),
        (xid_line(PCI, 999, text="odd"), "NVRM: Xid (PCI:0000:3b:00): 999, pid='<unknown>', name=<unknown>, odd"),
        (
            sxid_line("0000:c1:00.0", 20034, fatal=True, text="Link 30 LTSSM Fault Up"),
            "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
        ),
        (off_bus_line(PCI), "NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus."),
    ],
)
def test_lines_are_as_the_driver_writes_them(line: str, text: str) -> None:
    assert line == text


def test_records_are_as_dev_kmsg_has_them(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    assert [append(log, "first", at_us=1_500_000), append(log, "a\\b\nü", at_us=1_600_000)] == [0, 1]
    assert log.read_text() == "6,0,1500000,-;first\n6,1,1600000,-;a\\x5cb\\x0a\\xc3\\xbc\n"
    with log.open("a") as file:
        file.write(" SUBSYSTEM=pci\n")  # what the kernel adds to some records
    assert append(log, "third") == 2


def test_writers_at_once_give_each_record_its_own_number(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    writers = [threading.Thread(target=lambda: [append(log, "x" * 100) for _ in range(50)]) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [int(line.split(",")[1]) for line in log.read_text().splitlines()] == list(range(200))
