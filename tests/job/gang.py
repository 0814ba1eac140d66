"""Gangs of ranks for the tests: imports PyTorch once, then forks one process per rank (gloo, on the CPU), for every gang that is asked for.

Reads `gang_settings.Settings`, a JSON object on each line, and answers each with the process id of the gang's launcher,
which also is the gang's process group. The ranks' exit codes come into `<out>/codes.json`, what they say into `<out>/told`.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import gang_training
import torch
from gang_settings import Settings

LIMIT_S = 60
"""Whatever goes wrong, no rank outlives its test for long."""


def rank_of(settings: Settings, rank: int) -> NoReturn:
    """Be one rank until it ends."""
    signal.alarm(LIMIT_S)
    code = 1
    try:
        gang_training.run(settings, rank)
        code = 0
    except Exception as fault:
        traceback.print_exc()
        print(f"rank {rank}: {type(fault).__name__}: {fault}", flush=True)
    finally:
        sys.stderr.flush()
        os._exit(code)


def launch(settings: Settings) -> NoReturn:
    """Start the ranks and wait for them, as srun does: a rank that dies takes no other with it."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    out = Path(settings["out"])
    told = os.open(out / "told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for fd in (1, 2):
        os.dup2(told, fd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        settings["port"] = probe.getsockname()[1]
    children = []
    for rank in range(settings["ranks"]):
        child = os.fork()
        if child == 0:
            rank_of(settings, rank)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    (out / "codes.tmp").write_text(json.dumps(codes))
    (out / "codes.tmp").rename(out / "codes.json")
    os._exit(0)


def main() -> None:
    torch.set_num_threads(1)
    gang_training.warm()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # launchers leave no zombies
    for line in sys.stdin:
        launcher = os.fork()
        if launcher == 0:
            launch(json.loads(line))
        with contextlib.suppress(OSError):  # it does so itself, perhaps later than a test would kill it
            os.setpgid(launcher, launcher)
        print(launcher, flush=True)


if __name__ == "__main__":
    main()
