"""Numbers and tables for people."""

from collections.abc import Sequence

_UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
_SPANS = (("d", 86_400), ("h", 3600), ("min", 60))


def size(count: int) -> str:
    """Bytes: `12.3 GB`."""
    for unit, scale in _UNITS:
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def age(seconds: float) -> str:
    """A time ago: `3.2 h`."""
    for unit, scale in _SPANS:
        if seconds >= scale:
            return f"{seconds / scale:.1f} {unit}"
    return f"{max(0, seconds):.0f} s"


def plural(count: int, word: str) -> str:
    """`1 rank`, `2 ranks`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns as wide as their widest cell; those of `right` are aligned to the right. The last one has no padding."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) if at in right else cell.ljust(width) for at, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
