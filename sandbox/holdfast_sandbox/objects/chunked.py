"""Content-Encoding aws-chunked: chunks with their length (and signature, which nobody looks at) before them, trailers after."""

import re

from holdfast_sandbox.objects.errors import StoreError

_HEAD = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;chunk-signature=[0-9a-f]{64})?", re.ASCII)
_LINE_BYTES_MAX = 16 * 1024
_TRAILERS_MAX = 20


class AwsChunked:
    """Decodes a body that comes in pieces of any size. `feed` returns slices of what it is given, copying nothing."""

    def __init__(self) -> None:
        self.trailers: dict[str, str] = {}
        self.finished = False
        self._line = b""
        self._left = 0
        self._part = "head"

    def feed(self, data: bytes) -> list[memoryview]:
        """The payload in `data`. Raises StoreError where it is not aws-chunked."""
        view, found = memoryview(data), []
        while view:
            if self._part == "payload":
                found.append(view[: self._left])
                view, self._left = view[self._left :], self._left - len(found[-1])
                if not self._left:
                    self._part = "end of payload"
                continue
            end = bytes(view[:_LINE_BYTES_MAX]).find(b"\n")
            taken = len(view) if end < 0 else end + 1
            self._line += bytes(view[: min(taken, _LINE_BYTES_MAX + 1)])
            if len(self._line) > _LINE_BYTES_MAX:
                raise _wrong("a line is too long")
            view = view[taken:]
            if end >= 0:
                line, self._line = self._line.removesuffix(b"\n").removesuffix(b"\r"), b""
                self._take(line)
        return found

    def _take(self, line: bytes) -> None:
        if self.finished:
            raise _wrong("bytes follow its end")
        if self._part == "head":
            head = _HEAD.fullmatch(line)
            if head is None:
                raise _wrong("a chunk does not begin with its length")
            self._left = int(head[1], 16)
            self._part = "payload" if self._left else "trailers"
        elif self._part == "end of payload":
            if line:
                raise _wrong("a chunk is longer than it says")
            self._part = "head"
        elif line:
            name, _, value = line.decode("latin-1").partition(":")
            self.trailers[name.strip().lower()] = value.strip()
            if len(self.trailers) > _TRAILERS_MAX:
                raise _wrong("it has too many trailers")
        else:
            self.finished = True


def _wrong(why: str) -> StoreError:
    return StoreError("InvalidRequest", f"The aws-chunked body is malformed: {why}.")
