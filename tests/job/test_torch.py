"""With PyTorch: an interrupted run ends bit for bit like one that was not."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import holdfast
import pytest

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]
HERE = Path(__file__).parent
GANG = HERE / "gang.py"
EXAMPLE = HERE.parents[1] / "examples" / "resnet_cifar10" / "train.py"
Start = Callable[..., subprocess.Popen[str]]


def same(one: Any, other: Any) -> bool:
    import torch

    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_one_process_resumes_bit_for_bit(tmp_path: Path) -> None:
    import numpy as np
    import torch

    def train(directory: Path, stop_after: int | None = None) -> dict[str, Any]:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.Dropout(), torch.nn.Linear(7, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        average = torch.optim.swa_utils.AveragedModel(model)
        run = holdfast.Run(model, optimizer, scheduler, directory=directory, every_steps=3, average=average)
        for step in run.steps(10):
            loss = model(torch.rand(4, 5) * random.random() * float(np.random.rand())).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            average.update_parameters(model)
            if step == stop_after:
                break
        states = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "average": average}
        values = [float(torch.rand(1)), random.random(), float(np.random.rand())]
        return {**{name: value.state_dict() for name, value in states.items()}, "next": values}

    reference = train(tmp_path / "reference")
    train(tmp_path / "run", stop_after=7)
    torch.rand(10)
    assert (tmp_path / "run" / "step-00000006.a0").is_dir()
    assert same(train(tmp_path / "run"), reference)


@pytest.fixture
def gang(tmp_path: Path, processes: Start, make_node: Callable[[str], Any]) -> Callable[..., Any]:
    """Starts two ranks on two nodes; the process and the nodes."""

    def start(name: str, steps: int, *extra: str, checkpoints: str = "ck", attempt: int = 0) -> Any:
        nodes = [make_node(f"{name}.{rank}") for rank in range(2)]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        paths = [str(tmp_path / checkpoints), str(tmp_path / f"{name}.pt"), str(port), *(str(node.path) for node in nodes)]
        env = {"OMP_NUM_THREADS": "1", "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(attempt)}
        return processes(str(GANG), "2", str(steps), *paths, *extra, **env), nodes

    return start


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, out + err
    return out, err


def test_two_ranks_one_notice(gang: Callable[..., Any], until: Callable[..., Any], tmp_path: Path) -> None:
    """Rank 1 alone sees the notice: both save the same step, park, die of TERM, and the next attempt ends bit-equal.

    The reference meets a notice in its very last step: it finishes, and no rank hangs.
    """
    import torch

    reference, reference_nodes = gang("reference", 40, "--notify", "39:1", checkpoints="reference")
    finish(reference)
    assert [reference_nodes[rank].report(f"rank.{rank}")["state"] for rank in range(2)] == ["done", "done"]
    assert reference_nodes[0].report()["stopped_on_notice"] is False

    first, nodes = gang("first", 40, "--step-s", "0.1")
    until(lambda: nodes[1].report("rank.1").get("step", 0) >= 2, 60)
    nodes[1].notify(id="n9")
    ranks = until(
        lambda: (found := [nodes[r].report(f"rank.{r}") for r in range(2)]) and all(f["state"] == "parked" for f in found) and found, 60
    )
    status = nodes[0].report()  # at once: the node may end a job whose ranks say that they are parked
    assert (status["state"], status["notice_id"], status["stopped_on_notice"]) == ("parked", "n9", True)
    saved = {report["saved_step"] for report in ranks} | {status["saved_step"]}
    assert len(saved) == 1
    assert {report["notice_id"] for report in ranks} == {"n9"}
    for report in ranks:
        os.kill(report["pid"], signal.SIGTERM)
    out, err = first.communicate(timeout=20)
    assert json.loads(out.splitlines()[-1]) == [-signal.SIGTERM] * 2, out + err

    second, _ = gang("second", 40, attempt=1)
    _, err = finish(second)
    assert f"attempt 1 resumes at step {saved.pop()}" in err
    assert same(torch.load(tmp_path / "second.pt"), torch.load(tmp_path / "reference.pt"))
    seen = [json.loads(line) for line in (tmp_path / "ck" / "attempts.jsonl").read_text().splitlines()]
    assert [line["rank"] for line in seen if line["event"] == "notice_seen"] == [1]


def test_one_ranks_failing_save_fails_on_all(gang: Callable[..., Any], tmp_path: Path) -> None:
    process, _ = gang("failing", 5, "--fail", "2:1")
    out, _ = process.communicate(timeout=90)
    lines = sorted(out.splitlines())
    assert json.loads(lines[0]) == [1, 1]
    told = "SaveError: writing a checkpoint failed on 1 of 2 ranks: rank 1: OSError: [Errno 28] No space left on device"
    assert lines[1:] == [f"rank {rank}: {told}" for rank in range(2)]
    assert not list((tmp_path / "ck").glob("step-*"))


def test_the_example_resumes_bit_for_bit(tmp_path: Path, processes: Start) -> None:
    """The reference's last checkpoint is taken away: the second run goes on from the one before."""

    def run(checkpoints: Path, out: Path) -> str:
        arguments = [str(EXAMPLE), "--depth", "8", "--batch-size", "4", "--steps", "4", "--every-steps", "2", "--print-every", "1"]
        env = {"HOLDFAST_CHECKPOINT_DIR": str(checkpoints), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
        return finish(processes(*arguments, "--synthetic-images", "40", "--out", str(out), **env))[0]

    told = run(tmp_path / "one", tmp_path / "one.pt")
    assert [line.split()[1] for line in told.splitlines() if line.startswith("step")] == ["0", "1", "2", "3"]
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "step-00000004.a0")
    told = run(tmp_path / "two", tmp_path / "two.pt")
    assert [line.split()[1:4] for line in told.splitlines() if line.startswith("step")] == [["2", "attempt", "1"], ["3", "attempt", "1"]]
    outcomes = [json.loads((tmp_path / f"{name}.pt.json").read_text()) for name in ("one", "two")]
    assert outcomes[0] == outcomes[1]
    assert (outcomes[0]["step"], outcomes[0]["world_size"]) == (4, 1)
