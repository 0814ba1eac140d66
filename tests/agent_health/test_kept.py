"""What outlives the agent, and the file for Slurm's hook."""

import json
from pathlib import Path

import pytest
from holdfast_common.health.model import Action, Finding, GpuEvent
from holdfast_nodeagent.gpu.inventory import Inventory
from holdfast_nodeagent.health.kept import KeptXid, Memory
from holdfast_nodeagent.health.verdict_file import VerdictFile, verdict

EVENT = GpuEvent(100.0, "xid", 79, "GPU-0", "NVRM: …", pid=7, process="python", job_id=12)
FINDING = Finding("deep_check", Action.REPLACE, 5.0, text="memory on GPU 3", advice="NVIDIA")


def test_all_of_it_comes_back(tmp_path: Path, inventory: Inventory) -> None:
    memory = Memory(tmp_path / "health.json", "boot-1")
    kept = memory.kept
    kept.kernel_seq, kept.judge, kept.rules, kept.gpus = 41, {"a": [1, {"b": None}]}, "version = 1", 8
    kept.xids = [KeptXid(gpu="GPU-0", xid=79, count=2, last_at=100.5)]
    kept.hear(EVENT)
    kept.set_inventory(inventory)
    kept.set_deep("memory on GPU 3", [FINDING])
    memory.save()
    again = Memory(tmp_path / "health.json", "boot-1").kept
    assert again.model_dump_json() == kept.model_dump_json()
    assert again.heard() == (EVENT,)
    assert again.known_inventory() == inventory
    assert again.found_deep() == (FINDING,)
    assert (tmp_path / "health.json").stat().st_mode & 0o777 == 0o600


def test_nothing_of_it_outlives_a_boot(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "health.json", "boot-1")
    memory.kept.kernel_seq = 41
    memory.save()
    assert Memory(tmp_path / "health.json", "boot-2").kept.kernel_seq == -1


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"kernel_seq": "many"},
        {"xids": [{"gpu": "GPU-0"}]},
        {"recent": [{"at": 1.0}]},
        {"recent": [{"at": "x", "kind": "xid"}]},
        {"inventory": {"gpus": 3}},
        {"deep_findings": [{"rule": "deep_check", "action": "explode", "since": 1}]},
        {"judge": []},
    ],
)
def test_a_file_that_is_not_ours_is_passed_over_as_a_whole(
    tmp_path: Path, change: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(tmp_path / "health.json", "boot-1")
    memory.kept.gpus = 8
    memory.save()
    path = tmp_path / "health.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert Memory(path, "boot-1").kept.gpus == 0
    assert "cannot be used" in caplog.text


def test_a_disk_that_takes_nothing_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memory, file = Memory(tmp_path / "gone" / "health.json", "b"), VerdictFile(tmp_path / "gone")
    for _ in range(3):
        memory.save()
        file.write((), 1.0)
    assert [record.message.rpartition(": ")[2] for record in caplog.records] == ["No such file or directory"] * 2


def test_recent_events_are_a_minutes(tmp_path: Path) -> None:
    kept = Memory(tmp_path / "health.json", "b").kept
    for at in (0.0, 30.0, 59.0, 61.0, 100.0):
        kept.hear(GpuEvent(at, "xid", 31, "GPU-0"))
    assert [event.at for event in kept.heard()] == [59.0, 61.0, 100.0]


def test_the_word_for_the_hook(tmp_path: Path) -> None:
    note = Finding("hot", Action.NOTE, 1.0, "GPU-0", "91 °C")
    dry = Finding("xid_48", Action.EVACUATE, 2.0, "GPU-0", "XID 48", dry_run=True)
    drain = Finding("remap", Action.DRAIN, 3.0, "GPU-1", "1 row\nto remap\x1b[31m " + "x" * 300)
    assert verdict((), 1000.7) == verdict((note, dry), 1000.7) == b"ok 1060\n\n"
    first, second, rest = verdict((note, dry, drain), 1000.7).decode().split("\n")
    assert (first, rest) == ("sick 1060", "")
    assert second.startswith("remap: 1 row?to remap?[31m xx")
    assert len(second) == 200
    VerdictFile(tmp_path).write((drain,), 5.0)
    assert (tmp_path / "health").read_text().startswith("sick 65\n")
    assert (tmp_path / "health").stat().st_mode & 0o777 == 0o644
