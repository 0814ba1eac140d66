"""Stores of every kind for tests, and small checkpoints in them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from holdfast.directory import Checkpoint, CheckpointDirectory
from holdfast.manifest import FileEntry, Manifest
from holdfast.store import FileStore, Store
from holdfast.store.location import open_store
from holdfast_sandbox.objects.control import ObjectStoreControl

SMALL = {"rank0.pkl": b"zero" * 10, "model/sub/weights.bin": bytes(range(48)), ".metadata": b"index", "empty": b""}
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_REGION": "us-east-1"}
BUCKET = "bkt"


def environment(server: ObjectStoreControl) -> dict[str, str]:
    """What leads s3:// and gs:// to the sandbox's server."""
    return {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.endpoint_url, "STORAGE_EMULATOR_HOST": server.endpoint_url}


def memory() -> Store:
    """An object store in this process, which checks nothing by itself."""
    from holdfast.store.objects import ObjectStore
    from obstore.store import MemoryStore

    return ObjectStore(MemoryStore(), "memory://", "memory")


def open_prefix(scheme: str, prefix: str, patience_s: float = 2.0) -> Store:
    return open_store(f"{scheme}://{BUCKET}/{prefix}", patience_s=patience_s)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def describe(files: Mapping[str, bytes], step: int, attempt: int = 0, *, partial: bool = False) -> Manifest:
    entries = {name: FileEntry(len(data), digest(data), 0) for name, data in files.items()}
    return Manifest(step, attempt, "7", 1, None, "sha256", 0.5, entries, partial=partial)


def put(
    store: Store, step: int, attempt: int = 0, files: Mapping[str, bytes] | None = None, *, publish: bool = True, partial: bool = False
) -> Checkpoint:
    """A checkpoint in a store; its content differs from step to step."""
    contents = {name: data and data + str(step).encode() for name, data in SMALL.items()} if files is None else files
    checkpoint = CheckpointDirectory(store, lambda _text: None).place(step, attempt)
    for name, data in contents.items():
        store.write(f"{checkpoint.name}/{name}", iter([data]), len(data), f"sha256:{digest(data)}")
    if publish:
        store.publish(checkpoint.name, describe(contents, step, attempt, partial=partial).to_bytes())
    return checkpoint


def overwrite(store: Store, name: str, data: bytes) -> None:
    """Change what lies there, as a fault of the store would."""
    if isinstance(store, FileStore):
        (store.root / name).write_bytes(data)
    else:
        import obstore

        obstore.put(store._client, name, data)  # type: ignore[attr-defined]


def everything(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
