"""Where a script keeps its checkpoints, and which files and folders there are one.

A *place* is a directory to look below, or one file that is written again and again. A checkpoint is a file of a known suffix, or a folder
whose name ends in a number and which holds such files (`checkpoint-500`). Those that differ in numbers only are one *family*, of which the
newest counts: `hpc_ckpt_1.ckpt` and `hpc_ckpt_2.ckpt` are one, `model.pt` and `optimizer.pt` are two.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.wrap import seal

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pkl", ".tar", ".distcp", ".npz", ".pickle", ".torch")
QUARANTINE = "bad-checkpoints"
MOST_ENTRIES = 20_000
DEPTH, NARROW_DEPTH = 4, 2
_NUMBERED = re.compile(r"[^\d].*?(\d{1,18})", re.DOTALL | re.ASCII)
_FOLDER = re.compile(r"[A-Za-z][\w.=-]*?[-_=]?(\d{1,18})", re.ASCII)
_OPTION = re.compile(
    r"--?(?:[a-z]+[_-])*(?:(?:ckpt|checkpoint|output|save|model|experiment|exp|work|run|log|root|results?)s?[_-]?(?:dir|path|folder|directory)"
    r"|default[_-]root[_-]dir|ckpts?|checkpoints?|output|out)",
    re.IGNORECASE | re.ASCII,
)
_STEP = re.compile(r"(?:step|checkpoint|ckpt|iter|iteration)s?[-_=]?(\d{1,18})", re.IGNORECASE | re.ASCII)
_LIGHTNING = re.compile(r"hpc_ckpt_\d+\.ckpt", re.ASCII)
_TRAINER = re.compile(r"checkpoint-\d+", re.ASCII)


@dataclass(frozen=True)
class Place:
    """Where to look. `narrow`: the working directory, where only what a framework has named counts, or what our hook has sealed."""

    path: Path
    narrow: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """One file or folder. `stamp` changes when it, or a file in it, is written; `modified_ns` is the newest of them."""

    path: Path
    folder: bool
    number: int
    modified_ns: int
    stamp: tuple[tuple[str, int, int, int], ...]

    @property
    def family(self) -> tuple[str, str]:
        """What the older and newer ones of the same kind have in common."""
        return str(self.path.parent), re.sub(r"\d+", "#", self.path.name)

    @property
    def age(self) -> tuple[int, int]:
        """Sorts a family from old to new: Lightning and Transformers go by the number as well."""
        return self.number, self.modified_ns


def places(given: Sequence[str], command: Sequence[str], here: Path) -> list[Place]:
    """The places to watch: those that were given, else those that the command's options seem to name, and the working directory."""
    if given:
        return [Place(Path(os.path.abspath(here / path))) for path in given]
    found = {Path(os.path.abspath(here / path)): None for path in _named(command)}
    return [*(Place(path) for path in found if path != here and path != Path("/")), Place(here, narrow=True)]


def _named(command: Sequence[str]) -> Iterator[str]:
    for word, following in zip(command, [*command[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        if not _OPTION.fullmatch(option):
            continue
        value = value if equals else following
        if value and not value.startswith("-") and not value.isdecimal() and "{" not in value and "://" not in value:
            yield value


def find(place: Place) -> list[Checkpoint]:
    """All checkpoints below a place, in no order. A place that is not there holds none. Raises OSError if it cannot be read."""
    if not place.path.is_dir():
        one = _file(place.path) if place.path.is_file() else None
        return [one] if one is not None else []
    return list(_walk(place.path, place.narrow, NARROW_DEPTH if place.narrow else DEPTH, [MOST_ENTRIES]))


def _walk(directory: Path, narrow: bool, depth: int, left: list[int]) -> Iterator[Checkpoint]:
    for entry in _entries(directory, left):
        if entry.name.startswith(".") or entry.name == QUARANTINE:
            continue
        path = directory / entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _inside(path, narrow, depth, left)
        elif entry.name.endswith(SUFFIXES) and (not narrow or _expected(path)) and entry.is_file(follow_symlinks=False):
            found = _file(path)
            if found is not None:
                yield found


def _inside(path: Path, narrow: bool, depth: int, left: list[int]) -> Iterator[Checkpoint]:
    whole = _folder(path, left) if _FOLDER.fullmatch(path.name) and (not narrow or _TRAINER.fullmatch(path.name)) else None
    if whole is not None:
        yield whole
    elif depth > 0:
        yield from _walk(path, narrow and path.name != "lightning_logs", depth - 1, left)


def _expected(path: Path) -> bool:
    return bool(_LIGHTNING.fullmatch(path.name)) or os.path.exists(seal.sidecar(str(path)))


def _entries(directory: Path, left: list[int]) -> list[os.DirEntry[str]]:
    found: list[os.DirEntry[str]] = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if left[0] <= 0:
                    break
                left[0] -= 1
                found.append(entry)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    return found


def _stamp(path: Path, name: str) -> tuple[str, int, int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return name, status.st_ino, status.st_mtime_ns, status.st_size


def number_of(name: str) -> int:
    """The last number in a checkpoint's name (of `epoch=1-step=20.ckpt`: 20); -1 without one."""
    numbers = re.findall(r"\d{1,18}", os.path.splitext(name)[0], re.ASCII)
    return int(numbers[-1]) if numbers else -1


def step_of(name: str) -> int | None:
    """The training step in a checkpoint's name, where that says so; Lightning's `hpc_ckpt_3` is its third."""
    match = None if _LIGHTNING.fullmatch(name) else _STEP.search(name)
    return None if match is None else int(match[1])


def _file(path: Path) -> Checkpoint | None:
    stamp = _stamp(path, path.name)
    return None if stamp is None else Checkpoint(path, False, number_of(path.name), stamp[2], (stamp,))


def _folder(path: Path, left: list[int]) -> Checkpoint | None:
    """The folder as one checkpoint, if a checkpoint's files are in it."""
    entries = sorted(_entries(path, left), key=lambda entry: entry.name)
    if not any(entry.name.endswith(SUFFIXES) for entry in entries):
        return None
    stamps = [stamp for entry in entries if not entry.name.startswith(".") and (stamp := _stamp(path / entry.name, entry.name)) is not None]
    return Checkpoint(path, True, number_of(path.name + ".x"), max((stamp[2] for stamp in stamps), default=0), tuple(stamps))


def writing(place: Place) -> bool:
    """Whether a write by our hook is under way directly in a place, or in a folder of it."""
    base = place.path if place.path.is_dir() else place.path.parent
    left = [MOST_ENTRIES]
    entries = _entries(base, left)
    inner = [each for entry in entries if _FOLDER.fullmatch(entry.name) and entry.is_dir() for each in _entries(base / entry.name, left)]
    return any(entry.name.startswith(seal.WRITING) for entry in [*entries, *inner])
