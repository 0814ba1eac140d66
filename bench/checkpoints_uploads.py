"""One checkpoint into a local S3 server through Holdfast's store, beside raw clients; and its files read again to be verified."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from holdfast.store import FileStore, open_store
from holdfast.store.transfer import copy_files
from holdfast.store.verification import read_manifest
from holdfast_sandbox.objects.control import running_object_store

from bench.checkpoints_model import MIB

HOLDFAST = "holdfast, hashed and checksummed"
PARTS = ((8, 4), (16, 4), (32, 4), (16, 8), (64, 2))
"""Raw obstore: MiB of a part, parts at once."""
BUCKET = "sandbox"


def uploads(root: Path, server: Path, repeats: int) -> list[dict[str, Any]]:
    """Every client in turns; MiB/s of each upload. `root`: a directory with one checkpoint, `server`: where the store keeps bodies."""
    source = FileStore(root)
    folder = source.folders()[0].name
    content = read_manifest(source, folder)
    large = max(content.files, key=lambda name: content.files[name].bytes)
    path, large_bytes = root / folder / large, content.files[large].bytes
    found = []
    with running_object_store(server, [BUCKET]) as control:
        environment = {"AWS_ENDPOINT_URL": control.endpoint_url, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "bench"}
        os.environ.update(environment | {"AWS_SECRET_ACCESS_KEY": "bench"})
        ours = open_store(f"s3://{BUCKET}/run")
        clients: dict[str, tuple[int, Callable[[], object]]] = {
            HOLDFAST: (content.size_bytes, lambda: copy_files(source, ours, folder, content))
        }
        clients |= {name: (large_bytes, put) for name, put in (_raw(control.endpoint_url, path) | _boto3(path)).items()}
        for number in range(repeats):
            names = list(clients)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                size_bytes, upload = clients[name]
                began = time.perf_counter()
                upload()
                found.append({"client": name, "round": number + 1, "mib_s": size_bytes / MIB / (time.perf_counter() - began)})
                ours.remove(folder)
                _delete(control.endpoint_url)
    return found


def _store(endpoint_url: str, **config: str) -> Any:
    from obstore.store import S3Store

    keys: Any = {"endpoint": endpoint_url, "region": "us-east-1", **config}
    return S3Store(BUCKET, config=keys, client_options={"allow_http": True, "timeout": timedelta(seconds=120)})


def _raw(endpoint_url: str, path: Path) -> dict[str, Callable[[], object]]:
    """obstore by itself: no checksums, the content not signed, so nothing but sending."""
    import obstore

    store = _store(endpoint_url, unsigned_payload="true")

    def upload(part_mib: int, at_once: int) -> Callable[[], object]:
        return lambda: obstore.put(store, "raw", path, use_multipart=True, chunk_size=part_mib * MIB, max_concurrency=at_once)

    return {f"obstore, {part_mib} MiB x {at_once}": upload(part_mib, at_once) for part_mib, at_once in PARTS}


def _boto3(path: Path) -> dict[str, Callable[[], object]]:
    import boto3
    from boto3.s3.transfer import TransferConfig

    client = boto3.client("s3")
    large = TransferConfig(multipart_chunksize=32 * MIB, max_concurrency=4)
    return {
        "boto3 upload_file": lambda: client.upload_file(str(path), BUCKET, "raw"),
        "boto3 upload_file, 32 MiB x 4": lambda: client.upload_file(str(path), BUCKET, "raw", Config=large),
    }


def _delete(endpoint_url: str) -> None:
    import obstore

    store = _store(endpoint_url)
    names = [entry["path"] for entry in obstore.list(store).collect()]
    if names:
        obstore.delete(store, names)


def verifications(root: Path, repeats: int) -> list[dict[str, Any]]:
    """`holdfast checkpoint verify` beside `cat`, in turns; both whole processes, from the page cache."""
    holdfast = Path(sys.executable).with_name("holdfast")
    files = [str(path) for path in root.glob("step-*/*")]
    size_bytes = sum(Path(path).stat().st_size for path in files)
    commands = {
        "holdfast checkpoint verify": [str(holdfast), "checkpoint", "verify", str(root)],
        "cat > /dev/null": ["cat", *files],
        "(holdfast --version: the start alone)": [str(holdfast), "--version"],
    }
    found = []
    for number in range(repeats):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            found.append({"command": name, "round": number + 1, "s": time.perf_counter() - began, "mib": size_bytes / MIB})
    return found
