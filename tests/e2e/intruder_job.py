"""What a job tries that wants to harm: one attempt after the other, each with what came of it, as JSON in the second argument's file."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

LONGEST_S = 60.0


def attempt(deed: Callable[[], object]) -> str:
    try:
        deed()
    except OSError as error:
        return type(error).__name__
    return "DONE"


def command(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode == 0:
        return "DONE"
    said = done.stderr + done.stdout  # one that could not even ask would not have been refused
    return "refused" if re.search(r"permission denied|invalid user id", said, re.IGNORECASE) else said


def connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as plug:
        plug.connect(path)


def kill(script: str) -> None:
    mine = os.getuid()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and entry.stat().st_uid != mine and script.encode() in (entry / "cmdline").read_bytes():
            os.kill(int(entry.name), 9)


def plant(folder: Path) -> None:
    """Put into our own folder what the agent, which is root, might follow, wait for, swallow or believe."""
    rank = {"v": 1, "pid": 1, "started": time.time(), "rank": 4, "world_size": 1, "state": "parked", "wake_signal": "SIGUSR1"}
    (folder / "rank.0.json").symlink_to("/etc/shadow")
    os.mkfifo(folder / "rank.1.json")
    (folder / "rank.2.json").write_text(json.dumps({"v": 1, "x": "y" * 1_000_000}))
    (folder / "rank.3.json").write_text("[" * 30_000)
    (folder / "rank.4.json").write_text(json.dumps(rank))
    (folder / "status.json").symlink_to("/dev/zero")
    deep = folder
    for _ in range(100):
        deep = deep / "d"
        deep.mkdir()


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text())
    mine, victim = Path(os.environ["HOLDFAST_JOB_DIR"]), Path(given["victim"])
    plant(mine / "job")
    notice = json.dumps({"v": 1, "id": "fake", "kind": "preempt", "deadline": 1, "received": 1, "reason": "", "action": "save_and_park"})
    deeds: dict[str, Callable[[], object]] = {
        "the controller's socket": lambda: connect(given["socket"]),
        "the controller's journal": lambda: list(Path(given["state"]).iterdir()),
        "a notice for itself": lambda: (mine / "node" / "notice.json").write_text(notice),
        "a notice for another job": lambda: (victim / "node" / "notice.json").write_text(notice),
        "another node directory in the place of its own": lambda: (mine / "node").rename(mine / "old"),
        "another job's status": lambda: (victim / "job" / "status.json").write_text("{}"),
        "what another job says": lambda: list((victim / "job").iterdir()),
        "a job directory of its own making": (mine.parent / "99.0").mkdir,
        "another job's process": lambda: kill("counter_job.py"),
    }
    found = {name: attempt(deed) for name, deed in deeds.items()}
    found["a requeue of another's job"] = command("scontrol", "requeue", str(given["victim_id"]))
    found["a drain"] = command("scontrol", "update", f"nodename={given['node']}", "state=drain", "reason=holdfast: mine")
    made = subprocess.run(["munge", "--socket", given["munge"], "--string", given["payload"]], capture_output=True, text=True, check=True)
    said = Path(sys.argv[2])
    said.with_suffix(".new").write_text(json.dumps({"uid": os.getuid(), "tried": found, "credential": made.stdout.strip()}))
    said.with_suffix(".new").rename(said)
    ends = time.monotonic() + LONGEST_S
    while not said.with_name("seen").exists() and time.monotonic() < ends:  # the agent must come to look at what was planted
        time.sleep(0.05)


if __name__ == "__main__":
    main()
