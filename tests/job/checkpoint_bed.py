"""Checkpoints made by hand, without a run."""

import hashlib
import os
from pathlib import Path
from typing import Any

from holdfast.manifest import FileEntry, Manifest

FILES = {"rank0.pkl": b"zero" * 300_000, "rank1.pkl": b"one" * 1000, "model/sub/weights.bin": bytes(range(256)) * 50_000}


def make(root: Path, step: int, attempt: int = 0, files: dict[str, bytes] | None = None, job: str = "4711", **more: Any) -> Path:
    """A published checkpoint; the files' content differs from step to step."""
    folder = root / f"step-{step:08d}.a{attempt}"
    entries = {}
    for rank, (name, content) in enumerate((FILES if files is None else files).items()):
        data = content if files is not None else step.to_bytes(8, "big") + content
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        entries[name] = FileEntry(len(data), hashlib.sha256(data).hexdigest(), rank % 2)
    (folder / "manifest.json").write_bytes(Manifest(step, attempt, job, 2, None, "sha256", 1.5, entries, **more).to_bytes())
    return folder


def flip(path: Path, at: int = 1000) -> None:
    """Change one bit."""
    with path.open("r+b") as file:
        old = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([old[0] ^ 1]), at)


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
