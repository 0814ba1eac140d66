"""The tests' side of gangs: starts them, plays their nodes' agent, and reads what they have written."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gang_settings import BATCH, Settings

SERVER = Path(__file__).with_name("gang.py")
SETTLE_S = 0.5
"""So long a test leaves the ranks' threads, which meet every 0.2 s, to agree before it lets a held step go on."""
Until = Callable[..., Any]


@functools.cache
def server() -> subprocess.Popen[str]:
    """The process that has PyTorch, one for all tests of this process. It ends with its input."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


class Gang:
    """One attempt of a run, each rank on a node of its own."""

    def __init__(self, path: Path, name: str, nodes: list[Any], until: Until, settings: Settings) -> None:
        self.out, self.nodes, self.ranks = path / name, nodes, settings["ranks"]
        self.checkpoints = Path(settings["checkpoints"])
        self._until = until
        self.out.mkdir()
        talk = server()
        assert talk.stdin is not None
        assert talk.stdout is not None
        talk.stdin.write(json.dumps(settings) + "\n")
        talk.stdin.flush()
        self._launcher = int(talk.stdout.readline())

    # --- the node's agent

    def notify(self, rank: int, **changes: Any) -> None:
        """Tell that rank's node, and wake the rank if it has registered for that."""
        node = self.nodes[rank]
        node.notify(**changes)
        report = node.report(f"rank.{rank}")
        if report.get("wake_signal") is not None:
            os.kill(report["pid"], report["wake_signal"])

    def parked(self) -> dict[str, Any]:
        """Wait until all ranks say that they are parked, end them at once as the node may, and say what status.json says."""
        self._until(lambda: all(report.get("state") == "parked" for report in self.reports()))
        assert len({report["saved_step"] for report in self.reports()}) == 1
        for report in self.reports():
            os.kill(report["pid"], signal.SIGTERM)
        status: dict[str, Any] = self.nodes[0].report()
        assert self.codes() == [-signal.SIGTERM] * self.ranks, self.told
        assert (status["state"], status["stopped_on_notice"]) == ("parked", True)
        assert {report["saved_step"] for report in self.reports()} == {status["saved_step"]}
        return status

    # --- the test's hand

    def held(self, step: int, ranks: int = 1) -> None:
        """Wait until so many ranks are held in that step."""
        self._until(lambda: len(list(self.out.glob(f"held-{step}.*"))) == ranks)

    def go(self, step: int) -> None:
        (self.out / f"go-{step}").touch()

    def close(self) -> None:
        """End whatever is left of it."""
        if not (self.out / "codes.json").exists():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._launcher, signal.SIGKILL)

    # --- what came of it

    def codes(self) -> list[int]:
        """The ranks' exit codes, once all have ended."""
        self._until((self.out / "codes.json").exists, 60)
        codes: list[int] = json.loads((self.out / "codes.json").read_text())
        return codes

    def finished(self) -> "Gang":
        assert self.codes() == [0] * self.ranks, self.told
        return self

    @property
    def told(self) -> str:
        return (self.out / "told").read_text()

    def reports(self) -> list[dict[str, Any]]:
        return [node.report(f"rank.{rank}") for rank, node in enumerate(self.nodes)]

    def lines(self, rank: int, key: str = "step") -> list[dict[str, Any]]:
        path = self.out / f"rank{rank}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if key in line]

    def batches(self) -> dict[int, list[int]]:
        """For each step the global batch in its global order: rank r of W has every W-th sample of it, from the r-th on."""
        batches = {}
        for lines in zip(*map(self.lines, range(self.ranks)), strict=True):
            whole = [-1] * BATCH
            for rank, line in enumerate(lines):
                whole[rank :: self.ranks] = line["samples"]
            batches[lines[0]["step"]] = whole
        return batches

    def losses(self) -> dict[int, float]:
        return {line["step"]: line["loss"] for line in self.lines(0)}

    def digests(self, rank: int = 0) -> dict[int, dict[str, str]]:
        return {line["before"]: line["digests"] for line in self.lines(rank, "digests")}

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Of all attempts in this directory so far."""
        lines = [json.loads(line) for line in (self.checkpoints / "attempts.jsonl").read_text().splitlines()]
        return [line for line in lines if line["event"] in names]

    def timeline(self, rank: int, name: str) -> list[dict[str, Any]]:
        """That rank's own events of this name."""
        path = self.nodes[rank].path / "job" / f"timeline.rank{rank}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if line["event"] == name]

    def published(self) -> list[str]:
        return sorted(path.parent.name for path in self.checkpoints.glob("step-*/manifest.json"))


def gangs(path: Path, make_node: Callable[[str], Any], until: Until) -> Iterator[Callable[..., Gang]]:
    """What the fixture `gang` is: starts gangs, and ends those that the test left."""
    started: list[Gang] = []

    def start(name: str, ranks: int, steps: int = 1000, *, nodes: list[Any] | None = None, **changes: Any) -> Gang:
        nodes = nodes or [make_node(f"{name}-node{rank}") for rank in range(ranks)]
        keys = {"checkpoints": "ck", "kind": "ddp", "acts": [], "step_s": 0.0, "digests": [], "stop": None, "environment": {}, "run": {}}
        settings: Any = {"ranks": ranks, "steps": steps, "port": 0, "out": str(path / name), **keys, **changes}
        settings["checkpoints"] = str(path / settings["checkpoints"])
        settings["nodes"] = [str(node.path) for node in nodes]
        started.append(Gang(path, name, nodes, until, settings))
        return started[-1]

    yield start
    for one in started:
        one.close()
