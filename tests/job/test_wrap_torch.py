"""`holdfast run` with the real PyTorch, safetensors and torchrun; long: Lightning, Transformers and submitit from the examples."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from holdfast.wrap import seal
from holdfast.wrap.supervisor import HOOK

pytestmark = [pytest.mark.torch, pytest.mark.timeout(240)]
CLI = "import sys; from holdfast.cli import main; sys.exit(main())"
EXAMPLES = Path(__file__).parents[2] / "examples"
SAVES = """
import os, sys, torch
from safetensors.torch import load_file, save_file
class Dies:
    def __reduce__(self):
        sys.stdout.flush()
        os.kill(os.getpid(), 9)
torch.save({"w": torch.arange(1000.0)}, "m.pt")
save_file({"w": torch.arange(10.0)}, "m.safetensors")
assert torch.equal(torch.load("m.pt")["w"], torch.arange(1000.0)) and len(load_file("m.safetensors")) == 1
def flipped(name, load):
    times, data = os.stat(name).st_mtime_ns, open(name, "rb").read()
    with open(name, "r+b") as file:
        file.seek(len(data) // 2)
        file.write(bytes([data[len(data) // 2] ^ 1]))
    os.utime(name, ns=(times, times))
    try:
        load(name)
    except Exception as fault:
        print(type(fault).__name__, fault)
    with open(name, "wb") as file:
        file.write(data)
flipped("m.pt", torch.load)
flipped("m.safetensors", load_file)
import fsspec  # as Lightning's _atomic_save writes
fs, path = fsspec.core.url_to_fs(os.path.abspath("l.ckpt"))
with fs.transaction:
    with fs.open(path, "wb") as file:
        torch.save({"w": 1}, file)
print(torch.load("l.ckpt"), oct(os.stat("l.ckpt").st_mode & 0o777))
torch.save({"w": Dies()}, "m.pt")
"""


def test_torch_safetensors_and_fsspec(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(HOOK), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SAVES], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first.startswith(f"DamagedFile {tmp_path}/m.pt: it is not what was saved")
    assert second.startswith(f"DamagedFile {tmp_path}/m.safetensors: it is not what was saved")
    assert third == "{'w': 1} 0o644"
    assert all(seal.check(str(tmp_path / name)) for name in ("m.pt", "m.safetensors", "l.ckpt")), "killed in the middle of the next save"


WORKER = """
import os, signal, sys, time, torch
def save(number, frame):
    torch.save({"rank": os.environ["RANK"]}, f"ck/rank{os.environ['RANK']}.pt")
signal.signal(signal.SIGUSR1, save)
open(f"ready{os.environ['RANK']}", "w").close()
while True: time.sleep(0.02)
"""


@pytest.fixture
def wrap(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    with contextlib.ExitStack() as stack:

        def start(*argv: str, **env: str) -> "subprocess.Popen[bytes]":
            log = stack.enter_context((tmp_path / "log").open("ab"))
            environ = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **env}
            process = subprocess.Popen([sys.executable, "-c", CLI, "run", *argv], cwd=tmp_path, env=environ, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            stack.callback(lambda: time.sleep(0.5))  # torchrun ends its workers
            stack.callback(process.terminate)
            return process

        yield start


@pytest.mark.long
def test_torchruns_workers_are_signalled_and_torchrun_is_not(wrap: Any, node: Any, tmp_path: Path, until: Callable[..., Any]) -> None:
    (tmp_path / "ck").mkdir()
    (tmp_path / "worker.py").write_text(WORKER)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "worker.py"]
    process = wrap("--signal", "USR1", "--checkpoints", "ck", "--", *torchrun)
    until(lambda: all((tmp_path / f"ready{rank}").exists() for rank in "01"), 120)
    node.notify()
    until(lambda: node.report("rank.0").get("state") == "parked", 20)
    assert sorted(os.listdir(tmp_path / "ck")) == [".holdfast", "rank0.pt", "rank1.pt"]
    assert not node.report()["stopped_on_notice"], "torchrun lives, and its workers with it"
    began = time.monotonic()
    process.terminate()
    assert process.wait(10) == 143
    assert time.monotonic() - began < 5


def task(tmp_path: Path) -> dict[str, str]:
    """The variables of the only task of an srun step, and an scontrol that writes down what it is asked."""
    tools = tmp_path / "bin"
    tools.mkdir(exist_ok=True)
    for name, text in (("scontrol", f'#!/bin/sh\necho "$@" >>{tmp_path}/scontrol.log\n'), ("srun", "#!/bin/sh\n")):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    names = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "t", "SLURM_NODELIST": "127.0.0.1", "SLURM_NTASKS": "1"}
    zeros = dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), "0")
    return {**names, **zeros, "SLURM_STEP_NUM_TASKS": "1", "PATH": f"{tools}:{os.environ['PATH']}"}


@pytest.mark.long
@pytest.mark.parametrize(("example", "saved", "stops"), [("lightning", "hpc_ckpt_", False), ("transformers", "checkpoint-", True)])
def test_frameworks_are_told_and_go_on_from_their_checkpoint(
    wrap: Any, make_node: Any, tmp_path: Path, until: Callable[..., Any], example: str, saved: str, stops: bool
) -> None:
    argv = [sys.executable, str(EXAMPLES / example / "train.py"), "--out", "out", "--step-s", "0.1", "--steps", "100000"]
    first = []
    for attempt in "01":
        node = make_node(f"7.{attempt}")
        env = {**task(tmp_path), "HOLDFAST_JOB_DIR": str(node.path), "SLURM_RESTART_COUNT": attempt}
        before = (tmp_path / "log").read_text().count("\nstep ") if (tmp_path / "log").exists() else 0
        process = wrap("--", *argv, **env)
        until(lambda before=before: (tmp_path / "log").exists() and (tmp_path / "log").read_text().count("\nstep ") > before + 5, 90)
        node.notify()
        until(lambda node=node: node.report("rank.0").get("state") == "parked", 30)
        assert Path(node.report()["checkpoint"]).name.startswith(saved)
        if stops:
            until(lambda node=node: node.report()["stopped_on_notice"], 10)
        process.terminate()
        assert process.wait(10) == 143
        steps = [int(line.split()[1]) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("step ")]
        first.append(steps[before])
    assert first[1] > 5 > first[0], "the second attempt goes on"
    if example == "lightning":
        assert (tmp_path / "scontrol.log").read_text() == "requeue 7\nrequeue 7\n"
