"""Starting an object store for a test or a benchmark, and switching what goes wrong in it. Standard library only."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.request import ProxyHandler, Request, build_opener

_OPENER = build_opener(ProxyHandler({}))  # the store is on loopback: no proxy of the environment may come between
START_S = 30.0


class ObjectStoreControl:
    """Talks to one store. Every method raises OSError where it does not answer or refuses the request (urllib's HTTPError)."""

    def __init__(self, endpoint_url: str, timeout_s: float = 10.0) -> None:
        self.endpoint_url = endpoint_url.rstrip("/")
        self._timeout_s = timeout_s

    def _call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.endpoint_url}/_sandbox/{path}", data, {"Content-Type": "application/json"})  # noqa: S310
        with _OPENER.open(request, timeout=self._timeout_s) as reply:
            return cast(dict[str, Any], json.load(reply))

    def fail(self, mode: str = "error", **what: Any) -> None:
        """Set up a fault: mode error, slow, hang, cut or corrupt, and the other fields of `faults.Fault` (action, prefix, code, seconds,
        bytes, after, count, share). The answer of a call that took effect is lost by `fail("hang", after=True)`.
        """
        self._call("faults", {"mode": mode, **what})

    def limit(self, bytes_per_s: float | None) -> None:
        """Bound the bandwidth of all connections together; None: no bound."""
        self._call("limit", {"bytes_per_s": bytes_per_s})

    def clear(self) -> None:
        """Let everything go right again, and forget the calls so far."""
        self._call("clear", {})

    def calls(self) -> list[dict[str, Any]]:
        """The latest calls, oldest first: {action, key, range, status, code?}; status None: dropped without an answer."""
        return cast(list[dict[str, Any]], self._call("calls")["calls"])

    def counts(self) -> dict[str, int]:
        """Calls by action and outcome, such as "PutObject 200" or "PutObject SlowDown"."""
        return cast(dict[str, int], self._call("calls")["counts"])

    def bytes_in(self) -> dict[str, int]:
        """Bytes received since the last `clear`, by action."""
        return cast(dict[str, int], self._call("calls")["bytes_in"])


@contextmanager
def running_object_store(
    directory: Path, buckets: Sequence[str] = ("sandbox",), *, min_part_bytes: int | None = None
) -> Iterator[ObjectStoreControl]:
    """A store in a process of its own, its bodies below `directory`. Raises OSError where it does not start."""
    directory.mkdir(parents=True, exist_ok=True)
    ready = directory / "objects.ready.json"
    ready.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "holdfast_sandbox.objects", "--dir", str(directory), "--port", "0", "--ready-file", str(ready)]
    argv += [word for bucket in buckets for word in ("--bucket", bucket)]
    argv += [] if min_part_bytes is None else ["--min-part-bytes", str(min_part_bytes)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        yield ObjectStoreControl(_address(ready, process))
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(ready: Path, process: "subprocess.Popen[bytes]") -> str:
    end = time.monotonic() + START_S
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > end:
            raise OSError("the object store did not start")
        time.sleep(0.02)
    return cast(str, json.loads(ready.read_text())["endpoint_url"])
