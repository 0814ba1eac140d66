"""Init (pid 1) of one sandbox's pid namespace: starts and stops its daemons on request, and reaps every orphan.

    python -m holdfast_sandbox.supervisor CONFIG.json [--lifeline FD] [--hold FD]…

When it dies, by whatever signal, the kernel kills everything in the namespace with it. It ends by itself when the
lifeline (a pipe whose other end the starting process holds) closes, unless it was told to `detach` before. A pipe and
not PR_SET_PDEATHSIG, which has a race at the start and fires when the starting thread ends. The `--hold` descriptors are
the port locks, kept open and given to nobody. Orders: one JSON object in a line on a unix socket, see `answer`.
"""

import argparse
import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast_sandbox.component import Component, ComponentError, ComponentSpec

LONGEST_ORDER = 65536
_ORDER_TIMEOUT_S = 10.0


class Supervisor:
    """The components and the orders that concern them."""

    def __init__(self, specs: Sequence[ComponentSpec]) -> None:
        self._lock = threading.RLock()
        self._components = {spec.name: Component(spec, self._lock) for spec in specs}
        self.detached = False

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out one order and return the answer.

        `{"op": "start", "component": NAME, "env": {…}}` (env: added for this and later starts),
        `{"op": "stop", …, "timeout_s": 10}` (TERM, then KILL), `{"op": "kill", …, "signal": 9}`, `{"op": "status"}`,
        `{"op": "detach"}`. Answers have `ok`, and `error` or what was asked for. Raises ComponentError, and KeyError,
        TypeError or ValueError for a malformed order.
        """
        op = order["op"]
        if op == "status":
            return {"ok": True, "components": {name: c.status() for name, c in self._components.items()}}
        if op == "detach":
            self.detached = True
            return {"ok": True}
        name = order["component"]
        if name not in self._components:
            raise ComponentError(f"no component {name!r}; there are: {', '.join(self._components)}")
        component = self._components[name]
        if op == "start":
            component.start({str(key): str(value) for key, value in order.get("env", {}).items()})
        elif op == "stop":
            component.stop(float(order.get("timeout_s", 10.0)))
        elif op == "kill":
            component.kill(int(order.get("signal", signal.SIGKILL)))
        else:
            raise ComponentError(f"no order {op!r}")
        return {"ok": True, "status": component.status()}

    def reap(self) -> None:
        """Collect every child that has ended: components, and orphans of the whole namespace."""
        with self._lock:
            while True:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    return
                if pid == 0:
                    return
                for component in self._components.values():
                    component.reaped(pid, os.waitstatus_to_exitcode(status))

    def serve(self, connection: socket.socket) -> None:
        """Answer the orders of one connection, until it closes."""
        connection.settimeout(_ORDER_TIMEOUT_S)
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as lines:
            while line := lines.readline(LONGEST_ORDER):
                try:
                    reply = self.answer(json.loads(line))
                except (ComponentError, KeyError, TypeError, ValueError, AttributeError) as fault:
                    text = str(fault) if isinstance(fault, ComponentError) else f"bad order: {fault!r}"
                    reply = {"ok": False, "error": text}
                connection.sendall(json.dumps(reply).encode() + b"\n")


def run(supervisor: Supervisor, listener: socket.socket, lifeline: int | None) -> None:
    """Serve until the lifeline closes (and we are not detached) or SIGTERM arrives."""
    wake_r, wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    asked_to_end = threading.Event()
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: asked_to_end.set())
    signal.set_wakeup_fd(wake_w)
    selector = selectors.DefaultSelector()
    selector.register(wake_r, selectors.EVENT_READ)
    selector.register(listener, selectors.EVENT_READ)
    if lifeline is not None:
        selector.register(lifeline, selectors.EVENT_READ)
    while not asked_to_end.is_set():
        for key, _ in selector.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                threading.Thread(target=supervisor.serve, args=(connection,), daemon=True).start()
            elif key.fd == wake_r:
                os.read(wake_r, 4096)
            elif supervisor.detached:
                selector.unregister(key.fileobj)
            else:
                return
        supervisor.reap()


def prepare_namespace(config: dict[str, Any]) -> None:
    """Set the host name and bind-mount what the sandbox's processes shall see elsewhere. Raises CalledProcessError, OSError."""
    socket.sethostname(config["hostname"])
    for source, target in config["binds"]:
        if not Path(target).exists():
            Path(target).mkdir(parents=True)
        subprocess.run(["mount", "--bind", source, target], check=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as the init of a new pid, mount and UTS namespace. Returns 0 at the requested end."""
    parser = argparse.ArgumentParser(prog="python -m holdfast_sandbox.supervisor")
    parser.add_argument("config", type=Path)
    parser.add_argument("--lifeline", type=int)
    parser.add_argument("--hold", type=int, action="append", default=[])
    options = parser.parse_args(arguments)
    for fd in [*options.hold, *([] if options.lifeline is None else [options.lifeline])]:
        os.set_inheritable(fd, False)
    if os.getpid() != 1:
        print("the supervisor must be pid 1 of a pid namespace, all of which ends with it", file=sys.stderr)
        return 2
    config = json.loads(options.config.read_text(encoding="utf-8"))
    prepare_namespace(config)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path = Path(config["socket"])
    path.unlink(missing_ok=True)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(16)
    run(Supervisor([ComponentSpec.from_json(entry) for entry in config["components"]]), listener, options.lifeline)
    return 0


if __name__ == "__main__":
    try:
        code = main()
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    # Pid 1's threads may wait for a component; nothing that they would still do matters once the namespace ends.
    os._exit(code)
