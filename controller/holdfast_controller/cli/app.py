"""What all commands share: options, exit codes, and errors that end in a sentence and never in a traceback."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_SOCKET = "/run/holdfast/controller.sock"
FAILED, USAGE, UNREACHABLE, REFUSED, INTERRUPTED = 1, 2, 3, 4, 130
EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 usage, 3 controller not reachable, 4 refused by policy."
MAX_ID = 2**32 - 1

Socket = Annotated[
    Path, typer.Option("--socket", metavar="PATH", envvar="HOLDFAST_SOCKET", readable=False, help="The controller's unix socket.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document; times are Unix seconds, null is unknown.")]
Watch = Annotated[bool, typer.Option("--watch", help="Stay and show changes until Ctrl-C; with --json one document per line.")]


class CliError(Exception):
    """A command cannot go on: one sentence for people, and the exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def make_app(help_text: str = "") -> typer.Typer:
    """Return a typer app with plain help (it keeps the lines of examples) and without completion of its own."""
    return typer.Typer(
        help=help_text or None,
        no_args_is_help=bool(help_text),
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


@contextlib.contextmanager
def reported(command: str, *, as_json: bool, on_interrupt: int = INTERRUPTED) -> Iterator[None]:
    """Turn errors into a sentence on stderr (with --json an object on stdout as well) and an exit code.

    With HOLDFAST_TRACEBACK in the environment an error that nobody expected is shown whole.
    """
    try:
        yield
    except CliError as error:
        _end(command, str(error), error.code, as_json)
    except KeyboardInterrupt:
        raise typer.Exit(on_interrupt) from None
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end
        raise typer.Exit(FAILED) from None
    except (typer.Exit, typer.Abort, typer.TyperException):
        raise
    except Exception as error:
        if os.environ.get("HOLDFAST_TRACEBACK"):
            raise
        hint = " (HOLDFAST_TRACEBACK=1 shows where: please report it)"
        _end(command, f"{type(error).__name__}: {error}{hint}", FAILED, as_json)


def _end(command: str, message: str, code: int, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"error": message, "exit_code": code}))
    typer.echo(f"holdfast {command}: {message}", err=True)
    raise typer.Exit(code) from None


def job_number(text: str) -> int:
    """Return a job id. Raises CliError."""
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) <= MAX_ID:
        raise CliError(f"{text!r} is no job id such as 12", USAGE)
    return int(text)
