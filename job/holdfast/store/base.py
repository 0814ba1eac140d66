"""What a store of checkpoints can do: a few small operations that a file system and an object store both have.

Names are relative to the store's root, with `/` between their parts: `attempt.json`, `step-00000120.a2/rank0.pt`. A folder is one
checkpoint's; it is published once it has its manifest. Every operation raises OSError (StoreError is one) where the store cannot be
reached or refuses, and FileNotFoundError where there is nothing of that name.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from holdfast.clock import Clock

MANIFEST = "manifest.json"
Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all; from any thread, one call at a time."""
Chunk = bytes | bytearray | memoryview
"""Content in passing: valid until the next one is asked for."""


@dataclass(frozen=True)
class Folder:
    """One checkpoint's folder as it stands in the store. `name` is the folder's, `bad-…` where it was renamed to set it aside."""

    name: str
    published: bool
    bad: bool


class Store(Protocol):
    """Where checkpoints live.

    `location` is the path or URL as people write it; `tier` is `local`, `shared`, `s3`, `gcs` or `azure`; `durable` says whether
    what is here outlives the node.
    """

    location: str
    tier: str
    durable: bool

    def place(self, name: str) -> str:
        """Path or URL of what is called `name`, for people."""

    def folders(self) -> list[Folder]:
        """All folders named like checkpoints, those set aside too, in no order. Empty where the root does not exist."""

    def files(self, folder: str) -> dict[str, int | None]:
        """Everything in a folder and below: name (relative to it) to bytes; None for what is no regular file. Empty if there is none."""

    def exists(self, name: str) -> bool:
        """Whether there is something of that name."""

    def written_at(self, name: str) -> float:
        """Unix time of the last change of what has that name, by the store's clock. Raises FileNotFoundError."""

    def read(self, name: str, limit_bytes: int) -> bytes:
        """A small file's content. Raises ProtocolError where it is larger, or no regular file."""

    def chunks(self, name: str) -> Iterator[Chunk]:
        """A file's content piece by piece, in bounded memory. Raises BadCheckpointError where it is no regular file."""

    def holds(self, name: str, size_bytes: int, digest: str) -> bool:
        """Whether a complete file of that size and content is there already. `digest` is `<algorithm>:<hex>`."""

    def write(self, name: str, chunks: Iterator[Chunk], size_bytes: int, digest: str) -> None:
        """Put a file there as a whole, durably, and have it checked (each store's class says how).

        An exception from `chunks` passes through and leaves no file of that name behind.
        """

    def publish(self, folder: str, data: bytes) -> None:
        """Write the folder's manifest, which makes it a checkpoint. Raises FileExistsError if it has one with other content.

        Once this returns the manifest is durable. If it raises StoreError the manifest may be there or not.
        """

    def load(self, name: str, limit_bytes: int) -> tuple[bytes, Any] | None:
        """A small file's content and its version, for `swap`; None where there is none. Raises ProtocolError as `read` does."""

    def swap(self, name: str, data: bytes, version: Any) -> bool:
        """Replace a small file as a whole, durably, if it still has that version (None: if there is none); whether it was done."""

    def locked(self, clock: Clock) -> AbstractContextManager[None]:
        """Keep other processes out of `swap` and `publish` meanwhile, where the store has locks; not for ever."""

    def set_aside(self, folder: str, reason: bytes) -> str:
        """Take a bad checkpoint out of use, with `reason` (JSON) beside it; a few words on where it is now."""

    def remove(self, folder: str) -> None:
        """Delete a folder, its manifest first: a crash in between leaves it half-written, never damaged. Harmless if it is gone."""
