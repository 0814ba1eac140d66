"""`holdfast checkpoint show`: one manifest, readable; with --tensors what PyTorch's own metadata says of the tensors."""

import importlib
import importlib.util
import io
import json
import pickle
from argparse import Namespace
from dataclasses import asdict
from typing import Any

from holdfast.cli.checkpoint_rows import chosen, opened
from holdfast.cli.checkpoint_text import plural, size, table
from holdfast.directory import Checkpoint, CheckpointDirectory
from holdfast.errors import BadCheckpointError, HoldfastError
from holdfast.manifest import Manifest
from holdfast.store.verification import verify

METADATA = ".metadata"
METADATA_BYTES_MAX = 256 * 1024 * 1024


def show(options: Namespace) -> int:
    """Show one checkpoint. Raises HoldfastError, OSError."""
    directory = opened(options.root)
    checkpoint = _wanted(directory, options.checkpoint)
    content = directory.read(checkpoint)
    found: dict[str, Any] = {"name": checkpoint.name, "location": checkpoint.location, "bytes": content.size_bytes, **asdict(content)}
    if options.tensors:
        found["tensors"] = tensors(checkpoint, content)
    print(json.dumps(found, indent=1) if options.json else _text(checkpoint, content, found.get("tensors")))
    return 0


def _wanted(directory: CheckpointDirectory, name: str | None) -> Checkpoint:
    if name is not None:
        return chosen(directory.store, name)[0][1]
    published = directory.published()
    if not published:
        raise HoldfastError(f"there is no published checkpoint in {directory.store.location}")
    return published[0]


def _text(checkpoint: Checkpoint, content: Manifest, held: list[dict[str, Any]] | None) -> str:
    job = f"job {content.job_id}" if content.job_id else "no job"
    torch = "without torch" if content.torch is None else f"torch {content.torch}"
    lines = [
        checkpoint.location,
        f"  step {content.step}, attempt {content.attempt} of {job}, {plural(content.world_size, 'rank')}, {torch}",
        f"  {size(content.size_bytes)} in {plural(len(content.files), 'file')}, written in {content.write_s:.1f} s",
    ]
    if content.parts is not None:
        lines.append(
            f"  holds {', '.join(content.parts)}" + (" only: the time before a deadline was too short for all" if content.partial else "")
        )
    lines.append("")
    files = [["FILE", "BYTES", "RANK", content.algorithm.upper()]]
    files += [[name, f"{entry.bytes:,}", str(entry.rank), entry.hash] for name, entry in sorted(content.files.items())]
    lines.append(table(files, right=(1, 2)))
    if held is not None:
        shapes = [["TENSOR", "TYPE", "SHAPE"]]
        shapes += [[each["name"], each["dtype"], " x ".join(map(str, each["shape"])) or "scalar"] for each in held]
        lines += [
            "",
            table(shapes) if held else f"no {METADATA}: the tensors are in the ranks' own files, which only their program can read",
        ]
    return "\n".join(lines)


def tensors(checkpoint: Checkpoint, content: Manifest) -> list[dict[str, Any]]:
    """Name, dtype and shape of each tensor in a checkpoint's `.metadata`, which is verified first; none where it has no such file.

    Raises HoldfastError where torch is missing, BadCheckpointError, OSError.
    """
    if METADATA not in content.files:
        return []
    if importlib.util.find_spec("torch") is None:
        raise HoldfastError("--tensors needs PyTorch: pip install torch")
    if content.files[METADATA].bytes > METADATA_BYTES_MAX:
        raise HoldfastError(f"{METADATA} is larger than {METADATA_BYTES_MAX} bytes")
    verify(checkpoint.store, checkpoint.name, content, {METADATA})
    data = b"".join(checkpoint.store.chunks(f"{checkpoint.name}/{METADATA}"))
    try:
        entries: dict[str, Any] = _Unpickler(io.BytesIO(data)).load().state_dict_metadata
        held = {name: entry for name, entry in entries.items() if hasattr(entry, "size") and hasattr(entry, "properties")}
        return [
            {"name": name, "dtype": str(entry.properties.dtype).removeprefix("torch."), "shape": list(entry.size)}
            for name, entry in sorted(held.items())
        ]
    except Exception as fault:  # a pickle can fail in any way
        raise BadCheckpointError(METADATA, f"not PyTorch's metadata: {fault}") from fault


class _Inert:
    """Stands for whatever else a pickle names: takes what it is given, and does nothing."""

    def __init__(self, *_given: Any, **_named: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def append(self, _value: Any) -> None:
        """As a list would."""


class _Unpickler(pickle.Unpickler):
    """Makes objects of PyTorch's metadata and nothing else: looking at a checkpoint must not run what somebody put into it."""

    def find_class(self, module: str, name: str) -> Any:
        """The classes that the tensors' names, shapes and types are made of."""
        if module not in ("torch", _METADATA_MODULE) and (module, name) not in _PLAIN:
            return _Inert
        found = getattr(importlib.import_module(module), name, None)
        own = isinstance(found, type) and found.__module__ == _METADATA_MODULE
        return found if own or (module, name) in _PLAIN or type(found).__name__ in ("dtype", "memory_format") else _Inert


_METADATA_MODULE = "torch.distributed.checkpoint.metadata"
_PLAIN = {("torch", "Size"), ("torch.serialization", "_get_layout"), ("collections", "OrderedDict")}
