"""Writing one file of a checkpoint: hashed on the way, paced, durable at the end."""

import os
from pathlib import Path
from types import TracebackType

from holdfast import faults
from holdfast.bandwidth import MIB, Limiter
from holdfast.hashing import CHUNK_BYTES, hasher


class HashingWriter:
    """A binary file for torch.save, torch's distributed writers or pickle.dump, opened exclusively: an existing file is never written into.

    After the `with` block `size_bytes` and `digest` describe what was written and the content is durable. Raises
    OSError (FileExistsError if the file is there). Hashing and writing take turns in one thread: xxh3 costs about a tenth of the
    copy into the page cache, a second thread won nothing that could be measured, and after `write` the data are the caller's again.
    """

    def __init__(self, path: Path, algorithm: str, limiter: Limiter) -> None:
        self._hasher = hasher(algorithm)
        self._limiter = limiter
        self._buffer = bytearray()
        self.size_bytes = 0
        self.digest = ""
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        faults.point("file-opened")

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take bytes in; they are gathered into chunks of at least 1 MiB before they are hashed and written."""
        view = memoryview(data).cast("B")
        if not self._buffer and len(view) >= MIB:
            self._put(view)
        else:
            self._buffer += view
            if len(self._buffer) >= MIB:
                self.flush()
        return len(view)

    def tell(self) -> int:
        """Bytes taken so far; there is no way back."""
        return self.size_bytes + len(self._buffer)

    def seekable(self) -> bool:
        """No: what is hashed stays as it is."""
        return False

    def writable(self) -> bool:
        """Yes, until the end of the `with` block."""
        return True

    def flush(self) -> None:
        """Hash and write what is gathered."""
        if self._buffer:
            chunk, self._buffer = self._buffer, bytearray()
            self._put(memoryview(chunk))

    def _put(self, view: memoryview) -> None:
        """Each piece is hashed while it is in the processor's cache for being written."""
        step_bytes = min(self._limiter.slice_bytes, CHUNK_BYTES)
        for start in range(0, len(view), step_bytes):
            piece = view[start : start + step_bytes]
            self._hasher.update(piece)
            self._limiter.take(len(piece))
            while piece:
                piece = piece[os.write(self._fd, piece) :]
                faults.point("file-partial")
        self.size_bytes += len(view)

    def __enter__(self) -> "HashingWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.flush()
                faults.point("file-written")
                os.fsync(self._fd)
                self.digest = self._hasher.hexdigest()
                faults.point("file-synced")
        finally:
            os.close(self._fd)
