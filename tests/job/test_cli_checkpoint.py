"""`holdfast checkpoint` on directories: ls, verify, show, prune."""

import json
import os
import pickle
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from checkpoint_bed import flip, make
from holdfast import cli
from holdfast.cli.checkpoint import split
from holdfast.manifest import FileEntry, Manifest


def run(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 0) -> str:
    assert cli.main(["checkpoint", *map(str, argv)]) == code
    return capsys.readouterr().out


def rows(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 0) -> Any:
    return json.loads(run(capsys, *argv, "--json", code=code))


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("step-*"))


@pytest.mark.parametrize(
    ("location", "found"),
    [
        ("/a/b", ("/a/b", None)),
        ("/a/step-00000002.a0", ("/a", "step-00000002.a0")),
        ("/a/step-00000002.a0/", ("/a", "step-00000002.a0")),
        ("step-00000002.a11", (".", "step-00000002.a11")),
        ("/step-00000002.a0", ("/", "step-00000002.a0")),
        ("s3://b/p/bad-step-00000002.a0.3", ("s3://b/p", "bad-step-00000002.a0.3")),
        ("s3://b/my-step-2", ("s3://b/my-step-2", None)),
    ],
)
def test_a_location_and_a_checkpoint_in_it(location: str, found: tuple[str, str | None]) -> None:
    assert split(location) == found


def test_ls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, 2)
    make(tmp_path, 10, attempt=3)
    (make(tmp_path, 11) / "manifest.json").unlink()
    make(tmp_path, 1).rename(tmp_path / "bad-step-00000001.a0")
    made = tmp_path / "step-00000010.a3" / "manifest.json"
    os.utime(made, (time.time() - 7200,) * 2)
    found = rows(capsys, "ls", tmp_path)
    assert [(row["name"], row["state"], row["step"], row["attempt"]) for row in found] == [
        ("step-00000011.a0", "unfinished", 11, 0),
        ("step-00000010.a3", "published", 10, 3),
        ("step-00000002.a0", "published", 2, 0),
        ("bad-step-00000001.a0", "quarantined", 1, 0),
    ]
    assert (found[1]["world_size"], found[1]["tier"]) == (2, "shared")
    assert found[1]["bytes"] == sum(path.stat().st_size for path in made.parent.rglob("*") if path.is_file()) - made.stat().st_size
    assert 7200 <= found[1]["age_s"] < 7300
    lines = run(capsys, "ls", tmp_path).splitlines()
    assert lines[0].split() == ["CHECKPOINT", "STATE", "STEP", "ATTEMPT", "SIZE", "AGE", "RANKS", "TIER"]
    assert lines[2].split() == ["step-00000010.a3", "published", "10", "3", "14.0", "MB", "2.0", "h", "2", "shared"]


def test_ls_of_an_empty_directory_is_no_error_but_verify_finds_nothing_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rows(capsys, "ls", tmp_path) == []
    assert rows(capsys, "verify", tmp_path, code=1) == []
    (make(tmp_path, 11) / "manifest.json").unlink()
    assert rows(capsys, "verify", tmp_path, code=1)[0]["state"] == "unfinished"


def test_verify_names_the_file_and_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in range(1, 6):
        make(tmp_path, step)
    flip(tmp_path / "step-00000002.a0" / "model/sub/weights.bin")
    (tmp_path / "step-00000003.a0" / "rank1.pkl").unlink()
    os.truncate(tmp_path / "step-00000004.a0" / "rank0.pkl", 5)
    flip(tmp_path / "step-00000005.a0" / "manifest.json", 300)
    found = rows(capsys, "verify", tmp_path, code=1)
    assert [(row["state"], row["file"]) for row in found] == [
        ("bad", "manifest.json"),
        ("bad", "rank0.pkl"),
        ("bad", "rank1.pkl"),
        ("bad", "model/sub/weights.bin"),
        ("good", None),
    ]
    assert "5 bytes where the manifest says" in found[1]["reason"]
    assert "hash" in found[3]["reason"]
    assert "rank1.pkl: the file is missing" in run(capsys, "verify", tmp_path, code=1)
    assert rows(capsys, "verify", tmp_path / "step-00000001.a0")[0]["state"] == "good"
    assert len(names(tmp_path)) == 5, "verify changes nothing"


def test_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, 1)
    make(tmp_path, 120, attempt=2)
    (make(tmp_path, 121) / "manifest.json").unlink()
    told = run(capsys, "show", tmp_path)
    assert "step 120, attempt 2 of job 4711, 2 ranks, without torch" in told
    assert "model/sub/weights.bin  12,800,008" in told
    found = rows(capsys, "show", tmp_path / "step-00000001.a0")
    assert (found["step"], found["files"]["rank1.pkl"]["bytes"]) == (1, 3008)
    run(capsys, "show", tmp_path / "step-00000009.a0", code=1)


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch ran",)


@pytest.mark.torch
@pytest.mark.timeout(120)
def test_show_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed.checkpoint as dcp
    from torch import bfloat16, nn

    layer = nn.Linear(4, 3).to(bfloat16)
    with pytest.warns(UserWarning, match="single process"):
        dcp.save({"model": layer.state_dict(), "step": 3}, checkpoint_id=tmp_path / "dcp", no_dist=True)
    make(tmp_path, 1, files={".metadata": (tmp_path / "dcp" / ".metadata").read_bytes()})
    assert rows(capsys, "show", tmp_path, "--tensors")["tensors"] == [
        {"name": "model.bias", "dtype": "bfloat16", "shape": [3]},
        {"name": "model.weight", "dtype": "bfloat16", "shape": [3, 4]},
    ]
    assert "model.weight  bfloat16  3 x 4" in run(capsys, "show", tmp_path, "--tensors")
    monkeypatch.chdir(tmp_path)
    make(tmp_path, 2, files={".metadata": pickle.dumps(Evil())})
    assert "not PyTorch's metadata" in rows(capsys, "show", tmp_path, "--tensors", code=1)["error"]
    assert not (tmp_path / "ran").exists()
    make(tmp_path, 3)
    assert rows(capsys, "show", tmp_path, "--tensors")["tensors"] == []


def test_prune_keeps_the_newest_and_every_kth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in range(1, 9):
        make(tmp_path, step, files={"a": b"x"})
    (make(tmp_path, 9) / "manifest.json").unlink()
    told = run(capsys, "prune", tmp_path, "--keep", 2, "--keep-every", 3, "--dry-run")
    assert told.splitlines()[0] == "would delete step-00000005.a0"
    assert told.splitlines()[-1] == "4 checkpoints would be deleted, 4 kept"
    assert len(names(tmp_path)) == 9
    assert not (tmp_path / "attempt.lock").exists(), "a dry run leaves no trace"
    found = rows(capsys, "prune", tmp_path, "--keep", 2, "--keep-every", 3)
    assert found["deleted"] == [f"step-0000000{step}.a0" for step in (5, 4, 2, 1)]
    assert names(tmp_path) == [f"step-0000000{step}.a0" for step in (3, 6, 7, 8, 9)]
    assert run(capsys, "prune", tmp_path, "--keep", 2, "--keep-every", 3) == "0 checkpoints deleted, 4 kept\n"


def test_a_partial_one_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, 1, files={"a": b"x"}, parts=("model", "optimizer"), partial=True)
    row = rows(capsys, "ls", tmp_path)[0]
    assert (row["partial"], row["reason"]) == (True, "holds model, optimizer only")
    assert "holds model, optimizer only" in run(capsys, "show", tmp_path)


def test_prune_deletes_nothing_unless_one_that_stays_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2, 3):
        make(tmp_path, step)
    for step in (2, 3):
        flip(tmp_path / f"step-0000000{step}.a0" / "rank0.pkl")
    assert cli.main(["checkpoint", "prune", str(tmp_path), "--keep", "2"]) == 1
    said = capsys.readouterr()
    assert "deleting" not in said.out
    assert "step-00000003.a0: rank0.pkl: its sha256 hash" in said.err
    assert "none of the newest is whole and verifies" in said.err
    assert len(names(tmp_path)) == 3


def claim(root: Path, **changes: Any) -> None:
    owner = {"v": 1, "job_id": "4711", "attempt": 0, "token": "t", "node": os.uname().nodename, "pid": os.getpid(), "taken": time.time()}
    (root / "attempt.json").write_text(json.dumps(owner | changes))


def squeue(where: Path, monkeypatch: pytest.MonkeyPatch, script: str | None) -> None:
    """The squeue of this machine: a script, or none."""
    where.mkdir()
    if script is not None:
        (where / "squeue").write_text(f"#!/bin/sh\n{script}\n")
        (where / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{where}:/bin" if script is not None else str(where))


@pytest.mark.parametrize(
    ("owner", "script", "alive"),
    [
        ({}, None, "process"),
        ({"pid": 2**22 + 5}, None, None),
        ({"taken": 1.0}, None, None),
        ({"node": "elsewhere"}, None, "nobody can tell"),
        ({"node": "elsewhere", "job_id": ""}, "echo RUNNING", "nobody can tell"),
        ({"node": "elsewhere"}, "echo RUNNING", "RUNNING"),
        ({"node": "elsewhere"}, "echo PENDING", None),
        ({"node": "elsewhere"}, "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", None),
        ({"node": "elsewhere"}, "echo Unable to contact slurm controller >&2; exit 1", "does not answer"),
    ],
)
def test_prune_leaves_a_live_runs_directory_alone(
    owner: dict[str, Any],
    script: str | None,
    alive: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "ck"
    for step in (1, 2):
        make(root, step, files={"a": b"x"})
    claim(root, **owner)
    squeue(tmp_path / "bin", monkeypatch, script)
    if alive is None:
        assert len(rows(capsys, "prune", root, "--keep", 1)["deleted"]) == 1
        return
    assert alive in rows(capsys, "prune", root, "--keep", 1, code=1)["error"]
    assert len(names(root)) == 2
    assert len(rows(capsys, "prune", root, "--keep", 1, "--force")["deleted"]) == 1


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["ls"],
        ["explode", "x"],
        ["prune", "x"],
        ["prune", "x", "--keep", "0"],
        ["prune", "x", "--keep", "2", "--keep-every", "-1"],
        ["copy", "x"],
        ["show", "x", "--nonsense"],
    ],
)
def test_usage_errors(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["checkpoint", *argv])
    assert ended.value.code == 2
    assert "usage: holdfast checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["ls", "verify", "show", "prune", "copy"])
def test_help_has_examples(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["checkpoint", action, "--help"])
    assert ended.value.code == 0
    assert f"\n  holdfast checkpoint {action} " in capsys.readouterr().out


def test_progress_where_it_is_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, 1)
    cli.main(["checkpoint", "verify", str(tmp_path)])
    assert capsys.readouterr().err == ""
    cli.main(["checkpoint", "verify", str(tmp_path), "--progress"])
    assert "step-00000001.a0: 14.0 MB of 14.0 MB, " in capsys.readouterr().err


def test_on_a_terminal_and_in_a_process_of_its_own(tmp_path: Path) -> None:
    make(tmp_path, 1, files={"a": bytes(50_000_000)})
    ours, theirs = pty.openpty()
    argv = [
        sys.executable,
        "-c",
        "import sys; from holdfast.cli import main; sys.exit(main())",
        "checkpoint",
        "verify",
        str(tmp_path),
        "--json",
    ]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=theirs, check=False, timeout=30)
    os.close(theirs)
    shown = os.read(ours, 100_000)
    os.close(ours)
    assert done.returncode == 0
    assert json.loads(done.stdout)[0]["state"] == "good"
    assert b"step-00000001.a0" in shown


def test_a_manifest_of_another_step_is_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = FileEntry(1, "0" * 64, 0)
    folder = make(tmp_path, 5)
    (folder / "manifest.json").write_bytes(Manifest(6, 0, "", 1, None, "sha256", 0.0, {"a": entry}).to_bytes())
    assert rows(capsys, "ls", tmp_path, code=1)[0]["reason"] == "it belongs to another step or attempt"
