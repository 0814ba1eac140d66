"""The timeline as an SVG file. Pure text, no library."""

from collections.abc import Iterator
from html import escape

from holdfast_sandbox.demo.picture import WORDS, Picture

WIDTH, LEFT, RIGHT, TOP, ROW, BAR = 1100.0, 130.0, 20.0, 64.0, 26.0, 16.0
COLOURS = {
    "waits": "#d8dee9",
    "starts": "#88a9d1",
    "trains": "#4c9f70",
    "saves": "#e09f3e",
    "boots": "#c3b1d9",
    "runs": "#e6e6ee",
}
STRIKE = "#b3261e"


def render_svg(picture: Picture, title: str) -> str:
    """Return the whole file."""
    height = TOP + ROW * len(picture.rows) + 20 + 18 * len(picture.strikes) + 30
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH:g}" height="{height:g}" viewBox="0 0 {WIDTH:g} {height:g}"'
        ' font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{WIDTH:g}" height="{height:g}" fill="#ffffff"/>',
        f'<text x="10" y="20" font-size="15" font-weight="bold">{escape(title)}</text>',
        *_legend(),
        *_axis(picture),
        *_rows(picture),
        *_strikes(picture),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _x(picture: Picture, at: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * max(0.0, min(at, picture.length)) / max(picture.length, 1.0)


def _legend() -> Iterator[str]:
    for index, (kind, words) in enumerate(WORDS.items()):
        x = LEFT + index * 150
        yield f'<rect x="{x:g}" y="30" width="12" height="12" fill="{COLOURS[kind]}"/><text x="{x + 17:g}" y="40">{escape(words)}</text>'


def _axis(picture: Picture) -> Iterator[str]:
    bottom = TOP + ROW * len(picture.rows)
    for second in range(0, int(picture.length) + 1, 10):
        x = _x(picture, second)
        yield f'<line x1="{x:.1f}" y1="{TOP - 6:g}" x2="{x:.1f}" y2="{bottom:g}" stroke="#eeeeee"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 14:g}" text-anchor="middle" fill="#666666">{second} s</text>'


def _rows(picture: Picture) -> Iterator[str]:
    for index, (name, bars) in enumerate(picture.rows.items()):
        y = TOP + ROW * index
        yield f'<text x="{LEFT - 8:g}" y="{y + 12:g}" text-anchor="end">{escape(name)}</text>'
        for bar in bars:
            begin, end = _x(picture, bar.begin), _x(picture, bar.end)
            if end > begin:
                told = f"{bar.told}: {bar.begin:.1f} s to {bar.end:.1f} s"
                yield (
                    f'<rect x="{begin:.1f}" y="{y:g}" width="{max(end - begin, 0.6):.1f}" height="{BAR:g}" fill="{COLOURS[bar.kind]}">'
                    f"<title>{escape(told)}</title></rect>"
                )


def _strikes(picture: Picture) -> Iterator[str]:
    names = list(picture.rows)
    bottom = TOP + ROW * len(names) + 36
    for strike in picture.strikes:
        x = _x(picture, strike.at)
        for row in (name for name in strike.rows if name in names):
            y = TOP + ROW * names.index(row)
            yield f'<line x1="{x:.1f}" y1="{y - 4:g}" x2="{x:.1f}" y2="{y + BAR + 4:g}" stroke="{STRIKE}" stroke-width="2"/>'
            yield f'<text x="{x + 3:.1f}" y="{y + 12:g}" fill="{STRIKE}" font-weight="bold">{strike.number}</text>'
        told = f"{strike.number}: {strike.at:.1f} s, {strike.told}"
        yield f'<text x="{LEFT:g}" y="{bottom + 18 * (strike.number - 1):g}" fill="{STRIKE}">{escape(told)}</text>'
