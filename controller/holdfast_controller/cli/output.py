"""Tables and lines on stdout: with colours and wrapped where a person looks on, else plain, one line each, nothing cut off."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import typer

from holdfast_controller.cli.text import clean

STYLES = {
    "up": "green",
    "running": "green",
    "saving": "yellow",
    "saved": "yellow",
    "told": "yellow",
    "parked": "yellow",
    "requeueing": "yellow",
    "waiting": "yellow",
    "starting": "cyan",
    "launching": "cyan",
    "booting": "cyan",
    "doomed": "red",
    "down": "red",
    "failed": "red",
    "node_fail": "red",
    "leaving": "magenta",
    "off": "dim",
}
"""Phase → how it looks."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table."""

    text: str
    style: str = ""


Row = Sequence[Cell]


def print_json(document: Any) -> None:
    """Print one JSON document on a line of its own, at once."""
    typer.echo(json.dumps(document))


def note(text: str) -> None:
    """Tell something beside the result, on stderr."""
    typer.echo(clean(text), err=True)


def for_people() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout.isatty()


def plain_table(headers: Sequence[str], rows: Sequence[Row]) -> str:
    """Return aligned columns, as wide as they must be."""
    lines = [list(headers), *([clean(cell.text) or "-" for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def rich_table(headers: Sequence[str], rows: Sequence[Row]) -> Any:
    """Return the table as a `rich` renderable; long cells are folded, never cut off."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*(Text(clean(cell.text), style=cell.style) for cell in row))
    return table


def print_table(headers: Sequence[str], rows: Sequence[Row]) -> None:
    """Print a table on stdout."""
    if for_people():
        from rich.console import Console

        Console().print(rich_table(headers, rows))
    else:
        typer.echo(plain_table(headers, rows))


def print_line(cells: Row, widths: Sequence[int]) -> None:
    """Print one line of a stream, at once: each cell padded to its width, the last one as it is."""
    padded = [Cell(clean(cell.text).ljust(width), cell.style) for cell, width in zip(cells, [*widths, 0], strict=True)]
    if for_people():
        from rich.console import Console
        from rich.text import Text

        line = Text("  ").join(Text(cell.text, style=cell.style) for cell in padded)
        Console().print(line, soft_wrap=True)
    else:
        typer.echo("  ".join(cell.text for cell in padded).rstrip())
