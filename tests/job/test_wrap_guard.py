"""The hook in a Python process that knows nothing of it: a fake torch, real kills."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from holdfast.wrap import seal
from holdfast.wrap.supervisor import HOOK

FAKES = Path(__file__).parent / "wrap_fakes"
SAVE = "import torch; torch.save({'step': 2}, 'm.pt')"
KILL = """
import os, sys
seal = sys.modules["_holdfast_seal"]
seal.fault = lambda name: os.kill(os.getpid(), 9) if name == os.environ["KILL_AT"] else None
"""


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code with the hook, in a directory of its own."""

    def run(code: str, *path: Path, **env: str) -> subprocess.CompletedProcess[str]:
        entries = os.pathsep.join(map(str, [HOOK, *path, FAKES]))
        environ = {**os.environ, "PYTHONPATH": entries, **env}
        return subprocess.run([sys.executable, "-c", code], env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def good(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


BOUNDARIES = ["begun", "middle", "file-written", "file-durable", "sidecar-written", "sidecar-published", "file-published"]


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_killed_in_the_middle_of_torch_save(python: Any, tmp_path: Path, boundary: str) -> None:
    good(python("import torch; torch.save({'step': 1}, 'm.pt')"))
    assert python(KILL + SAVE, KILL_AT=boundary).returncode == -9
    assert seal.check(str(tmp_path / "m.pt")), "whole, and as the sidecar says"
    step = 2 if boundary == "file-published" else 1
    assert good(python("import torch; print(torch.load('m.pt'))")) == f"{{'step': {step}}}\n"
    good(python(SAVE))
    assert seal.check(str(tmp_path / "m.pt"))


def test_the_same_without_the_hook_tears_the_file(python: Any, tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(FAKES)}
    assert python(SAVE, **env).returncode == 0
    assert python(SAVE, KILL_AT="middle", **env).returncode == -9
    assert seal.zip_fault(str(tmp_path / "m.pt")) is not None


def test_load_refuses_what_was_not_saved(python: Any, tmp_path: Path) -> None:
    good(python(SAVE))
    times = (tmp_path / "m.pt").stat().st_mtime_ns
    with (tmp_path / "m.pt").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"?")
    os.utime(tmp_path / "m.pt", ns=(times, times))
    done = python("import torch; torch.load('m.pt')")
    assert done.returncode == 1
    assert f"{tmp_path}/m.pt: it is not what was saved" in done.stderr


def test_files_streams_and_arguments_are_passed_on(python: Any, tmp_path: Path) -> None:
    told = good(
        python(
            "import io, torch, pathlib\n"
            "stream = io.BytesIO(); torch.save([1], stream); stream.seek(0); print(torch.load(stream, weights_only=False))\n"
            "torch.save(obj=[2], f='b.pt', pickle_protocol=4); print(torch.load(f='b.pt'))\n"
            "with open('c.pt', 'wb') as file: torch.save([3], file)\n"
            "torch.save([5], pathlib.Path('d.pt')); print(torch.save.__name__, torch.serialization.save is torch.save)\n"
        )
    )
    assert told == "[1]\n[2]\nsave True\n"
    assert sorted(os.listdir(tmp_path / ".holdfast")) == ["b.pt.json", "d.pt.json"]


def test_an_error_of_torch_save_comes_through_and_the_old_file_stays(python: Any, tmp_path: Path) -> None:
    good(python(SAVE))
    done = python("import torch; torch.save(lambda: None, 'm.pt')")
    assert done.returncode == 1
    assert "pickle" in done.stderr
    assert seal.check(str(tmp_path / "m.pt"))
    assert sorted(os.listdir(tmp_path)) == [".holdfast", "m.pt"]
    done = python("import torch; torch.save(1, 'none/m.pt')")
    assert "FileNotFoundError" in done.stderr


def test_the_next_sitecustomize_runs_and_ours_is_off_the_path(python: Any, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("print('theirs', __name__, __file__); answer = 42\n")
    told = good(
        python("import sitecustomize, sys; print(sitecustomize.answer, any('wrap/hook' in p for p in sys.path))", tmp_path / "site")
    )
    assert told == f"theirs sitecustomize {tmp_path}/site/sitecustomize.py\n42 False\n"


def test_their_sitecustomize_fails_as_it_would_have(python: Any, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("raise ValueError('theirs')\n")
    done = python("print('on')", tmp_path / "site")
    assert (done.returncode, done.stdout) == (0, "on\n")
    assert "ValueError: theirs" in done.stderr


def test_nothing_is_imported_for_the_hook(python: Any) -> None:
    told = good(python("import sys; print(sorted({'torch', 'xxhash', 'holdfast', 'safetensors', 'subprocess'} & set(sys.modules)))"))
    assert told == "[]\n"


def test_a_torch_that_is_not_as_expected_is_left_alone(python: Any, tmp_path: Path) -> None:
    other = tmp_path / "other" / "torch"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("from torch.serialization import save\n")
    (other / "serialization.py").write_text("def save(obj, f): open(f, 'w').write('theirs')\n")
    done = python("import torch; torch.save(1, 'm.pt'); torch.save(1, 'm.pt')", tmp_path / "other")
    assert done.returncode == 0
    assert done.stderr.count("holdfast run: torch.serialization is not as the hook knows it, and is left alone: AttributeError") == 1
    assert (tmp_path / "m.pt").read_text() == "theirs"


def test_a_folder_that_takes_no_new_names(python: Any, tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(b"old")
    code = (
        "import sys, os, torch; seal = sys.modules['_holdfast_seal']\n"
        "def refuse(path): raise PermissionError(13, 'Permission denied')\n"
        "os.mkdir = refuse\n" + SAVE
    )
    done = python(code)
    assert (done.returncode, done.stderr) == (
        0,
        f"holdfast run: {tmp_path}: files are written in place, not atomically: Permission denied\n",
    )
    assert seal.zip_fault(str(tmp_path / "m.pt")) is None


def test_the_real_modules_of_lightning_and_the_others_are_as_the_hook_knows_them() -> None:
    """By their source, which costs no import of torch."""
    import importlib.util

    wanted = {
        "lightning.pytorch": ("trainer/connectors/signal_connector.py", "class _SignalConnector", "def register_signal_handlers"),
        "transformers": ("trainer_jit_checkpoint.py", "class CheckpointManager", "def setup_signal_handler"),
        "submitit": ("core/job_environment.py", "class JobEnvironment", "def _handle_signals", "def _usr_sig"),
        "fsspec": ("implementations/local.py", "class LocalFileOpener", "def commit", "self.autocommit", "self.temp"),
        "safetensors": ("torch.py", "def save_file", "def load_file"),
    }
    for package, (file, *parts) in wanted.items():
        top = importlib.util.find_spec(package.partition(".")[0])
        if top is None or top.origin is None:
            pytest.skip(f"{package} is not installed")
        text = (Path(top.origin).parent / Path(*package.split(".")[1:]) / file).read_text()
        assert all(part in text for part in parts), package
