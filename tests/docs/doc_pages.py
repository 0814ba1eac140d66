"""The project's pages, taken apart: blocks of code, tables, links."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
_MARK = re.compile(r"<!-- *(.+?) *-->\s*\Z")
_OPERATORS = set("();<>|&")


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: Path
    line: int
    language: str
    mark: str
    """What the comment right before it says: `check: policy`."""
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """All blocks in these languages, without the indentation of their list items."""
    return [block for page in PAGES for block in _blocks(page) if not languages or block.language in languages]


def _blocks(page: Path) -> Iterator[Block]:
    content = page.read_text()
    for match in _FENCE.finditer(content):
        before = content[: match.start()]
        mark = _MARK.search(before)
        text = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        yield Block(page, before.count("\n") + 1, match["language"], mark[1] if mark else "", text)


def rows(page: Path, mark: str) -> list[list[str]]:
    """The cells of the table that stands after the comment `mark`, without its two lines of heading."""
    _, found, after = page.read_text().partition(f"<!-- {mark} -->\n")
    assert found, f"{page.name} has no table marked {mark!r}"
    table = re.match(r"(?:\|.*\|\n)+", after)
    assert table, f"{page.name}: no table after {mark!r}"
    lines = table[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def code(cell: str) -> str:
    """What a cell has between backquotes, the first time."""
    match = re.search(r"`([^`]+)`", cell)
    assert match, f"no `…` in {cell!r}"
    return match[1]


def commands(script: str) -> Iterator[list[str]]:
    """The simple commands of a shell script, redirections left out. Understands what stands in documentation, no more."""
    joined = re.sub(r"\\\n\s*", " ", script)
    for line in joined.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        skip = False
        for token in lexer:
            if token and set(token) <= _OPERATORS:
                skip = token in {">", ">>", "<"}
                if not skip and words:
                    yield words
                    words = []
                continue
            if not skip:
                words.append(token)
            skip = False
        if words:
            yield words
