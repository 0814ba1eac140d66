"""With PyTorch: an interrupted run ends bit for bit like one that was not."""

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import holdfast
import pytest
from gang_bed import Gang

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]
HERE = Path(__file__).parent
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


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, out + err
    return out, err


def test_two_ranks_one_notice(gang: Callable[..., Gang], until: Callable[..., Any]) -> None:
    """Rank 1 alone sees the notice: both save the same step, park, die of TERM, and the next attempt ends bit-equal."""

    def start(name: str, attempt: int, step_s: float = 0.0, **settings: Any) -> Gang:
        slurm = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(attempt)}
        return gang(name, 2, 40, kind="dropout", step_s=step_s, environment={"0": slurm, "1": slurm}, **settings)

    def end(attempt: Gang, rank: int) -> dict[str, Any]:
        [line] = attempt.finished().lines(rank, "generators")
        return line

    reference = start("reference", 0, checkpoints="reference")
    first = start("first", 0, step_s=0.05)
    until(lambda: len(first.lines(1)) >= 2, 60)
    first.notify(1, id="n9")
    status = first.parked()
    assert status["notice_id"] == "n9"
    assert {report["notice_id"] for report in first.reports()} == {"n9"}
    second = start("second", 1)
    for rank in range(2):
        assert end(second, rank) == end(reference, rank)
    assert f"attempt 1 resumes at step {status['saved_step']}" in second.told
    assert 0 < status["saved_step"] < 40
    assert [line["rank"] for line in second.events("notice_seen")] == [1]


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
