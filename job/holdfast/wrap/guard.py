"""What the hook does inside the user's Python: wraps how torch, safetensors and Lightning write, and tells the wrapper what it sees.

Nothing is imported here for the sake of the hook: a module that the program imports is changed right after its own code has run. Whatever
goes wrong is told once on stderr, and the program goes on with the original function. Needs Python 3.9 and the standard library only.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import importlib.machinery
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

if "_holdfast_seal" in sys.modules:
    seal = sys.modules["_holdfast_seal"]
else:  # only the tests, and type checkers, import this as a part of the package
    from holdfast.wrap import seal

VARIABLE = "HOLDFAST_WRAP_DIR"
EVENTS = "events.jsonl"
_told: set[str] = set()


def tell(text: str) -> None:
    """One line for the user, each once in a process."""
    if text not in _told:
        _told.add(text)
        with contextlib.suppress(Exception):
            sys.stderr.write(f"holdfast run: {text}\n")


def emit(event: str, **keys: Any) -> None:
    """Tell the wrapper. One write of one line: lines of several processes do not mix."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return
    line = json.dumps({"event": event, "pid": os.getpid(), "t": time.time(), **keys}) + "\n"
    with contextlib.suppress(OSError):
        descriptor = os.open(os.path.join(folder, EVENTS), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(descriptor, line.encode("utf-8", "surrogateescape"))
        finally:
            os.close(descriptor)


def _local(path: Any) -> str | None:
    """The real path of a file that may be written beside its place; None where the original function shall do it."""
    if not isinstance(path, (str, os.PathLike)):
        return None
    text = os.fspath(path)
    if not isinstance(text, str) or "\0" in text:
        return None
    target: str | None = seal.replaceable(text)
    return target


@contextlib.contextmanager
def _announced(target: str) -> Iterator[None]:
    began = time.monotonic()
    emit("save_began", path=target)
    try:
        yield
    except BaseException:
        emit("save_failed", path=target)
        raise
    emit("saved", path=target, seconds=round(time.monotonic() - began, 3))


def _sealed(write: Callable[[str], Any], path: Any) -> Any:
    """Call `write` with a path beside the right one and publish what it wrote; with the right one where that cannot be."""
    target = _local(path)
    if target is None:
        return write(path)
    with _announced(target), contextlib.ExitStack() as stack:
        try:
            temporary = stack.enter_context(seal.writing(target))
        except OSError as trouble:
            tell(f"{os.path.dirname(target)}: files are written in place, not atomically: {trouble.strerror}")
            return write(path)
        return write(temporary)


def _checked(path: Any) -> None:
    """Raises DamagedFile for a file that is not what its sidecar says."""
    target = _local(path)
    if target is None or not os.path.isfile(target):
        return
    try:
        seal.check(target)
    except OSError as trouble:
        tell(f"{target}: could not be verified: {trouble}")


def _torch(module: ModuleType) -> None:
    save, load = module.save, module.load

    @functools.wraps(save)
    def sealed_save(obj: Any, f: Any, *args: Any, **keys: Any) -> Any:
        return _sealed(lambda path: save(obj, path, *args, **keys), f)

    @functools.wraps(load)
    def checked_load(f: Any, *args: Any, **keys: Any) -> Any:
        _checked(f)
        return load(f, *args, **keys)

    module.save, module.load = sealed_save, checked_load  # type: ignore[attr-defined]


def _safetensors(module: ModuleType) -> None:
    save, load = module.save_file, module.load_file

    @functools.wraps(save)
    def sealed_save(tensors: Any, filename: Any, *args: Any, **keys: Any) -> Any:
        return _sealed(lambda path: save(tensors, path, *args, **keys), filename)

    @functools.wraps(load)
    def checked_load(filename: Any, *args: Any, **keys: Any) -> Any:
        _checked(filename)
        return load(filename, *args, **keys)

    module.save_file, module.load_file = sealed_save, checked_load  # type: ignore[attr-defined]


def _fsspec(module: ModuleType) -> None:
    """Lightning's way. Its transaction writes to the temporary folder, and copies from there where that is another file system."""
    opener = module.LocalFileOpener
    commit = opener.commit

    @functools.wraps(commit)
    def sealed_commit(self: Any) -> Any:
        target = None if self.autocommit else _local(self.path)
        if target is None:
            return commit(self)
        self.f.close()  # the original does, too: a compressor's last bytes

        def move(place: str) -> None:
            shutil.move(self.temp, place)
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(place, 0o666 & ~mask)

        return _sealed(move, target)

    opener.commit = sealed_commit


def _lightning(module: ModuleType) -> None:
    connector = module._SignalConnector
    register = connector.register_signal_handlers

    @functools.wraps(register)
    def registered(self: Any, *args: Any, **keys: Any) -> Any:
        result = register(self, *args, **keys)
        with contextlib.suppress(Exception):  # its inner parts; without them nothing is said
            environment = self.trainer._accelerator_connector.cluster_environment
            number = getattr(environment, "requeue_signal", None)
            if getattr(environment, "auto_requeue", False) and number is not None:
                emit("handler", framework="Lightning", signal=int(number))
        return result

    connector.register_signal_handlers = registered


def _transformers(module: ModuleType) -> None:
    manager = module.CheckpointManager
    setup = manager.setup_signal_handler

    @functools.wraps(setup)
    def handled(self: Any, *args: Any, **keys: Any) -> Any:
        result = setup(self, *args, **keys)
        emit("handler", framework="Transformers", signal=15)
        return result

    manager.setup_signal_handler = handled


def _submitit(module: ModuleType) -> None:
    environment = module.JobEnvironment
    handle = environment._handle_signals

    @functools.wraps(handle)
    def handled(self: Any, *args: Any, **keys: Any) -> Any:
        result = handle(self, *args, **keys)
        with contextlib.suppress(Exception):
            emit("handler", framework="submitit", signal=int(self._usr_sig()))
        return result

    environment._handle_signals = handled


PATCHES: dict[str, Callable[[ModuleType], None]] = {
    "torch.serialization": _torch,
    "safetensors.torch": _safetensors,
    "fsspec.implementations.local": _fsspec,
    "lightning.pytorch.trainer.connectors.signal_connector": _lightning,
    "pytorch_lightning.trainer.connectors.signal_connector": _lightning,
    "transformers.trainer_jit_checkpoint": _transformers,
    "submitit.core.job_environment": _submitit,
}


def _patch(module: ModuleType) -> None:
    name = module.__name__
    try:
        PATCHES[name](module)
    except Exception as trouble:
        tell(f"{name} is not as the hook knows it, and is left alone: {type(trouble).__name__}: {trouble}")
    else:
        emit("module", name=name)


class _Loader(importlib.abc.Loader):
    """The module's own loader, and then the patch."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        found: ModuleType | None = self._inner.create_module(spec)
        return found

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner  # what the module sees of itself is as ever
        module.__loader__ = self._inner
        self._inner.exec_module(module)
        _patch(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Finder(importlib.abc.MetaPathFinder):
    """First in line for the few modules that are patched; asks the others for them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in PATCHES:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


def install() -> None:
    """Stand by for the modules."""
    sys.meta_path.insert(0, _Finder())
    emit("python", argv=[arg[:200] for arg in getattr(sys, "orig_argv", [])[:20]])
