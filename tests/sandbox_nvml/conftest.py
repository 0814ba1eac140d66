"""Fixtures: the fake library, built once, and nvidia-ml-py pointed at it in this process."""

from collections.abc import Callable, Collection, Iterator
from ctypes import CDLL
from pathlib import Path
from types import ModuleType

import pynvml
import pytest
from holdfast_sandbox.nvml import library as fake
from holdfast_sandbox.nvml.gpus import FakeGpus


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Collection[str]], Path]:
    directory = tmp_path_factory.mktemp("nvml")
    return lambda without=(): fake.build(directory, without)


@pytest.fixture
def library(built: Callable[[Collection[str]], Path]) -> Path:
    return built(())


@pytest.fixture
def gpus(tmp_path: Path) -> FakeGpus:
    machine = FakeGpus(tmp_path / "gpus")
    machine.install("h100x8")
    return machine


@pytest.fixture
def bind(gpus: FakeGpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], ModuleType]:
    """Make nvidia-ml-py use a library."""

    def use(path: Path) -> ModuleType:
        monkeypatch.setenv(fake.STATE_VARIABLE, str(gpus.state_file))
        monkeypatch.setenv(fake.CALLS_VARIABLE, str(tmp_path / "calls"))
        monkeypatch.setattr(pynvml, "nvmlLib", CDLL(str(path)))
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        return pynvml

    return use


@pytest.fixture
def nvml(bind: Callable[[Path], ModuleType], library: Path, gpus: FakeGpus) -> Iterator[ModuleType]:
    """nvidia-ml-py, begun on eight H100."""
    module = bind(library)
    module.nvmlInit()
    yield module
    gpus.clear()
    module.nvmlShutdown()
