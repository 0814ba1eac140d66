"""Lines of the kernel's log: every form that drivers write, and what hostile programs put into them."""

import time

import pytest
from holdfast_common.health.dedupe import MOST, SAME_S, Dedupe
from holdfast_common.health.kernel import MAX_LINE, parse_line
from holdfast_common.health.model import GpuEvent
from hypothesis import given
from hypothesis import strategies as st

AT = 1_000_000.0
PCI = "PCI:0000:3b:00"
XIDS = [
    ("NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.", 79, 0, "<unknown>", False),
    ("NVRM: Xid (PCI:0000:3b:00): 31, pid=411, name=python3, Ch 00000008, intr 00000000. MMU Fault", 31, 411, "python3", False),
    ("NVRM: Xid (PCI:0000:3B:00): 13, pid='411', Graphics SM Warp Exception", 13, 411, "", False),
    ("NVRM: Xid (PCI:0000:3b:00): 62, 0cb5(3030) 00000000 00000000", 62, 0, "", False),
    ("NVRM: Xid (0000:3b:00): 43, Ch 00000010", 43, 0, "", False),
    ("NVRM: Xid (PCI:0000:3b:00 GPU-I:03): 94, pid=7, name=a.out, Contained: SM (0x1)", 94, 7, "a.out", False),
    ("NVRM: Xid (PCI:0000:3b:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 08 (0x004505c6)", 149, 0, "", True),
    ("NVRM: Xid (PCI:0000:3b:00): 149, NETIR_LINK_EVT  Nonfatal   XC0 i0 Link 08 (0x004505c6)", 149, 0, "", False),
    ("NVRM: Xid (PCI:0000:3b:00): 74, NVLink: fatal error detected on link 4(0x10000, 0x0)", 74, 0, "", True),
    ("NVRM: Xid (PCI:0000:3b:00): 48", 48, 0, "", False),
    ("[  412.5] NVRM: Xid (PCI:0000:3b:00): 154, GPU recovery action changed from 0x0 (None) to 0x1", 154, 0, "", False),
]
SXIDS = [
    ("nvidia-nvswitch3: SXid (PCI:0000:3b:00.0): 12028, Non-fatal, Link 32 egress non-posted PRIV error (First)", 12028, False),
    ("nvidia-nvswitch3: SXid (PCI:0000:3b:00.0): 20034, Fatal, Link 30 LTSSM Fault Up", 20034, True),
    ("nvidia-nvswitch0: SXid (PCI:0000:3b:00.0): 10003, Host_req_timeout", 10003, False),
]
OFF_BUS = ["NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.", "NVRM: The GPU at PCI:0000:3b:00: has fallen off the bus"]
OTHERS = [
    "",
    "usb 1-1: new device",
    "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.54.15",
    "NVRM: Xid (PCI:0000:3b:00): abc",
    "NVRM: Xid (PCI:zz:3b:00): 79",
    "NVRM: Xid (PCI:0000:3b:00): 12345678, more digits than an XID has",
    "Xid (PCI:0000:3b:00): 79",
    "NVRM: GPU 0000:3b:00.0: RmInitAdapter failed! (0x26:0x56:1474)",
]


@pytest.mark.parametrize(("line", "code", "pid", "process", "fatal"), XIDS)
def test_an_xid(line: str, code: int, pid: int, process: str, fatal: bool) -> None:
    assert parse_line(line, AT) == GpuEvent(AT, "xid", code, PCI, line, fatal, pid, process)


@pytest.mark.parametrize(("line", "code", "fatal"), SXIDS)
def test_an_sxid(line: str, code: int, fatal: bool) -> None:
    assert parse_line(line, AT) == GpuEvent(AT, "sxid", code, f"{PCI}.0", line, fatal)


@pytest.mark.parametrize("line", OFF_BUS)
def test_a_gpu_that_has_fallen_off_the_bus(line: str) -> None:
    event = parse_line(line, AT)
    assert event is not None
    assert (event.kind, event.code, event.gpu.removesuffix(".0"), event.fatal) == ("off_bus", 0, PCI, True)


@pytest.mark.parametrize("line", OTHERS)
def test_any_other_line(line: str) -> None:
    assert parse_line(line, AT) is None


def test_a_processs_name_cannot_say_what_the_driver_does() -> None:
    event = parse_line("NVRM: Xid (PCI:0000:3b:00): 43, pid=9, name=x\x1b[2J\n, Ch 1", AT)
    assert event is not None
    assert (event.code, event.pid, event.process) == (43, 9, "x[2J")
    assert event.text.isprintable()


def test_a_processs_name_does_not_make_an_error_fatal() -> None:
    event = parse_line("NVRM: Xid (PCI:0000:3b:00): 145, pid=9, name=fatal, RLW_CTRL XC0 i0", AT)
    assert event is not None
    assert not event.fatal


PIECES = st.sampled_from(
    ["NVRM: ", "Xid ", "SXid ", "(PCI:", "0000:3b:00", "): ", "79", ", ", "pid=", "'", "name=", "GPU ", "fallen off the bus"]
)


@given(st.lists(st.one_of(PIECES, st.text(max_size=20)), max_size=30).map("".join))
def test_whatever_comes_is_an_event_or_none_and_bounded(line: str) -> None:
    event = parse_line(line, AT)
    if event is not None:
        assert event.at == AT
        assert 0 <= event.code <= 999_999
        assert 0 <= event.pid < 10**10
        assert len(event.text) <= 400
        assert len(event.process) <= 64
        assert len(event.gpu) <= 24
        assert (event.text + event.process + event.gpu).isprintable()


HOSTILE = [
    "NVRM: Xid (PCI:" + "0" * 10**6,
    "NVRM: GPU " * 10**5,
    "SXid (" * 10**5,
    "NVRM: Xid (PCI:0000:3b:00" + " (" * 10**5,
    "NVRM" + "pid='" * 10**5,
]


@pytest.mark.parametrize("line", HOSTILE)
def test_a_long_line_takes_no_long_time(line: str) -> None:
    began = time.process_time()
    for _ in range(20):
        assert parse_line(line, AT) is None
    assert time.process_time() - began < 1.0


def test_what_stands_behind_the_longest_line_is_not_read() -> None:
    begin, end = "NVRM: Xid (PCI:0000:3b:00): 145, ", "fatal"
    for filler, fatal in ((MAX_LINE - len(begin + end), True), (MAX_LINE, False)):
        event = parse_line(begin + " " * filler + end, AT)
        assert event is not None
        assert event.fatal is fatal


NAMED = ["NVRM: Xid (PCI:0000:3b:00): 79, x", "nvidia-nvswitch0: SXid (PCI:0000:3b:00.0): 12020, Fatal", *OFF_BUS]


@pytest.mark.parametrize("name", NAMED)
def test_a_control_groups_name_in_another_line_is_no_word_of_the_driver(name: str) -> None:
    assert parse_line(name, AT) is not None
    assert parse_line(f"<6>[   12.000001] {name}", AT) is not None
    assert parse_line(f"oom-kill:constraint=CONSTRAINT_MEMCG,task_memcg=/user.slice/{name},task=sh,pid=7", AT) is None


def said(source: str, after_s: float = 0.0, code: int = 79, gpu: str = "GPU-0", *, fatal: bool = False) -> GpuEvent:
    return GpuEvent(AT + after_s, "xid", code, gpu, fatal=fatal, source=source)  # type: ignore[arg-type]


def first_times(*events: GpuEvent) -> list[bool]:
    dedupe = Dedupe()
    return [dedupe.first_time(event) for event in events]


@pytest.mark.parametrize("pair", [("kmsg", "nvml"), ("nvml", "kmsg")])
def test_what_two_sources_tell_is_one_event(pair: tuple[str, str]) -> None:
    assert first_times(said(pair[0]), said(pair[1], SAME_S)) == [True, False]
    assert first_times(said(pair[0]), said(pair[1], SAME_S + 0.1)) == [True, True]
    assert first_times(said(pair[0], SAME_S), said(pair[1])) == [True, False]


def test_what_one_source_tells_twice_is_two() -> None:
    assert first_times(said("kmsg"), said("kmsg", 0.1), said("nvml", 0.2), said("nvml", 0.3), said("nvml", 0.4)) == [
        True,
        True,
        False,
        False,
        True,
    ]


def test_another_gpu_or_code_is_another_event() -> None:
    assert first_times(said("kmsg"), said("nvml", code=48), said("nvml", gpu="GPU-1")) == [True] * 3


def test_that_it_is_fatal_is_news_where_nvml_told_first() -> None:
    assert first_times(said("nvml"), said("kmsg", 1, fatal=True), said("kmsg", 2, fatal=True)) == [True, True, True]
    assert first_times(said("kmsg", fatal=True), said("nvml", 1)) == [True, False]


def test_dedupe_remembers_so_much_and_no_more() -> None:
    dedupe = Dedupe()
    for number in range(MOST + 1):
        assert dedupe.first_time(said("kmsg", gpu=f"GPU-{number}"))
    assert dedupe.first_time(said("nvml", gpu="GPU-0"))
    assert not dedupe.first_time(said("nvml", gpu=f"GPU-{MOST}"))
