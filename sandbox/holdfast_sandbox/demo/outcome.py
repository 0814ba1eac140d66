"""The final state of a training run, value by value."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def digests(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each tensor (type, shape and raw bytes) and each other value of a saved state, by its place in it.

    Read anew from the file, so that what is compared does not rest on the training script's own word. Raises OSError, RuntimeError.
    """
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    return dict(_leaves("", state))


def _leaves(place: str, value: Any) -> Iterator[tuple[str, str]]:
    import torch

    if isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from _leaves(f"{place}.{key}" if place else str(key), value[key])
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(f"{place}.{index}", item)
    elif isinstance(value, torch.Tensor):
        content = value.detach().contiguous()
        head = f"{content.dtype}{tuple(content.shape)}".encode()
        yield place, hashlib.sha256(head + content.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
    else:
        yield place, hashlib.sha256(f"{type(value).__name__}:{value!r}".encode()).hexdigest()
