"""Saved on N ranks, loaded on M: the whole state bit for bit, and the next losses on the same global batches."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]
GANG = Path(__file__).parent / "sharded_gang.py"


def play(processes: Callable[..., subprocess.Popen[str]], folder: Path, *sizes: int) -> dict[str, Any]:
    process = processes(str(GANG), str(folder), *map(str, sizes), OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err[-6000:]
    found: dict[str, Any] = json.loads(out)
    return found


def check(found: dict[str, Any]) -> None:
    for case, result in found.items():
        if not case.startswith("load"):
            continue
        assert result["equal"], f"{case}: the state is not bit for bit what was saved"
        _, source, _, live = case.split()
        if source == live and live[-1] in "12":
            assert result["losses"] == result["expected"], case
        assert result["losses"] == pytest.approx(result["expected"], rel=1e-5), case


def test_saved_on_any_loaded_on_any(processes: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """DDP, FSDP2 with uneven and empty shards, and a 2 x 2 mesh of tensor-parallel and FSDP2, also one read as another."""
    found = play(processes, tmp_path, 1, 2, 4)
    check(found)
    assert {"load ddp2 as ddp1", "load fsdp1 as fsdp4", "load tp4 as fsdp2", "load ddp2 as tp4", "load tp4 as tp4"} <= found.keys()
    shares = found["save ddp4"]["share_bytes"]
    assert len(shares) == 4
    assert max(shares) < 0.5 * found["save ddp1"]["share_bytes"][0], "every rank writes a part of the replicated state"


@pytest.mark.long
def test_every_pair_of_world_sizes(processes: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    check(play(processes, tmp_path, 1, 2, 3, 4))
