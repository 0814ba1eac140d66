"""Whether a checkpoint that some framework wrote is whole: by our sidecars, torch's zip CRCs, and what else a format tells."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from holdfast.wrap import seal
from holdfast.wrap.layout import SUFFIXES, Checkpoint

_HEADER_LIMIT_BYTES = 100 * 1024 * 1024
_SENTINEL = "checkpoint-is-incomplete.txt"
_STATE = "trainer_state.json"


class BadError(Exception):
    """A checkpoint is not whole. Names the file and the reason."""


def verify(found: Checkpoint, *, just_saved: bool = False) -> list[str]:
    """Read a checkpoint; the files of which nothing can be told, by name. Raises BadError, OSError.

    `just_saved`: files that our hook has hashed a moment ago are not read again; a deadline is near.
    """

    def whole(path: Path) -> bool:
        return (just_saved and seal.untouched(str(path))) or _file(path)

    if not found.folder:
        return [] if whole(found.path) else [found.path.name]
    _folder(found.path)
    return [name for name in _files(found.path) if not whole(found.path / name)]


def _files(folder: Path) -> Iterator[str]:
    for name in sorted(os.listdir(folder)):
        if name.endswith(SUFFIXES) and (folder / name).is_file():
            yield name


def _folder(path: Path) -> None:
    """What a folder itself tells: Transformers' mark of an unfinished save, and files that it has lost."""
    if (path / _SENTINEL).exists():
        raise BadError(f"{path.name}/{_SENTINEL}: its save was interrupted")
    if path.name.startswith("checkpoint-") and ((path / "training_args.bin").exists() or (path / _STATE).exists()):
        _json(path / _STATE)
    if any(name.endswith(".distcp") for name in os.listdir(path)) and not (path / ".metadata").exists():
        raise BadError(f"{path.name}/.metadata: missing, so its save was interrupted")
    sidecars = path / seal.FOLDER
    if sidecars.is_dir():
        for name in sorted(os.listdir(sidecars)):
            own = name[: -len(".json")]
            if name.endswith(".json") and not name.startswith(".") and own.endswith(SUFFIXES) and not (path / own).exists():
                raise BadError(f"{path.name}/{own}: missing, though it was saved")


def _json(path: Path) -> None:
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadError(f"{path.parent.name}/{path.name}: missing, so its save was interrupted") from None
    except (ValueError, RecursionError):
        raise BadError(f"{path.parent.name}/{path.name}: not whole") from None


def _file(path: Path) -> bool:
    """Whether the file is known to be whole; False where nothing tells. Raises BadError, OSError."""
    name = str(path)
    if os.stat(name).st_size == 0:
        raise BadError(f"{path}: empty")
    try:
        if seal.check(name):
            return True
    except seal.DamagedFile as fault:
        raise BadError(str(fault)) from None
    if seal.is_zip(name):
        fault_text = seal.zip_fault(name)
        if fault_text is not None:
            raise BadError(f"{path}: {fault_text}")
        return True
    if path.suffix == ".safetensors":
        _safetensors(path)
    return False


def _safetensors(path: Path) -> None:
    """The header only: the format has no checksums. It tells a file that was cut off, not one with a flipped byte."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size_bytes < 8 or header_bytes > min(size_bytes - 8, _HEADER_LIMIT_BYTES):
            raise BadError(f"{path}: cut off within its header")
        try:
            header = json.loads(file.read(header_bytes))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
            expected = 8 + header_bytes + max(ends, default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            raise BadError(f"{path}: its header is damaged") from None
    if size_bytes != expected:
        raise BadError(f"{path}: {size_bytes} bytes long, by its header {expected}")
