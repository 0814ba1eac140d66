"""Drivers: older than the binding, not loaded, hung, slow; and how a process of its own finds the library."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from ctypes import byref
from pathlib import Path
from types import ModuleType

import pynvml
import pytest
from holdfast_sandbox.nvml import library as fake
from holdfast_sandbox.nvml.gpus import FakeGpus

OLD_LACKS = (
    "nvmlDeviceGetMarginTemperature",
    "nvmlDeviceGetGpuFabricInfoV",
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetComputeRunningProcesses_v3",
)


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_DRIVER_NOT_LOADED, pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH]
)
def test_nvml_cannot_be_begun(code: int, bind: Callable[[Path], ModuleType], library: Path, gpus: FakeGpus) -> None:
    nvml = bind(library)
    gpus.set("init_error", code)
    with pytest.raises(nvml.NVMLError) as caught:
        nvml.nvmlInit()
    assert caught.value.value == code
    with pytest.raises(nvml.NVMLError_Uninitialized):
        nvml.nvmlDeviceGetCount()
    gpus.clear()
    nvml.nvmlInit()
    assert nvml.nvmlDeviceGetCount() == 8
    nvml.nvmlShutdown()


def test_without_a_state_file_the_driver_is_not_loaded(bind: Callable[[Path], ModuleType], library: Path, gpus: FakeGpus) -> None:
    nvml = bind(library)
    gpus.state_file.unlink()
    with pytest.raises(nvml.NVMLError_DriverNotLoaded):
        nvml.nvmlInit()


def test_nvml_ends_with_the_last_shutdown(bind: Callable[[Path], ModuleType], library: Path) -> None:
    nvml = bind(library)
    nvml.nvmlInit()
    nvml.nvmlInit()
    nvml.nvmlShutdown()
    assert nvml.nvmlDeviceGetCount() == 8
    nvml.nvmlShutdown()
    with pytest.raises(nvml.NVMLError_Uninitialized):
        nvml.nvmlShutdown()


def test_an_old_driver_lacks_functions(
    built: Callable[[Collection[str]], Path], bind: Callable[[Path], ModuleType], library: Path, gpus: FakeGpus
) -> None:
    old = built(OLD_LACKS)
    assert old != library == built(())
    assert old.name == library.name == "libnvidia-ml.so.1"
    nvml = bind(old)
    nvml.nvmlInit()
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    for call in (
        nvml.nvmlDeviceGetMarginTemperature,
        nvml.nvmlDeviceGetCurrentClocksEventReasons,
        nvml.nvmlDeviceGetComputeRunningProcesses_v3,
    ):
        with pytest.raises(nvml.NVMLError_FunctionNotFound):
            call(handle)
    with pytest.raises(nvml.NVMLLibraryMismatchError):  # what the binding makes of it: no NVMLError
        nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    assert nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle) == 1
    gpus.processes(0, {12: 34})
    assert [process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses_v2(handle)] == [12]
    nvml.nvmlShutdown()


def test_a_function_to_do_without_must_be_one(built: Callable[[Collection[str]], Path]) -> None:
    with pytest.raises(ValueError, match="nvmlDeviceGetMargin"):
        built(("nvmlDeviceGetMargin",))


@pytest.mark.parametrize(
    ("function", "older", "call"),
    [
        ("nvmlDeviceGetMemoryInfo_v2", 1, lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu, nvml.nvmlMemory_v2)),
        ("nvmlDeviceGetTemperatureV", 0, lambda nvml, gpu: nvml.nvmlDeviceGetTemperatureV(gpu, 0)),
        ("nvmlDeviceGetMarginTemperature", 0, lambda nvml, gpu: nvml.nvmlDeviceGetMarginTemperature(gpu)),
        (
            "nvmlDeviceGetSramEccErrorStatus",
            0,
            lambda nvml, gpu: nvml.nvmlDeviceGetSramEccErrorStatus(gpu, byref(nvml.c_nvmlEccSramErrorStatus_v1_t())),
        ),
        ("nvmlDeviceGetGpuFabricInfoV", 2, lambda nvml, gpu: nvml.nvmlDeviceGetGpuFabricInfoV(gpu, byref(nvml.c_nvmlGpuFabricInfo_v3_t()))),
    ],
)
def test_an_old_driver_does_not_know_the_struct(
    function: str, older: int, call: Callable[[ModuleType, object], object], nvml: ModuleType, gpus: FakeGpus
) -> None:
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    call(nvml, handle)
    gpus.set(f"max_version.{function}", older)
    with pytest.raises(nvml.NVMLError_ArgumentVersionMismatch):
        call(nvml, handle)


def test_a_struct_must_say_its_size_and_version(nvml: ModuleType, gpus: FakeGpus) -> None:
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    for wrong in (2, 40, 0x1000028, 0x2000020, 0x3000028):
        with pytest.raises(nvml.NVMLError_ArgumentVersionMismatch):
            nvml.nvmlDeviceGetMemoryInfo(handle, wrong)
    gpus.set("max_version.nvmlDeviceGetGpuFabricInfoV", 2)
    second = nvml.c_nvmlGpuFabricInfo_v2_t()
    nvml.nvmlDeviceGetGpuFabricInfoV(handle, byref(second))
    assert (second.state, second.version) == (3, nvml.nvmlGpuFabricInfo_v2)


def test_a_hung_call_ends_when_the_hang_does_and_other_threads_go_on(nvml: ModuleType, gpus: FakeGpus) -> None:
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    ended = threading.Event()
    gpus.hang(True, functions="nvmlDeviceGetPowerUsage,nvmlDeviceGetTemperature")

    def call() -> None:
        nvml.nvmlDeviceGetPowerUsage(handle)
        ended.set()

    hung = threading.Thread(target=call)
    hung.start()
    for _ in range(50):
        assert nvml.nvmlDeviceGetPersistenceMode(handle) == 1
    assert not ended.wait(0.1)
    gpus.hang(False)
    assert ended.wait(10)
    hung.join()


def test_a_hang_of_one_gpu_leaves_the_others(nvml: ModuleType, gpus: FakeGpus) -> None:
    sick, well = nvml.nvmlDeviceGetHandleByIndex(0), nvml.nvmlDeviceGetHandleByIndex(1)
    gpus.hang(True, gpu=0)
    hung = threading.Thread(target=nvml.nvmlDeviceGetPowerUsage, args=(sick,))
    hung.start()
    assert nvml.nvmlDeviceGetPowerUsage(well)
    hung.join(0.05)
    assert hung.is_alive()
    gpus.clear()
    hung.join(10)
    assert not hung.is_alive()


def test_slow_calls_take_their_time(nvml: ModuleType, gpus: FakeGpus) -> None:
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    gpus.set("delay_ms.nvmlDeviceGetPowerUsage", 40.5)
    begun = time.monotonic()
    nvml.nvmlDeviceGetPowerUsage(handle)
    assert 0.04 <= time.monotonic() - begun < 5
    gpus.clear()
    gpus.set("delay_ms", 30, gpu=1)
    begun = time.monotonic()
    nvml.nvmlDeviceGetPowerUsage(nvml.nvmlDeviceGetHandleByIndex(1))
    assert 0.03 <= time.monotonic() - begun < 5


SAY_UUIDS = """
import pynvml
pynvml.nvmlInit()
print([pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())])
pynvml.nvmlShutdown()
"""

HANG = """
import pynvml
pynvml.nvmlInit()
print("begun", flush=True)
pynvml.nvmlSystemGetDriverVersion()
"""

SHUT_DOWN_UNDER_A_WAIT = """
import os, pathlib, threading, time, pynvml
pynvml.nvmlInit()
events = pynvml.nvmlEventSetCreate()
threading.Thread(target=pynvml.nvmlEventSetWait_v2, args=(events, 20000), daemon=True).start()
calls = pathlib.Path(os.environ["HOLDFAST_FAKE_NVML_CALLS"])
while "nvmlEventSetWait_v2" not in calls.read_text():
    time.sleep(0.01)
pynvml.nvmlShutdown()
"""


def _python(program: str, library: Path, gpus: FakeGpus) -> subprocess.Popen[str]:
    env = {**os.environ, **fake.environment(library, gpus.state_file, gpus.state_file.with_name("calls"))}
    return subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _holds_off(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    blocked = next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk:"))
    return bool(int(blocked, 16) >> (number - 1) & 1)


def test_a_process_finds_the_library_by_the_loader_path(library: Path, gpus: FakeGpus) -> None:
    out, err = _python(SAY_UUIDS, library, gpus).communicate(timeout=20)
    assert (out.strip(), err) == (str([gpus.uuid(gpu) for gpu in range(8)]), "")


def test_a_hung_process_ends_by_sigkill_alone(library: Path, gpus: FakeGpus) -> None:
    gpus.hang(True, functions="nvmlSystemGetDriverVersion")
    process = _python(HANG, library, gpus)
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    until = time.monotonic() + 10
    while not _holds_off(process.pid, signal.SIGTERM):  # it has said so just before the call
        assert time.monotonic() < until
        time.sleep(0.01)
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.kill()
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGKILL


def test_a_shutdown_under_a_call_crashes_as_the_real_one_may(library: Path, gpus: FakeGpus) -> None:
    process = _python(SHUT_DOWN_UNDER_A_WAIT, library, gpus)
    _, err = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGABRT
    assert "nvmlShutdown while another call is under way" in err


def test_without_a_compiler_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(fake.BuildError, match="apt-get install gcc libc6-dev"):
        fake.build(tmp_path / "nvml")


def test_what_the_compiler_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "gcc"
    compiler.write_text("#!/bin/sh\necho 'stdio.h: No such file' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(fake.BuildError, match=r"stdio\.h: No such file"):
        fake.build(tmp_path / "nvml")
    assert not list((tmp_path / "nvml").rglob(fake.SONAME))


def test_it_is_built_once(built: Callable[[Collection[str]], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = built(())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert built(()) == library
