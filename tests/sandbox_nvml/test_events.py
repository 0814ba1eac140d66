"""Events: each once for each set, in order, also while a wait is under way."""

import threading
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from holdfast_sandbox.nvml.gpus import XID_EVENT, FakeGpus

LONG_MS = 20_000
RECOVERY_ACTION_EVENT = 0x8000


@pytest.fixture
def events(nvml: ModuleType) -> Iterator[Any]:
    """A set with XIDs of all eight GPUs."""
    made = nvml.nvmlEventSetCreate()
    for index in range(8):
        nvml.nvmlDeviceRegisterEvents(nvml.nvmlDeviceGetHandleByIndex(index), nvml.nvmlEventTypeXidCriticalError, made)
    yield made
    nvml.nvmlEventSetFree(made)


def _drain(nvml: ModuleType, events: Any) -> list[tuple[str, int]]:
    """Fetch all there are: (uuid, XID)."""
    found = []
    while True:
        try:
            data = nvml.nvmlEventSetWait_v2(events, 0)
        except nvml.NVMLError_Timeout:
            return found
        assert data.eventType == XID_EVENT
        found.append((nvml.nvmlDeviceGetUUID(data.device), data.eventData))


def test_each_event_comes_once_and_in_order(nvml: ModuleType, gpus: FakeGpus, events: Any) -> None:
    for gpu, xid in [(5, 13), (0, 94), (5, 13)]:
        gpus.xid(gpu, xid)
    assert _drain(nvml, events) == [(gpus.uuid(5), 13), (gpus.uuid(0), 94), (gpus.uuid(5), 13)]
    gpus.set("temperature", 50)
    assert _drain(nvml, events) == []
    gpus.xid(1, 31)
    assert _drain(nvml, events) == [(gpus.uuid(1), 31)]


def test_an_event_ends_a_wait_that_is_under_way(nvml: ModuleType, gpus: FakeGpus, events: Any) -> None:
    got: list[tuple[int, float]] = []

    def wait() -> None:
        data = nvml.nvmlEventSetWait_v2(events, LONG_MS)
        got.append((data.eventData, time.monotonic()))

    waiter = threading.Thread(target=wait)
    waiter.start()
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    for _ in range(20):
        assert nvml.nvmlDeviceGetPowerUsage(handle)  # other threads' calls go on meanwhile
    assert not got
    told = time.monotonic()
    gpus.xid(2, 79)
    waiter.join(10)
    assert got[0][0] == 79
    assert got[0][1] - told < 5


def test_a_wait_without_an_event_times_out(nvml: ModuleType, events: Any) -> None:
    begun = time.monotonic()
    with pytest.raises(nvml.NVMLError_Timeout):
        nvml.nvmlEventSetWait_v2(events, 60)
    assert 0.05 < time.monotonic() - begun < 5


def test_events_before_the_registering_are_not_told(nvml: ModuleType, gpus: FakeGpus) -> None:
    gpus.xid(0, 43)
    late = nvml.nvmlEventSetCreate()
    nvml.nvmlDeviceRegisterEvents(nvml.nvmlDeviceGetHandleByIndex(0), XID_EVENT, late)
    assert _drain(nvml, late) == []
    gpus.xid(0, 45)
    assert _drain(nvml, late) == [(gpus.uuid(0), 45)]
    nvml.nvmlEventSetFree(late)


def test_two_sets_get_an_event_each_and_only_of_their_gpus_and_types(nvml: ModuleType, gpus: FakeGpus, events: Any) -> None:
    other = nvml.nvmlEventSetCreate()
    nvml.nvmlDeviceRegisterEvents(nvml.nvmlDeviceGetHandleByIndex(1), RECOVERY_ACTION_EVENT, other)
    gpus.xid(1, 62)
    gpus.event(2, RECOVERY_ACTION_EVENT, 1)
    gpus.event(1, RECOVERY_ACTION_EVENT, 2)
    assert _drain(nvml, events) == [(gpus.uuid(1), 62)]
    data = nvml.nvmlEventSetWait_v2(other, 0)
    assert (data.eventType, data.eventData, data.gpuInstanceId) == (RECOVERY_ACTION_EVENT, 2, 0xFFFFFFFF)
    with pytest.raises(nvml.NVMLError_Timeout):
        nvml.nvmlEventSetWait_v2(other, 0)
    nvml.nvmlEventSetFree(other)


def test_events_go_on_after_clear_and_install(nvml: ModuleType, gpus: FakeGpus, events: Any) -> None:
    gpus.xid(0, 13)
    assert len(_drain(nvml, events)) == 1
    gpus.clear()
    gpus.xid(0, 31)
    assert _drain(nvml, events) == [(gpus.uuid(0), 31)]
    gpus.install("h100x8")
    gpus.xid(0, 43)
    assert _drain(nvml, events) == [(gpus.uuid(0), 43)]


def test_the_file_keeps_only_the_newest_events(nvml: ModuleType, gpus: FakeGpus, events: Any) -> None:
    for xid in range(100):
        gpus.xid(0, xid)
    assert [xid for _, xid in _drain(nvml, events)] == list(range(36, 100))


def test_types_that_the_gpu_does_not_know_are_refused(nvml: ModuleType, gpus: FakeGpus) -> None:
    gpus.install("t4x1")
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    made = nvml.nvmlEventSetCreate()
    wanted = XID_EVENT | RECOVERY_ACTION_EVENT
    with pytest.raises(nvml.NVMLError_NotSupported):
        nvml.nvmlDeviceRegisterEvents(handle, wanted, made)
    nvml.nvmlDeviceRegisterEvents(handle, wanted & nvml.nvmlDeviceGetSupportedEventTypes(handle), made)
    gpus.xid(0, 48)
    assert _drain(nvml, made) == [(gpus.uuid(0), 48)]
    nvml.nvmlEventSetFree(made)


def test_a_lost_gpu_ends_every_wait_at_once_after_its_events(nvml: ModuleType, gpus: FakeGpus, events: Any) -> None:
    gpus.xid(3, 79)
    gpus.lose(3)
    assert nvml.nvmlEventSetWait_v2(events, LONG_MS).eventData == 79
    for _ in range(2):
        with pytest.raises(nvml.NVMLError_GpuIsLost):
            nvml.nvmlEventSetWait_v2(events, LONG_MS)


def test_a_gpu_that_is_lost_ends_a_wait_that_is_under_way(nvml: ModuleType, gpus: FakeGpus, events: Any) -> None:
    ended = threading.Event()

    def wait() -> None:
        with pytest.raises(nvml.NVMLError_GpuIsLost):
            nvml.nvmlEventSetWait_v2(events, LONG_MS)
        ended.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    gpus.lose(6)
    assert ended.wait(10)
    waiter.join()


def test_a_freed_set_and_a_foreign_pointer_are_refused(nvml: ModuleType) -> None:
    freed = nvml.nvmlEventSetCreate()
    nvml.nvmlEventSetFree(freed)
    for call in (
        lambda: nvml.nvmlEventSetWait_v2(freed, 0),
        lambda: nvml.nvmlEventSetFree(freed),
        lambda: nvml.nvmlEventSetWait_v2(None, 0),
    ):
        with pytest.raises(nvml.NVMLError_InvalidArgument):
            call()
