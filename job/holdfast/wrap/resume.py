"""Before the command starts: find its newest good checkpoint, set bad ones aside, and point the command at it."""

import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from holdfast import process
from holdfast.wrap import layout, seal
from holdfast.wrap.layout import QUARANTINE, Checkpoint, Place
from holdfast.wrap.verify import BadError, verify

VARIABLE = "HOLDFAST_RESUME_FROM"
PLACEHOLDER = "{checkpoint}"
_WRITER = re.compile(re.escape(seal.WRITING) + r"(?P<job>\d+)-(?P<attempt>\d+)-(?P<host>.+)-(?P<pid>\d+)-\d+", re.ASCII | re.DOTALL)


@dataclass(frozen=True)
class Found:
    """The newest good checkpoint of all, if there is one, and how many were set aside."""

    newest: Path | None
    unchecked: tuple[str, ...] = ()
    bad: int = 0


def find(places: Iterable[Place], tell: Callable[[str], None], *, check: bool = True) -> Found:
    """Verify the newest checkpoint of each family, and older ones until one is good; set bad ones aside (`check` False: look only).

    Raises OSError where a place cannot be read.
    """
    everything = {found.path: found for place in places for found in layout.find(place)}
    families = groupby(sorted(everything.values(), key=lambda each: (each.family, each.age)), key=lambda each: each.family)
    good: list[tuple[Checkpoint, list[str]]] = []
    bad = 0
    for _, members in families:
        for candidate in reversed(list(members)):
            unchecked = _verified(candidate, tell) if check else []
            if unchecked is not None:
                good.append((candidate, unchecked))
                break
            bad += 1
    if not good:
        return Found(None, bad=bad)
    newest, unchecked = max(good, key=lambda each: (each[0].modified_ns, each[0].age))
    return Found(newest.path, tuple(unchecked), bad)


def _verified(candidate: Checkpoint, tell: Callable[[str], None]) -> list[str] | None:
    """Its files of which nothing can be told; None if it is bad, and then it is set aside."""
    try:
        return verify(candidate)
    except BadError as fault:
        where = set_aside(candidate.path)
        tell(f"{fault}: set aside as {where}" if where else f"{fault}: it could not be set aside")
    except FileNotFoundError:
        pass  # another rank's wrapper has set it aside, or another process has deleted it
    except OSError as fault:
        tell(f"{candidate.path}: could not be read: {fault.strerror}; an older one is used")
    return None


def set_aside(path: Path) -> Path | None:
    """Move a bad checkpoint, and its sidecar, into `bad-checkpoints/` next to it; where it is now, None if that did not work.

    A new name in the same folder would not do: Lightning reads a number out of any name that contains `hpc_ckpt_`.
    """
    folder = path.parent / QUARANTINE
    try:
        folder.mkdir(exist_ok=True)
        target = next(place for place in _names(folder, path.name) if not os.path.lexists(place))
        path.rename(target)
    except OSError:
        return None
    sidecar = Path(seal.sidecar(str(path)))
    if sidecar.exists():
        try:
            Path(seal.sidecar(str(target))).parent.mkdir(exist_ok=True)
            sidecar.rename(seal.sidecar(str(target)))
        except OSError:
            pass  # a sidecar without its file harms nobody: the next save of that name replaces it
    return target


def _names(folder: Path, name: str) -> Iterable[Path]:
    yield folder / name
    for number in range(1, 1_000_000):
        yield folder / f"{name[:200]}.{number}"


def clean(places: Iterable[Place], job: process.Job) -> None:
    """Remove what interrupted writes of our hook have left: by earlier attempts of this job, or by processes of this node that are gone."""
    for place in places:
        base = place.path if place.path.is_dir() else place.path.parent
        for directory in [base, *(found.path for found in layout.find(place) if found.folder)]:
            for entry in _left(directory):
                match = _WRITER.fullmatch(entry.name)
                if match and _is_over(match, job):
                    shutil.rmtree(entry, ignore_errors=True)


def _left(directory: Path) -> list[Path]:
    try:
        return [directory / name for name in os.listdir(directory) if name.startswith(seal.WRITING)]
    except OSError:
        return []


def _is_over(match: re.Match[str], job: process.Job) -> bool:
    earlier = match["job"] == job.job_id and job.attempt is not None and int(match["attempt"]) < job.attempt
    here = match["host"] == os.uname().nodename.replace("/", "_")[:64]
    return earlier or (here and process.started_of(match["pid"]) is None)


def command_with(command: Sequence[str], resume_args: Sequence[str], newest: Path | None) -> list[str]:
    """The command with `{checkpoint}` replaced and the resume arguments added; without a checkpoint both are left out.

    A word with the placeholder goes, and so does the option before it: `--resume {checkpoint}`, `--resume={checkpoint}`.
    """
    words = [*command, *(word for text in resume_args for word in shlex.split(text))] if newest is not None else list(command)
    if newest is not None:
        return [word.replace(PLACEHOLDER, str(newest)) for word in words]
    kept: list[str] = []
    for word in words:
        if PLACEHOLDER not in word:
            kept.append(word)
        elif word == PLACEHOLDER and kept and kept[-1].startswith("-") and "=" not in kept[-1]:
            kept.pop()
    return kept
