import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import holdfast
import pytest
from holdfast import cli

GREET = """
import typer
app = typer.Typer()

@app.command()
def hello(name: str) -> None:
    print("hello", name)
    raise typer.Exit(4)
"""


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Adds a command group whose module has the given source."""
    monkeypatch.syspath_prepend(str(tmp_path))
    entries: dict[str, EntryPoint] = {}

    def add(name: str, source: str) -> None:
        (tmp_path / f"group_{name}.py").write_text(source)
        entries[name] = EntryPoint(name, f"group_{name}:app", cli.GROUP)
        monkeypatch.setattr(cli, "_added", lambda: entries)

    return add


def test_help_lists_the_commands_without_loading_them(added: Any, capsys: pytest.CaptureFixture[str]) -> None:
    added("explosive", "raise AssertionError('loaded')")
    assert cli.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert "explosive" in told
    assert "checkpoint" in told
    assert "3 controller not reachable" in told


def test_a_function_gets_the_arguments_and_gives_the_exit_code(added: Any) -> None:
    added("echo", "def app(argv):\n    return len(argv)")
    assert cli.main(["echo", "a", "b", "--c"]) == 3


def test_an_app_is_called_as_typer_and_click_expect(added: Any) -> None:
    added("app", "class App:\n    def __call__(self, **keys):\n        self.keys = keys\napp = App()")
    assert cli.main(["app", "x"]) == 0
    assert sys.modules["group_app"].app.keys == {"args": ["x"], "prog_name": "holdfast app", "standalone_mode": True}


def test_a_typer_app_runs(added: Any, capsys: pytest.CaptureFixture[str]) -> None:
    added("greet", GREET)
    with pytest.raises(SystemExit) as ended:
        cli.main(["greet", "you"])
    assert ended.value.code == 4
    assert capsys.readouterr().out == "hello you\n"


def test_a_missing_extra_is_named(added: Any, capsys: pytest.CaptureFixture[str]) -> None:
    added("lacking", "import a_module_that_nobody_has\napp = print")
    assert cli.main(["lacking"]) == 1
    assert "needs the module a_module_that_nobody_has: pip install 'holdfast[controller]'" in capsys.readouterr().err


@pytest.mark.parametrize(("argv", "told"), [(["chekpoint"], "did you mean checkpoint?"), ([], "usage: holdfast")])
def test_usage_errors(argv: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    assert told in capsys.readouterr().err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("holdfast 0.")


def complete(script: str, *words: str) -> list[str]:
    """What bash would offer for the last word."""
    line = f'{script}\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _holdfast; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", line, "bash", *words], capture_output=True, text=True, check=True, env=dict(os.environ))
    return done.stdout.split()


def test_bash_completion(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert complete(script, "holdfast", "chec") == ["checkpoint"]
    assert complete(script, "holdfast", "checkpoint", "v") == ["verify"]
    assert complete(script, "holdfast", "checkpoint", "") == ["ls", "verify", "show", "prune", "copy", "--help"]
    assert complete(script, "holdfast", "checkpoint", "prune", "--k") == ["--keep", "--keep-every"]
    assert complete(script, "holdfast", "checkpoint", "copy", "--a") == ["--all"]


@pytest.fixture
def checkpoints(runs: Callable[..., holdfast.Run], tally: Any, tmp_path: Path) -> Path:
    for _ in runs(tally(), every_steps=1).steps(2):
        pass
    return tmp_path / "ck"


def test_checkpoints_are_listed_and_verified(checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["checkpoint", "verify", str(checkpoints)]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["step-00000002.a0", "good"],
        ["step-00000001.a0", "good"],
    ]
    path = checkpoints / "step-00000002.a0" / "rank0.pkl"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    (checkpoints / "step-00000001.a0" / "manifest.json").unlink()
    assert cli.main(["checkpoint", "ls", str(checkpoints), "--json"]) == 0
    assert [row["state"] for row in json.loads(capsys.readouterr().out)] == ["published", "unfinished"]
    assert cli.main(["checkpoint", "verify", str(checkpoints / "step-00000002.a0"), "--json"]) == 1
    row = json.loads(capsys.readouterr().out)[0]
    assert (row["state"], row["file"], row["step"]) == ("bad", "rank0.pkl", 2)
    assert path.exists(), "verify changes nothing"


def test_a_directory_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["checkpoint", "ls", str(tmp_path / "none")]) == 1
    assert "is not a directory" in capsys.readouterr().err
