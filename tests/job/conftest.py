"""What the job library's tests share: a job directory as the node's agent makes it, and a tiny training run."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import holdfast
import pytest
from holdfast import agreement, parking

sys.path.insert(0, str(Path(__file__).parent))  # importmode=importlib leaves it out


class Tally:
    """The smallest thing that trains: its state is a function of every step made. Any number of ranks may take it up."""

    world_size_free = True

    def __init__(self) -> None:
        self.value = 1

    def train(self, step: int) -> None:
        self.value = (self.value * 31 + step) % 1_000_003

    def state_dict(self) -> dict[str, int]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.value = state["value"]


class Node:
    """The agent's side of a job directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "node").mkdir(parents=True)
        (path / "job").mkdir(mode=0o700)

    def notify(self, **changes: Any) -> None:
        now = time.time()
        notice = {"v": 1, "id": "n1", "kind": "preempt", "deadline": now + 120, "received": now, "reason": "reclaimed"}
        self.write(json.dumps({**notice, "action": "save_and_park", **changes}).encode())

    def write(self, data: bytes) -> None:
        temporary = self.path / "node" / ".notice.tmp"
        temporary.write_bytes(data)
        temporary.rename(self.path / "node" / "notice.json")

    def report(self, name: str = "status") -> dict[str, Any]:
        """A report of the job's; empty before there is one."""
        try:
            found: dict[str, Any] = json.loads((self.path / "job" / f"{name}.json").read_bytes())
        except FileNotFoundError:
            return {}
        return found


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM", "HOLDFAST_")) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PYTHONDONTWRITEBYTECODE"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _torch_only_where_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another test of this process may have loaded PyTorch, which the library would then use."""
    if request.node.get_closest_marker("torch") is None:
        for name in ("torch", "torch.distributed"):
            monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.fixture(autouse=True)
def _look_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps take no time here."""
    monkeypatch.setattr(agreement, "LOOK_S", 0.0)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    made = Node(tmp_path / "jobs" / "7.0")
    monkeypatch.setenv("HOLDFAST_JOB_DIR", str(made.path))
    return made


@pytest.fixture
def make_node(tmp_path: Path) -> Callable[[str], Node]:
    return lambda name: Node(tmp_path / name)


@pytest.fixture
def tally() -> type[Tally]:
    return Tally


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Callable[..., holdfast.Run]]:
    """Makes Runs in one checkpoint directory, and closes them."""
    with contextlib.ExitStack() as stack:

        def make(*objects: Any, **keys: Any) -> holdfast.Run:
            run = holdfast.Run(*objects, **{"directory": tmp_path / "ck", **keys})
            stack.callback(run.close)
            return run

        yield make


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Be attempt N of job 7."""

    def attempt(number: int) -> None:
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(number))

    return attempt


@pytest.fixture
def quick_parking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "ROUND_S", 0.01)


@pytest.fixture
def processes() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python processes, and ends those that the test left."""
    started: list[subprocess.Popen[str]] = []

    def start(*argv: str, **env: str) -> subprocess.Popen[str]:
        keys = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([sys.executable, *argv], env={**os.environ, **env}, **keys))  # type: ignore[call-overload]
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def until() -> Callable[..., Any]:
    """Waits for a condition of another process to hold; its value."""

    def wait(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.01)
        return value

    return wait


@pytest.fixture
def gang(tmp_path: Path, make_node: Callable[[str], Node], until: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Starts gangs of real ranks with PyTorch."""
    from gang_bed import gangs

    yield from gangs(tmp_path, make_node, until)
