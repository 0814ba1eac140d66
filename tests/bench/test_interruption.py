"""bench/interruption on real Slurm, small: it runs, and its figures are plausible and whole."""

import json
import subprocess
from pathlib import Path

import pytest

from bench.evidence import PARTS

COMMAND = Path(__file__).parents[2] / "bench" / "interruption"

pytestmark = [pytest.mark.slurm, pytest.mark.long, pytest.mark.timeout(150)]


def test_two_interruptions_and_a_loss(tmp_path):
    output = tmp_path / "figures.json"
    arguments = [
        "--interruptions",
        "2",
        "--losses",
        "1",
        "--cold-starts",
        "0",
        "--boot-delay",
        "0.2",
        "--no-plain",
        "--no-targets",
        "--output",
        str(output),
    ]
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=140)
    assert done.returncode == 0, done.stderr
    assert "1 node, an idle node free" in done.stdout

    found = json.loads(output.read_text())
    assert [(row["case"], len(row["before"])) for row in found["interruptions"]] == [
        ("1 node, an idle node free", 1),
        ("1 node lost, an idle node free", 1),
        ("2 nodes, survivor + idle", 2),
    ]
    for row in found["interruptions"]:
        assert list(row["parts_s"]) == list(PARTS)
        assert sum(row["parts_s"].values()) == pytest.approx(row["total_s"])
        assert row["doomed"] in row["before"]
        assert row["doomed"] not in row["after"]
        # Each record was found: no part that always costs something is nothing. Far looser than the targets: the machine may be busy.
        noticed = ("detection", "save", "requeue", "expedite")
        assert all((row["parts_s"][part] > 0) == (not row["lost"]) for part in noticed[:2])
        assert all(row["parts_s"][part] > 0 for part in (*(() if row["lost"] else noticed), "scheduling", "start"))
        assert (row["known_after_s"] is not None) == row["lost"]
        assert 0.1 < row["net_s"] < 30
    loaded = [row["loading_s"] for row in found["interruptions"] if row["loading_s"]]
    assert loaded, "the first job trains on, and no more than the last attempts are ended before its first step"
    assert all(0 <= one["process_start"] <= one["first_step_done"] < 60 for one in loaded)
    assert found["registered_to_start_s"]["with_gate"]["count"] >= 1, "a job began on nodes bought for it"
    assert 0 < found["registered_to_start_s"]["with_gate"]["median"] < 10
    assert found["overall"]["net_s"]["count"] == 2
    assert {"machine", "Slurm", "sandbox"} <= found["setup"].keys()


def test_wrong_arguments_are_a_usage_error():
    done = subprocess.run([COMMAND, "--interruptions", "0"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "at least 1" in done.stderr
