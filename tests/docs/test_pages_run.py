"""The pages' examples for each framework, and for `holdfast checkpoint`, do what the pages say."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import holdfast
import pytest
from block_programs import PROGRAMS
from doc_pages import ROOT, Block, blocks
from holdfast.jobdir import SAVE_AND_PARK as PARK
from holdfast_sandbox.objects.control import ObjectStoreControl, running_object_store

HERE = Path(__file__).parent
GROUPS = {
    "torch": ("torch", "epochs", "owned", "export", "ddp", "fsdp2"),
    "lightning": ("lightning",),
    "transformers": ("transformers", "accelerate"),
    "orbax": ("orbax",),
    "tensorflow": ("tensorflow", "keras"),
}
"""Blocks that share a process, by the package that must be there. Those that load long are left to scripts/test-full."""
LONG = {"lightning", "transformers", "tensorflow"}
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
BIN = Path(sys.executable).parent


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "HOLDFAST_", "AWS_"))}
    return kept | QUIET | {"PATH": f"{BIN}:{kept['PATH']}"} | more


def marked(*marks: str) -> list[Block]:
    return [block for block in blocks() if block.mark.removeprefix("run: ") in marks and block.mark.startswith("run: ")]


def test_every_example_is_run() -> None:
    here = {"objects", "submitit"}
    assert {mark for marks in GROUPS.values() for mark in marks} == PROGRAMS.keys()
    assert {block.mark.removeprefix("run: ") for block in blocks("python") if block.mark} == PROGRAMS.keys() | here


@pytest.mark.torch
@pytest.mark.timeout(240)
@pytest.mark.parametrize("group", [pytest.param(group, marks=[pytest.mark.long] if group in LONG else []) for group in GROUPS])
def test_an_example_trains_once_and_resumes_at_its_end(group: str) -> None:
    if importlib.util.find_spec(group) is None:
        pytest.skip(f"{group} is not installed")
    given = [[block.mark.removeprefix("run: "), block.text] for block in marked(*GROUPS[group])]
    command = [sys.executable, str(HERE / "block_programs.py")]
    done = subprocess.run(command, input=json.dumps(given), env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout)
    assert [mark for mark, *_ in told] == [mark for mark, _ in given]
    for mark, first, second in told:
        assert first > 0, mark
        assert second == 0, f"{mark}: the second run had nothing left to do"


@pytest.fixture
def submission(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """What the page's block has submitted: the batch script, and the environment it was made in; Slurm's commands are stand-ins."""
    if importlib.util.find_spec("submitit") is None:
        pytest.skip("submitit is not installed")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in {"sbatch": "echo Submitted batch job 42", "srun": "", "scontrol": f'echo "$@" >>{tmp_path}/scontrol.log'}.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    env = environment(PYTHONPATH=str(ROOT / "examples" / "submitit"))
    env["PATH"] = f"{tools}:{env['PATH']}"
    (block,) = marked("submitit")
    made = "import submitit, train, pathlib\ntraining = train.Training(100_000, 0.1, pathlib.Path('out').absolute())\n"
    command = [sys.executable, "-c", f"{made}{block.text}\nassert job.job_id == '42'\n"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next((tmp_path / "log").glob("*_submission.sh")), env


@pytest.mark.torch
def test_submitit_starts_python_under_the_wrapper(submission: tuple[Path, dict[str, str]]) -> None:
    script = submission[0].read_text()
    assert "holdfast run -- python3 -u -m submitit.core._submit" in script
    assert "#SBATCH --requeue" in script


@pytest.mark.long
@pytest.mark.torch
@pytest.mark.timeout(120)
def test_submitit_goes_on_after_a_notice(submission: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """The command of the batch script, as srun would start it, for two attempts."""
    command = "exec holdfast run" + submission[0].read_text().rpartition("holdfast run")[2]
    task = dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_ID"), "0")
    task |= dict.fromkeys(("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_JOB_NUM_NODES"), "1")
    task |= {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "127.0.0.1", "SUBMITIT_EXECUTOR": "slurm"}
    steps = []
    for attempt in "01":
        node = tmp_path / f"42.{attempt}"
        (node / "node").mkdir(parents=True)
        (node / "job").mkdir(mode=0o700)
        env = submission[1] | task | {"SLURM_RESTART_COUNT": attempt, "HOLDFAST_JOB_DIR": str(node)}
        log = tmp_path / f"log.{attempt}"
        with log.open("w") as out, subprocess.Popen(["bash", "-c", command], cwd=tmp_path, env=env, stdout=out, stderr=out) as process:
            until(lambda log=log: log.read_text().count("\nstep ") > 5, log)
            notice = {
                "v": 1,
                "id": "n1",
                "kind": "preempt",
                "received": time.time(),
                "deadline": time.time() + 60,
                "reason": "",
                "action": PARK,
            }
            (node / "node" / "new").write_text(json.dumps(notice))
            (node / "node" / "new").rename(node / "node" / "notice.json")
            until(lambda node=node: '"parked"' in (node / "job" / "rank.0.json").read_text(), log)
            process.terminate()
            assert process.wait(10) == 143
        steps.append([int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("step ")])
    assert steps[1][0] == steps[0][-1], "the step in hand is done again, and no other"
    assert (tmp_path / "scontrol.log").read_text() == "requeue 42\nrequeue 42\n", "submitit's own, which Holdfast's requeue bears with"


def until(true: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + 40
    while not true():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


MADE = """
import holdfast, torch
model = torch.nn.Linear(4, 4)
run = holdfast.Run(model=model, optimizer=torch.optim.SGD(model.parameters()), directory="runs/4711", every_steps=5)
for step in run.steps(20):
    pass
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home with the checkpoints of a run that is over."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", MADE], cwd=folder, env=environment(), check=True, capture_output=True)
        yield Path(folder)


def shell(block: Block, home: Path) -> str:
    script = "set -euo pipefail\n" + block.text
    done = subprocess.run(["bash", "-c", script], env=environment(HOME=str(home)), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.torch
@pytest.mark.timeout(90)
def test_the_tools_on_a_directory(home: Path) -> None:
    (block,) = marked("tools")
    before = {path: path.read_bytes() for path in (home / "runs").rglob("*") if path.is_file()}
    told = shell(block, home)
    assert told.count("step-00000020.a0") >= 3, told
    assert "weight" in told, "--tensors"
    assert {path: path.read_bytes() for path in before} == before, "nothing of it changes anything"
    assert (home / "kept" / "4711" / "step-00000020.a0" / "manifest.json").exists()
    shutil.rmtree(home / "kept")


@pytest.mark.torch
@pytest.mark.timeout(90)
def test_the_tools_on_a_bucket(home: Path) -> None:
    pytest.importorskip("obstore")
    (block,) = marked("bucket")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = block.text.replace("9100", str(port)) + "kill $!\n"
    told = shell(Block(block.page, block.line, block.language, block.mark, text), home)
    listed = told.rpartition("NAME")[2] or told
    assert all(f"step-000000{step}.a0" in listed for step in (20, 15, 10)), told


class Counted:
    """The least that has a state."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreControl]:
    with running_object_store(tmp_path_factory.mktemp("objects"), ["sandbox"]) as control:
        yield control


def test_a_run_in_a_bucket(server: ObjectStoreControl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    for name in [name for name in os.environ if name.startswith(("SLURM_", "HOLDFAST_", "AWS_"))]:
        monkeypatch.delenv(name)
    for name, value in {"ENDPOINT_URL": server.endpoint_url, "REGION": "us-east-1", "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    (block,) = marked("objects")
    steps: list[int] = []
    for node in ("one", "another"):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / node))
        (tmp_path / node).mkdir()
        names: dict[str, Any] = {"holdfast": holdfast, "model": Counted(), "optimizer": Counted(), "train": steps.append}
        exec(compile(block.text, str(block), "exec"), names)  # the pages' own text
        names["run"].close()
    assert steps == list(range(1000)), "the second one, on another node, had nothing left to do"


def test_the_examples_that_are_named_are_there() -> None:
    page = (ROOT / "docs" / "frameworks.md").read_text()
    for example in (path.name for path in (ROOT / "examples").iterdir() if path.is_dir()):
        named = f"examples/{example}" in page or example in ("resnet_cifar10", "lightning", "transformers", "torch_save")
        assert named, f"{example} is in no page"
