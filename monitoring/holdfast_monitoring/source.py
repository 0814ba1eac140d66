"""What is written by hand in `monitoring/source/`: alerts, recording rules, cases that try the alerts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from holdfast_common.settings import Section, parse_toml, read_text, validated, worded
from pydantic import BaseModel, Field

AlertName = Annotated[str, worded(r"[A-Z][A-Za-z0-9]{2,31}", "write a word like GpuLost")]
Held = Annotated[str, worded(r"0s|\d+m", "write minutes, like 5m")]
Text = Annotated[str, worded(r"\S[^\n]{8,300}\S", "write one line of 10 to 300 characters")]
_M = TypeVar("_M", bound=BaseModel)


class Query(Section):
    """PromQL, in which `$recent` is how much `counter` grew within `window`."""

    expr: str
    counter: str = ""
    """A counter's selector."""
    window: str = ""

    @property
    def promql(self) -> str:
        """The expression with `$recent` put in."""
        return self.expr.replace("$recent", recent(self.counter, self.window)) if self.counter else self.expr


class Alert(Query):
    """One alert, of which Prometheus' and Grafana's are made.

    Its expression gives one series for each thing that is wrong, and uses no recording rule, so that Grafana can evaluate it by itself.
    """

    name: AlertName
    group: Literal["gpu", "node", "controller", "preemption", "capacity"]
    severity: Literal["critical", "warning", "info"]
    scope: Literal["gpu", "node", "controller", "pool", "job"]
    """What is wrong: Alertmanager keeps the narrower ones quiet by it."""
    for_: Annotated[Held, Field(alias="for")] = "0s"
    """How long it must hold."""
    summary: Text
    """What is seen. `{{ $labels.node }}` and its like are filled in, here and in what follows."""
    cause: Text
    """What it means."""
    next: Text
    """What to do: a command of Holdfast's where there is one."""

    @property
    def runbook(self) -> str:
        """Where the documentation tells of it."""
        return f"docs/monitoring.md#{self.name.lower()}"


class Recording(Section):
    """One recording rule."""

    record: Annotated[str, worded(r"holdfast:[a-z_]+:[a-z0-9_]+", "write level:metric:operation")]
    text: str
    expr: str


class Case(Section):
    """Series with which promtool tries an alert."""

    alert: AlertName
    at: Annotated[str, worded(r"\d+m", "write minutes, like 5m")]
    """When the alert is looked at, from the first sample on."""
    series: dict[str, str]
    """Selector → values, one each 30 s, in promtool's notation."""
    labels: tuple[dict[str, str], ...] | None = Field(default=None, strict=False)
    """The labels of each alert that must fire, without severity and scope; None: it must not fire."""
    why: str

    @property
    def minutes(self) -> int:
        """When the alert is looked at."""
        return int(self.at.removesuffix("m"))


class _Alerts(Section):
    alert: tuple[Alert, ...] = Field(strict=False)


class _Recordings(Section):
    recording: tuple[Recording, ...] = Field(strict=False)


class _Cases(Section):
    case: tuple[Case, ...] = Field(strict=False)


def recent(counter: str, window: str) -> str:
    """Return PromQL for how much a counter grew.

    `increase()` misses the first event of a series that starts with it. A series that was not there when the window began, while its
    target was, has grown by all of its value.
    """
    return f"((({counter} unless {counter} offset {window}) and on (job, instance) (up offset {window})) or increase({counter}[{window}]))"


def load(path: Path, model: type[_M]) -> _M:
    """Return what a file of the source says. Raises ConfigError with every fault."""
    return validated(model, parse_toml(read_text(path), str(path)), str(path), _no_more)


def alerts(folder: Path) -> tuple[Alert, ...]:
    """Return the alerts of all files in `alerts/`. Raises ConfigError."""
    return tuple(alert for path in sorted((folder / "alerts").glob("*.toml")) for alert in load(path, _Alerts).alert)


def recordings(folder: Path) -> tuple[Recording, ...]:
    """Return the recording rules. Raises ConfigError."""
    return load(folder / "recordings.toml", _Recordings).recording


def cases(folder: Path) -> tuple[Case, ...]:
    """Return the cases that try the alerts, of all files in `cases/`. Raises ConfigError."""
    return tuple(case for path in sorted((folder / "cases").glob("*.toml")) for case in load(path, _Cases).case)


def _no_more(_: Mapping[str, Any]) -> tuple[str, ...]:
    return ()
