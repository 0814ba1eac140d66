"""Where the panels of a dashboard stand: left to right on Grafana's grid of 24 columns, then below."""

from collections.abc import Iterator

from holdfast_monitoring.board import Panel, Row

COLUMNS = 24

Place = dict[str, int]
"""Grafana's gridPos: x, y, w, h."""


def placed(rows: tuple[Row, ...]) -> Iterator[tuple[Row | Panel, Place]]:
    """Yield each row's heading and each panel with its place."""
    y = 0
    for row in rows:
        yield row, {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        x, y = 0, y + 1
        for panel in row.panel:
            if x + panel.width > COLUMNS:
                x, y = 0, y + row.height
            yield panel, {"x": x, "y": y, "w": panel.width, "h": row.height}
            x += panel.width
        y += row.height
