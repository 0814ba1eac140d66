"""Which sandboxes this user has started on this machine, so that `down --all` finds them. A hint: an entry may be stale."""

import hashlib
from pathlib import Path

from holdfast_sandbox.ports import default_lock_directory


def register(root: Path) -> None:
    """Note that there is a sandbox in `root`."""
    _entry(root).write_text(f"{root}\n", encoding="utf-8")


def unregister(root: Path) -> None:
    """Forget the sandbox in `root`."""
    _entry(root).unlink(missing_ok=True)


def registered() -> list[Path]:
    """Return the directories of all sandboxes noted; entries whose directory is gone are dropped."""
    found = []
    for entry in sorted(default_lock_directory().glob("*.sandbox")):
        root = Path(entry.read_text(encoding="utf-8").strip())
        if (root / "sandbox.json").exists():
            found.append(root)
        else:
            entry.unlink(missing_ok=True)
    return found


def _entry(root: Path) -> Path:
    name = hashlib.sha256(str(root).encode()).hexdigest()[:16]
    return default_lock_directory() / f"{name}.sandbox"
