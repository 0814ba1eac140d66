"""What every adapter is put through: run to the end, killed, parked on a notice, resumed with a damaged newest checkpoint, as two ranks.

A framework's program (`adapter_<framework>.py ROOT PART…`) imports the framework once, and each attempt is a fork of it. What they tell is
printed as JSON, which `test_adapters.py` judges.
"""

import contextlib
import faulthandler
import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

KILL_AFTER, NOTIFY_AFTER = 7, 8
_LIMIT_S = 60

AtStep = Callable[[int], None]
Train = Callable[[Path, AtStep], str]
"""Trains in a checkpoint directory, calls back within each step with the number of steps done; a digest of all that it ends with."""


def digest(parts: Iterable[bytes]) -> str:
    """One text for the bytes of a state."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


class Bed:
    """Attempts of one training program below `root`."""

    def __init__(self, root: Path, train: Train) -> None:
        self.root, self._train = root, train

    def _nodes(self, name: str, world: int) -> list[Path]:
        nodes = [self.root / "nodes" / f"{name}.{rank}" for rank in range(world)]
        for node in nodes:
            (node / "node").mkdir(parents=True)
            (node / "job").mkdir(mode=0o700)
        return nodes

    def start(self, name: str, directory: str, attempt: int = 0, world: int = 1, at: tuple[int, str] = (-1, ""), **env: str) -> list[int]:
        """Fork the ranks of an attempt; `at` is the step in which rank 0 is killed or its node notified."""
        port = _free_port()
        pids = []
        for rank, node in enumerate(self._nodes(name, world)):
            pid = os.fork()
            if pid:
                pids.append(pid)
                continue
            faulthandler.dump_traceback_later(_LIMIT_S - 5, file=sys.stderr)
            signal.alarm(_LIMIT_S)  # whatever goes wrong, no rank outlives the test for long
            os.environ.update(SLURM_JOB_ID="7", SLURM_RESTART_COUNT=str(attempt), HOLDFAST_JOB_DIR=str(node), **env)
            if world > 1:
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world), GROUP_RANK="0")
                os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo", TORCHELASTIC_RUN_ID=name)
            self._child(name, rank, self.root / directory, node, at)
        return pids

    def _child(self, name: str, rank: int, directory: Path, node: Path, at: tuple[int, str]) -> None:
        log = os.open(self.root / f"{name}.{rank}.log", os.O_WRONLY | os.O_CREAT, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        first: list[int] = []

        def at_step(step: int) -> None:
            first.append(step)
            if (step, rank) == (at[0], 0):
                if at[1] == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                _notify(node)
            if at[1] == "notify":
                time.sleep(0.02)  # a notice is looked for so often, and no training is over as fast as these

        code = 1
        try:
            ended = self._train(directory, at_step)
            (self.root / f"{name}.{rank}.json").write_text(json.dumps({"digest": ended, "first": first[0] if first else None}))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self, name: str, pids: list[int]) -> dict[str, Any]:
        """The attempt's end: how each rank ended, and what those that came through say."""
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        answers = [self._answer(name, rank) for rank in range(len(pids))]
        return {"codes": codes, "digests": [one.get("digest") for one in answers], "first": [one.get("first") for one in answers]}

    def _answer(self, name: str, rank: int) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError):
            answer: dict[str, Any] = json.loads((self.root / f"{name}.{rank}.json").read_text())
            return answer
        return {}

    def run(self, name: str, directory: str, **keys: Any) -> dict[str, Any]:
        """An attempt, to its end."""
        return self.wait(name, self.start(name, directory, **keys))

    def park(self, name: str, directory: str, **keys: Any) -> dict[str, Any]:
        """An attempt that is told of a notice, and ended by SIGTERM once each rank says that it has parked."""
        pids = self.start(name, directory, at=(NOTIFY_AFTER, "notify"), **keys)
        reports = [self.root / "nodes" / f"{name}.{rank}" / "job" / f"rank.{rank}.json" for rank in range(len(pids))]
        end = time.monotonic() + _LIMIT_S
        while [_read(path).get("state") for path in reports] != ["parked"] * len(pids) and time.monotonic() < end and not _ended(pids[0]):
            time.sleep(0.02)
        told = [_read(path) for path in reports]
        status = _read(reports[0].parent / "status.json")
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        return {**self.wait(name, pids), "ranks": told, "status": status}

    def damage(self, directory: str, copy: str) -> str:
        """Copy a checkpoint directory and flip a byte of the largest file of the newest checkpoint's framework; its name."""
        shutil.copytree(self.root / directory, self.root / copy)
        newest = max((self.root / copy).glob("step-*"))
        target = max((path for path in newest.rglob("*/*") if path.is_file()), key=lambda path: path.stat().st_size)
        content = bytearray(target.read_bytes())
        content[len(content) // 2] ^= 1
        target.write_bytes(content)
        return target.relative_to(newest).as_posix()

    def names(self, directory: str) -> list[str]:
        """The checkpoints of a directory."""
        return sorted(path.name for path in (self.root / directory).iterdir() if path.is_dir())

    def alone(self) -> dict[str, Any]:
        """One process: to the end; killed and resumed; parked and resumed, from the newest checkpoint and from the one before."""
        told: dict[str, Any] = {"reference": self.run("reference", "reference")}
        if any(told["reference"]["codes"]):
            return {**told, "logs": self.logs()}
        told["killed"] = self.run("killed", "killed", at=(KILL_AFTER, "kill"))
        told["after_kill"] = self.run("after_kill", "killed", attempt=1)
        told["parked"] = self.park("parked", "parked")
        told["damaged"] = self.damage("parked", "damaged")
        told["after_park"] = self.run("after_park", "parked", attempt=1)
        told["after_damage"] = self.run("after_damage", "damaged", attempt=1)
        return {**told, "names": self.names("damaged"), "logs": self.logs()}

    def ranks(self) -> dict[str, Any]:
        """Two ranks, of which one is told of a notice; resumed as two, and as one."""
        told: dict[str, Any] = {"reference": self.run("reference", "reference", world=2)}
        told["parked"] = self.park("parked", "parked", world=2)
        shutil.copytree(self.root / "parked", self.root / "one")
        told["after_park"] = self.run("after_park", "parked", world=2, attempt=1)
        told["one"] = self.run("one", "one", attempt=1)
        return {**told, "logs": self.logs()}

    def logs(self) -> dict[str, str]:
        """What the attempts printed last."""
        return {path.name: path.read_text()[-3000:] for path in self.root.glob("*.log")}


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError):
        content: dict[str, Any] = json.loads(path.read_bytes())
        return content
    return {}


def _ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _notify(node: Path) -> None:
    now = time.time()
    notice = {"v": 1, "id": "n1", "kind": "preempt", "deadline": now + 120, "received": now, "reason": "", "action": "save_and_park"}
    temporary = node / "node" / ".tmp"
    temporary.write_text(json.dumps(notice))
    temporary.rename(node / "node" / "notice.json")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main(parts: dict[str, tuple[Train, Callable[[Bed], dict[str, Any]]]]) -> None:
    """ROOT PART…: play the parts, each in a directory of its own, and print what they tell."""
    told = {}
    for part in sys.argv[2:]:
        train, play = parts[part]
        root = Path(sys.argv[1]) / part
        root.mkdir()
        told[part] = play(Bed(root, train))
    print(json.dumps(told))
