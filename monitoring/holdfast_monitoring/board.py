"""What is written by hand in `monitoring/source/dashboards/`: rows of panels, each with its queries."""

from pathlib import Path
from typing import Annotated, Literal

from holdfast_common.settings import Section
from pydantic import Field

from holdfast_monitoring.source import Query, load

Color = Literal["green", "yellow", "orange", "red", "blue", "text"]
Kind = Literal["stat", "timeseries", "table", "bargauge"]


class Line(Query):
    """One query of a panel."""

    legend: str = ""


class Step(Section):
    """From `at` on the value has this colour."""

    at: float
    color: Color


class Meaning(Section):
    """A value that is shown as a word."""

    value: int
    text: str
    color: Color


class Panel(Section):
    """One panel. It is as high as the row, and stands right of the one before it."""

    title: str
    kind: Kind = "timeseries"
    text: Annotated[str, Field(min_length=10)]
    """Its description: what is shown and what to make of it."""
    unit: str
    """Grafana's name of the unit (https://grafana.com/docs/grafana/latest/panels-visualizations/configure-standard-options)."""
    width: Annotated[int, Field(ge=2, le=24)]
    queries: tuple[Line, ...] = Field(strict=False, min_length=1)
    steps: tuple[Step, ...] = Field(default=(), strict=False)
    meanings: tuple[Meaning, ...] = Field(default=(), strict=False)
    stacked: bool = False
    top: float | None = None
    """The highest value of the scale."""
    negative: bool = False
    """Values may be below 0: the scale does not begin there."""
    columns: tuple[str, ...] = Field(default=(), strict=False)
    """Of a table: the labels that are shown, in this order; the value stands last, as `value_name`."""
    value_name: str = ""
    """Of a table: the value's heading; empty: it is not shown."""


class Row(Section):
    """Panels under one heading."""

    title: str
    height: Annotated[int, Field(ge=3, le=16)]
    panel: tuple[Panel, ...] = Field(strict=False, min_length=1)


class Dashboard(Section):
    """One dashboard."""

    title: str
    uid: str
    text: str
    hours: int = 6
    variables: tuple[str, ...] = Field(default=(), strict=False)
    row: tuple[Row, ...] = Field(strict=False, min_length=1)


def dashboards(folder: Path) -> dict[str, Dashboard]:
    """Return the dashboards by the name of their files. Raises ConfigError."""
    return {path.stem: load(path, Dashboard) for path in sorted((folder / "dashboards").glob("*.toml"))}
