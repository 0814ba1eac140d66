"""The end of a training run as one number, so that two runs can be compared bit for bit."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch


def _feed(digest: "hashlib._Hash", name: str, value: Any) -> None:
    """Take in a value by its canonical bytes: names in order, tensors by type, shape and raw content."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}:".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            _feed(digest, f"{name}.{key}", value[key])
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _feed(digest, f"{name}.{index}", item)
    else:
        digest.update(f"{name}:{type(value).__name__}:{value!r};".encode())


def state_hash(state: dict[str, Any]) -> str:
    """SHA-256 over the canonical bytes of a state dictionary."""
    digest = hashlib.sha256()
    _feed(digest, "", state)
    return digest.hexdigest()


def write_outcome(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int, world_size: int) -> str:
    """Write parameters, buffers (rank 0's) and optimizer state to `path`, their hash to `path`.json; returns the hash."""
    state = {
        "parameters": {name: value.detach() for name, value in model.named_parameters()},
        "buffers": dict(model.named_buffers()),
        "optimizer": optimizer.state_dict(),
    }
    digest = state_hash(state)
    path.parent.mkdir(parents=True, exist_ok=True)
    summary = {"sha256": digest, "step": step, "world_size": world_size}
    summary |= {part: state_hash({part: value}) for part, value in state.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    torch.save({**state, "step": step}, temporary)
    temporary.rename(path)
    temporary.write_text(json.dumps(summary, indent=1) + "\n")
    temporary.rename(path.with_name(path.name + ".json"))
    return digest
