"""Documents that a command reads, compares, checks and puts in force: policies, health rules."""

import difflib
import sys
from typing import NoReturn

import typer

from holdfast_controller.cli.app import FAILED, USAGE, CliError
from holdfast_controller.cli.output import note, print_json
from holdfast_controller.cli.text import clean


def read(file: str) -> str:
    """Return the text of a file, or of stdin for `-`. Raises CliError."""
    from holdfast_common.errors import ConfigError
    from holdfast_common.settings import MAX_BYTES, read_text

    try:
        if file != "-":
            return read_text(file)
        content = sys.stdin.buffer.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise CliError(f"stdin is longer than {MAX_BYTES} bytes")
        return content.decode()
    except ConfigError as error:
        raise CliError(str(error)) from error
    except UnicodeDecodeError as error:
        raise CliError(f"stdin is not UTF-8 at byte {error.start}") from error


def difference(old: str, new: str, old_revision: str, new_revision: str) -> list[str]:
    """Return a unified diff of what is in force and what is to be."""
    names = (f"in force ({old_revision})", f"new ({new_revision})")
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), *names, lineterm="")
    return [f"{line}\n" for line in lines]


def confirm() -> None:
    """Ask on the terminal. Raises CliError where there is none, or where the answer is no."""
    if not sys.stdin.isatty():
        raise CliError("there is no terminal to ask on: say --yes", USAGE)
    if not typer.confirm("Put this in force?", err=True):
        raise CliError("nothing was changed", FAILED)


def faulty(file: str, faults: list[str], *, as_json: bool) -> NoReturn:
    """Print faults, and end with 1."""
    if as_json:
        print_json({"file": file, "ok": False, "revision": None, "faults": faults})
    for fault in faults:
        note(f"{file}: {fault}")
    raise typer.Exit(FAILED)


def printable(text: str) -> str:
    """Return a text of several lines without what a terminal would obey."""
    return "\n".join(clean(line.replace("\t", "    ")) for line in text.split("\n"))
