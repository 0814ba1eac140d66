"""The state file: whatever stands in it, the library neither crashes nor believes half a line; and no writer loses another's changes."""

import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

from holdfast_sandbox.nvml import library as fake
from holdfast_sandbox.nvml.gpus import FakeGpus
from holdfast_sandbox.nvml.profiles import PROFILES

READ_ALL = """
import ctypes, pathlib, sys
import pynvml as nvml

def tried(call):
    try:
        return call()
    except (nvml.NVMLError, UnicodeDecodeError) as error:
        return error

state = pathlib.Path(sys.argv[1])
healthy = state.read_bytes()
nvml.nvmlInit()
gpu = nvml.nvmlDeviceGetHandleByIndex(0)
events = nvml.nvmlEventSetCreate()
nvml.nvmlDeviceRegisterEvents(gpu, 8, events)
for file in sorted(pathlib.Path(sys.argv[2]).iterdir()):
    state.write_bytes(file.read_bytes())
    for call in (
        nvml.nvmlDeviceGetCount,
        lambda: nvml.nvmlDeviceGetUUID(gpu),
        lambda: nvml.nvmlDeviceGetPciInfo(gpu).busId,
        lambda: nvml.nvmlDeviceGetMemoryInfo(gpu),
        lambda: nvml.nvmlDeviceGetComputeRunningProcesses(gpu),
        lambda: nvml.nvmlDeviceGetNvLinkState(gpu, 3),
        lambda: nvml.nvmlDeviceGetGpuFabricInfoV(gpu, ctypes.byref(nvml.c_nvmlGpuFabricInfo_v3_t())),
        lambda: nvml.nvmlDeviceGetFieldValues(gpu, list(range(308))),
        lambda: nvml.nvmlEventSetWait_v2(events, 0),
    ):
        tried(call)
state.write_bytes(healthy)
print(nvml.nvmlDeviceGetCount())
"""


def _garbage(healthy: bytes, seed: int) -> bytes:
    """Bytes at random, long lines, keys without values, numbers that are none; or the healthy file with some of that in it."""
    dice = random.Random(seed)
    keys = [line.split(b" ")[0] for line in healthy.splitlines()]
    lines = [] if dice.random() < 0.3 else healthy.splitlines()
    for _ in range(dice.randrange(1, 40)):
        key = dice.choice([*keys, b"event.1", b"gpu0.processes", b"gpu0.nvlink_down", b"gpu0.mig0.uuid", b"", b"x" * 5000])
        value = dice.choice(
            [
                b"",
                b"-1",
                b"!",
                b"!99999999999999999999",
                b"9" * 400,
                b"0x",
                b"1,,2,",
                b"1:2:3:4,5:",
                b"0 8",
                b"0 8 79 x",
                dice.randbytes(200),
                b"%s%n",
            ]
        )
        lines.insert(dice.randrange(len(lines) + 1), key + b" " + value)
    text = b"\n".join(lines)
    text = b"\n".join(line for line in text.splitlines() if b"hang" not in line and b"delay" not in line)
    return text[: dice.randrange(len(text) + 1)] if dice.random() < 0.3 else text


def test_garbage_neither_crashes_the_library_nor_stays(library: Path, gpus: FakeGpus, tmp_path: Path) -> None:
    files = tmp_path / "garbage"
    files.mkdir()
    healthy = gpus.state_file.read_bytes()
    for seed in range(300):
        (files / f"{seed:03}").write_bytes(_garbage(healthy, seed))
    (files / "300").write_bytes(b"count 8\n" * 200_000)
    env = {**os.environ, **fake.environment(library, gpus.state_file)}
    argv = [sys.executable, "-c", READ_ALL, str(gpus.state_file), str(files)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=25, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "8", "")


def test_a_number_that_is_none_is_an_error_and_not_a_zero(nvml: ModuleType, gpus: FakeGpus) -> None:
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    for word in ("warm", "12x", "9" * 30, "0x"):
        gpus.set("temperature", word)
        try:
            found: object = nvml.nvmlDeviceGetTemperature(handle, 0)
        except nvml.NVMLError_Unknown:
            found = "unknown"
        assert found == "unknown", word


def test_the_last_line_of_a_key_counts(nvml: ModuleType, gpus: FakeGpus) -> None:
    with gpus.state_file.open("a") as file:
        file.write("# by hand\n  gpu2.temperature   70  \r\ngpu2.temperature 71\n")
    assert nvml.nvmlDeviceGetTemperature(nvml.nvmlDeviceGetHandleByIndex(2), 0) == 71


def test_no_change_is_missed_however_fast_they_come(nvml: ModuleType, gpus: FakeGpus) -> None:
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    for celsius in [*range(10, 99)] * 3:  # all files are of one size
        gpus.set("temperature", celsius)
        assert nvml.nvmlDeviceGetTemperature(handle, 0) == celsius


def test_a_state_file_that_is_gone_has_no_gpus(nvml: ModuleType, gpus: FakeGpus) -> None:
    text = gpus.state_file.read_text()
    gpus.state_file.unlink()
    assert nvml.nvmlDeviceGetCount() == 0
    gpus.state_file.write_text(text)
    assert nvml.nvmlDeviceGetCount() == 8


def test_writers_at_once_lose_no_change_and_readers_see_no_half_file(nvml: ModuleType, gpus: FakeGpus) -> None:
    def write(writer: int) -> None:
        mine = FakeGpus(gpus.state_file)
        for number in range(25):
            mine.set(f"field.{300 + writer}", number, gpu=writer)
            mine.xid(writer, number)

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert nvml.nvmlDeviceGetCount() == 8
    for writer in range(4):
        value = nvml.nvmlDeviceGetFieldValues(nvml.nvmlDeviceGetHandleByIndex(writer), [300 + writer])[0]
        assert (value.nvmlReturn, value.value.uiVal) == (0, 24)
    assert "event_newest 100" in gpus.state_file.read_text()


def test_several_threads_read_while_the_state_changes(nvml: ModuleType, gpus: FakeGpus) -> None:
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    wrong: list[object] = []

    def read() -> None:
        for _ in range(500):
            name, power = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetPowerUsage(handle)
            if name != PROFILES["h100x8"].model or power not in range(1000, 1050):
                wrong.append((name, power))

    gpus.set("power_milliwatts", 1000)
    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for milliwatts in range(1000, 1050):
        gpus.set("power_milliwatts", milliwatts)
    for reader in readers:
        reader.join()
    assert wrong == []


def test_faults_can_be_told_by_a_process_that_did_not_install(gpus: FakeGpus) -> None:
    FakeGpus(gpus.state_file).lose(2)
    assert "gpu2.error 15" in gpus.state_file.read_text()
    FakeGpus(gpus.state_file).clear()
    assert "gpu2.error" not in gpus.state_file.read_text()
    assert FakeGpus(gpus.state_file).count == 8
