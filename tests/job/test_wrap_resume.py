"""Which checkpoint a command is pointed at, and what becomes of the bad ones."""

import json
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast.process import Job
from holdfast.wrap import layout, resume, seal
from holdfast.wrap.layout import Place

HOSTILE = ["a b", "new\nline", "-rf", "$(touch x)", "ünïcode", "{checkpoint}", "q'uote\"s"]


def torch_file(path: Path, *, age_s: float = 0.0, sealed: bool = True, whole: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(place: str) -> None:
        with zipfile.ZipFile(place, "w") as archive:
            archive.writestr("data", b"weights")

    if sealed:
        with seal.writing(str(path)) as temporary:
            write(temporary)
    else:
        write(str(path))
    if not whole:
        path.write_bytes(path.read_bytes()[:-5])
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


@pytest.fixture
def found(tmp_path: Path) -> Callable[..., tuple[str | None, list[str]]]:
    def find(**keys: bool) -> tuple[str | None, list[str]]:
        told: list[str] = []
        newest = resume.find([Place(tmp_path)], told.append, **keys).newest
        return None if newest is None else str(newest.relative_to(tmp_path)), told

    return find


def test_nothing_there(tmp_path: Path) -> None:
    assert resume.find([Place(tmp_path / "none"), Place(tmp_path)], print).newest is None


@pytest.mark.parametrize("sealed", [True, False])
def test_a_bad_newest_is_set_aside_and_named(tmp_path: Path, found: Callable[..., tuple[str | None, list[str]]], sealed: bool) -> None:
    torch_file(tmp_path / "ck_1.pt", age_s=20)
    torch_file(tmp_path / "ck_2.pt", age_s=10, sealed=sealed, whole=False)
    newest, told = found()
    assert newest == "ck_1.pt"
    assert [f"{tmp_path}/ck_2.pt: " in line and f"set aside as {tmp_path}/bad-checkpoints/ck_2.pt" in line for line in told] == [True]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["ck_1.pt"]
    assert found() == ("ck_1.pt", []), "once is enough"


def test_lightning_finds_a_good_one_by_its_own_rule(tmp_path: Path, found: Callable[..., tuple[str | None, list[str]]]) -> None:
    for number in (1, 2, 10):
        torch_file(tmp_path / f"hpc_ckpt_{number}.ckpt", age_s=10 if number == 10 else 0, whole=number != 10)
    torch_file(tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "epoch=0-step=5.ckpt", age_s=60)
    assert found()[0] == "hpc_ckpt_2.ckpt"
    highest = max(int("".join(filter(str.isdigit, name.split("hpc_ckpt_")[-1]))) for name in os.listdir(tmp_path) if "hpc_ckpt_" in name)
    assert highest == 2, "what its __max_ckpt_version_in_folder computes"


@pytest.mark.parametrize("fault", ["sentinel", "state", "half a state", "missing", "bad file"])
def test_transformers_folders(tmp_path: Path, found: Callable[..., tuple[str | None, list[str]]], fault: str) -> None:
    for step in (9, 10):
        folder = tmp_path / f"checkpoint-{step}"
        for name in ("optimizer.pt", "training_args.bin"):
            torch_file(folder / name)
        (folder / "trainer_state.json").write_text("{}")
    assert found() == ("checkpoint-10", [])
    if fault == "sentinel":
        (folder / "checkpoint-is-incomplete.txt").touch()
    elif fault == "state":
        (folder / "trainer_state.json").unlink()
    elif fault == "half a state":
        (folder / "trainer_state.json").write_text('{"global_step": 1')
    elif fault == "missing":
        (folder / "optimizer.pt").unlink()
    else:
        torch_file(folder / "optimizer.pt", whole=False)
    newest, told = found()
    assert newest == "checkpoint-9"
    assert "checkpoint-10/" in told[0]
    assert (tmp_path / "bad-checkpoints" / "checkpoint-10" / "training_args.bin").exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(tmp_path: Path, found: Callable[..., tuple[str | None, list[str]]], name: str) -> None:
    torch_file(tmp_path / name / f"{name}_1.pt", age_s=10)
    torch_file(tmp_path / name / f"{name}_2.pt", whole=False)
    newest, _ = found()
    assert newest == f"{name}/{name}_1.pt"
    assert resume.command_with(["x", "--r={checkpoint}", name], ["-c {checkpoint}"], tmp_path / newest)[1:] == [
        f"--r={tmp_path / newest}",
        name.replace("{checkpoint}", str(tmp_path / newest)),
        "-c",
        str(tmp_path / newest),
    ]


def test_every_family_keeps_a_good_one(tmp_path: Path, found: Callable[..., tuple[str | None, list[str]]]) -> None:
    torch_file(tmp_path / "model.pt", age_s=5)
    torch_file(tmp_path / "optim_1.pt", age_s=30)
    torch_file(tmp_path / "optim_2.pt", age_s=20, whole=False)
    (tmp_path / "empty.pt").touch()
    newest, told = found()
    assert newest == "model.pt"
    assert len(told) == 2, "the bad optimizer too, though it is older than the newest good file"
    assert found() == ("model.pt", [])


def test_safetensors_are_checked_as_far_as_they_go(tmp_path: Path, found: Callable[..., tuple[str | None, list[str]]]) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    good = len(header).to_bytes(8, "little") + header + b"1234"
    (tmp_path / "m_1.safetensors").write_bytes(good)
    for number, bad in enumerate((good[:-1], good[:20], b"\xff" * 30, good[:8] + b"x" + good[9:]), 2):
        (tmp_path / f"m_{number}.safetensors").write_bytes(bad)
    newest, told = found()
    assert newest == "m_1.safetensors"
    assert len(told) == 4
    result = resume.find([Place(tmp_path)], print)
    assert result.unchecked == ("m_1.safetensors",), "nothing tells whether its bytes are right, and that is said"


def test_only_looking_changes_nothing(tmp_path: Path, found: Callable[..., tuple[str | None, list[str]]]) -> None:
    torch_file(tmp_path / "ck_1.pt", whole=False)
    assert found(check=False) == ("ck_1.pt", [])
    assert (tmp_path / "ck_1.pt").exists()


def test_bad_ones_of_one_name_do_not_overwrite_each_other(tmp_path: Path, found: Callable[..., tuple[str | None, list[str]]]) -> None:
    for _ in range(3):
        torch_file(tmp_path / "last.pt", whole=False)
        assert found()[0] is None
    kept = {path.name for path in (tmp_path / "bad-checkpoints").iterdir() if path.is_file()}
    assert kept == {"last.pt", "last.pt.1", "last.pt.2"}


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        (["t.py", "--resume", "{checkpoint}", "--x"], ["t.py", "--x"]),
        (["t.py", "--resume={checkpoint}"], ["t.py"]),
        (["t.py", "{checkpoint}"], ["t.py"]),
        (["t.py", "--a=1", "{checkpoint}"], ["t.py", "--a=1"]),
        (["t.py", "ckpt_path={checkpoint}", "b"], ["t.py", "b"]),
    ],
)
def test_without_a_checkpoint_the_placeholder_goes_with_its_option(command: list[str], kept: list[str]) -> None:
    assert resume.command_with(command, ["--resume {checkpoint}"], None) == kept


def test_places_are_read_from_the_command(tmp_path: Path) -> None:
    command = ["python", "t.py", "--output_dir", "out", "--ckpt-dir=/abs/ck", "--checkpoint-every", "10", "--save", "5", "--model", "gpt2"]
    found = layout.places([], command, tmp_path)
    assert [(str(place.path), place.narrow) for place in found] == [(f"{tmp_path}/out", False), ("/abs/ck", False), (str(tmp_path), True)]
    assert [place.path for place in layout.places(["a", "/b"], command, tmp_path)] == [tmp_path / "a", Path("/b")]


def test_in_the_working_directory_only_what_is_known_counts(tmp_path: Path) -> None:
    torch_file(tmp_path / "pretrained.pt", sealed=False)
    torch_file(tmp_path / "data" / "tokens_7.pt", sealed=False)
    torch_file(tmp_path / "sealed.pt")
    torch_file(tmp_path / "hpc_ckpt_3.ckpt", sealed=False)
    torch_file(tmp_path / "out" / "checkpoint-5" / "optimizer.pt", sealed=False)
    names = sorted(found.path.name for found in layout.find(Place(tmp_path, narrow=True)))
    assert names == ["checkpoint-5", "hpc_ckpt_3.ckpt", "sealed.pt"]


def test_what_interrupted_writes_left_is_removed(tmp_path: Path) -> None:
    host = os.uname().nodename
    ours = [f".holdfast-7-0-{host}-1-0", ".holdfast-7-1-else-where-99-3", f".holdfast-0-0-{host}-{2**22 - 1}-0"]
    theirs = [f".holdfast-7-2-{host}-{os.getpid()}-0", ".holdfast-8-0-elsewhere-99-3", ".holdfast-odd"]
    for name in [*ours, *theirs]:
        (tmp_path / name).mkdir()
    resume.clean([Place(tmp_path)], Job("7", 2, "n"))
    assert sorted(os.listdir(tmp_path)) == sorted(theirs)


@pytest.mark.parametrize(
    ("name", "step"), [("checkpoint-12", 12), ("epoch=1-step=40.ckpt", 40), ("hpc_ckpt_3.ckpt", None), ("model.pt", None), ("iter_7.pt", 7)]
)
def test_steps_in_names(name: str, step: int | None) -> None:
    assert layout.step_of(name) == step
