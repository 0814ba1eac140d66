"""Every block of code on the project's pages: settings are read by their models, Python runs, shell scripts parse, commands exist."""

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import typer
from doc_pages import ROOT, Block, blocks, commands
from holdfast_common.health.rules import parse_rules
from holdfast_common.policy import parse_policy
from holdfast_controller.config import load_config
from holdfast_nodeagent.config import load

SYSTEM = {
    *("cd", "source", "set", "export", "mkdir", "exec", "echo", "until", "do", "done", "sleep", "grep", "jq"),
    *(
        "apt-get",
        "git",
        "groupadd",
        "install",
        "ln",
        "systemctl",
        "usermod",
        "pip",
        "python",
        "python3",
        "sbatch",
        "torchrun",
        "srun",
        "squeue",
    ),
}
"""Other programs that our pages may use."""
HEAD = 'cluster = "physics"\nstate_dir = "/var/lib/holdfast"\npolicy = "/var/lib/holdfast/policy.toml"\n'


def load_providers(path: Path) -> object:
    """Read a part of controller.toml, of clouds only."""
    path.write_text(HEAD + path.read_text())
    return load_config(path)


SETTINGS: dict[str, Callable[[Path], object]] = {
    "check: policy": lambda path: parse_policy(path.read_text()),
    "check: controller": load_config,
    "check: providers": load_providers,
    "check: agent": load,
    "check: health rules": lambda path: parse_rules(path.read_text()),
}


class Counted:
    """The least that has a state."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_settings_are_read_by_their_model(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_text(block.text)
    SETTINGS[block.mark](path)


def test_the_example_settings_belong_together() -> None:
    found: dict[str, list[dict[str, Any]]] = {}
    for block in blocks("toml"):
        found.setdefault(block.mark, []).append(tomllib.loads(block.text))
    (agent,) = found["check: agent"]
    regions: dict[str, set[str]] = {}
    for controller in found["check: controller"]:
        assert controller["cluster"] == agent["cluster"]
        assert controller["listen"]["tcp"] == agent["controller"]
    for controller in (*found["check: controller"], *found["check: providers"]):
        for cloud, table in controller["providers"].items():
            regions.setdefault(cloud, set()).update(table["regions"])
    for policy in found["check: policy"]:
        assert all(pool["region"] in regions[pool["provider"]] for pool in policy["pools"].values())


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_is_json(block: Block) -> None:
    assert isinstance(json.loads(block.text), dict)


@pytest.mark.parametrize("block", [block for block in blocks("python") if not block.mark], ids=str)
def test_python_runs_and_resumes(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("SLURM_", "HOLDFAST_"))]:
        monkeypatch.delenv(name)
    trained: list[int] = []

    def run() -> None:
        model = Counted()
        names: dict[str, Any] = {"model": model, "optimizer": Counted(), "loader": Counted()}
        names["train"] = lambda step: trained.append(step) or setattr(model, "count", step) or 0.5
        exec(compile(block.text, str(block), "exec"), names)  # the pages' own text
        names["run"].close()
        assert model.count == names["run"].step - 1

    run()
    assert trained == list(range(len(trained)))
    steps = len(trained)
    assert steps > 0
    run()
    assert len(trained) == steps, "the second run had nothing left to do"


@pytest.mark.parametrize("block", blocks("bash"), ids=str)
def test_a_shell_script_parses(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("block", blocks("bash"), ids=str)
def test_commands_exist_with_these_options(block: Block) -> None:
    for words in commands(block.text):
        check_command(words)


def check_command(words: list[str]) -> None:
    """Fail where a command line of ours would be refused, or names a program that we do not know."""
    program, arguments = words[0], words[1:]
    for word in words:
        if re.match(r"(\./\w|deploy/|scripts/|examples/|tests/|\.ci/)", word) and word != "./holdfast":
            assert (ROOT / word).exists(), f"there is no {word}"
    if program == "holdfast":
        check_holdfast(arguments)
    elif program in {"holdfast-controller", "holdfast-agent"}:
        check_argparse(program, arguments)
    elif program in {"until", "do", "exec"}:
        if arguments:
            check_command(arguments)
    elif program.startswith(("./", "scripts/", ".ci/")):
        assert os.access(ROOT / program, os.X_OK), f"{program} is not executable"
    else:
        assert Path(program).name in SYSTEM, f"{program} is not known here"
        if program == "srun" and "holdfast" in arguments:
            check_command(arguments[arguments.index("holdfast") :])


def check_holdfast(arguments: list[str]) -> None:
    name, rest = arguments[0], arguments[1:]
    if name in {"checkpoint", "completion", "run"}:
        check_argparse(name, rest)
        if name == "run":
            check_command(rest[rest.index("--") + 1 :])
        return
    entry = {entry.name: entry for entry in entry_points(group="holdfast.commands")}[name]
    if [name, *rest[:1]] == ["sandbox", "run"] and "--" in rest:
        check_command(rest[rest.index("--") + 1 :])
    command: Any = without_effect(typer.main.get_command(entry.load()))
    command(args=rest, standalone_mode=False)


def without_effect(command: Any) -> Any:
    """The command, which only reads its arguments now; `get_command` makes it anew each time."""
    for each in getattr(command, "commands", {}).values():
        without_effect(each)
    command.callback = lambda **_: None
    return command


class ParsedError(Exception):
    """Raised in place of the program's work."""


def check_argparse(name: str, arguments: list[str]) -> None:
    from holdfast.cli import checkpoint, completion, run
    from holdfast_controller.__main__ import main as controller
    from holdfast_nodeagent.__main__ import main as agent

    programs: dict[str, Callable[[], object]] = {
        "checkpoint": lambda: checkpoint.main(arguments),
        "completion": lambda: completion.main(arguments, []),
        "run": lambda: run.main(arguments),
        "holdfast-controller": controller,
        "holdfast-agent": lambda: agent(arguments),
    }
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, *given: Any, **named: Any) -> Any:
        parse(parser, *given, **named)
        raise ParsedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        patch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(ParsedError):
            programs[name]()


@pytest.mark.parametrize(
    "line",
    [
        "holdfast nodes --no-such-option",
        "holdfast sandbox run -- holdfast jobs --nope",
        "holdfast-agent --confg x",
        "frobnicate",
        "srun holdfast run --chekpoints x -- python train.py",
        "holdfast run -- frobnicate",
    ],
)
def test_a_wrong_command_line_is_found(line: str) -> None:
    with pytest.raises((AssertionError, SystemExit, Exception)) as caught:
        check_command(next(commands(line)))
    assert not isinstance(caught.value, ParsedError)


def test_every_block_says_what_it_is() -> None:
    assert {block.language for block in blocks()} <= {"toml", "json", "bash", "python", "text"}
