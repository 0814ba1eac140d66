"""The object store through obstore (Rust's object_store), in both dialects."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from holdfast_sandbox.objects.control import ObjectStoreControl, running_object_store

obstore = pytest.importorskip("obstore")
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreControl]:
    with running_object_store(tmp_path_factory.mktemp("objects")) as control:
        yield control


def s3_store(url: str, **more: Any) -> Any:
    from obstore.store import S3Store

    keys = {"endpoint": url, "region": "us-east-1", "access_key_id": "sandbox", "secret_access_key": "sandbox"}
    return S3Store("sandbox", client_options={"allow_http": True}, retry_config={"max_retries": 0}, **keys, **more)


def gcs_store(url: str) -> Any:
    from obstore.store import GCSStore

    key = {"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    options = {"client_options": {"allow_http": True}, "retry_config": {"max_retries": 0}}
    return GCSStore("sandbox", service_account_key=json.dumps(key), **options)


@pytest.fixture(params=["s3", "s3 unsigned", "s3 crc64nvme", "s3 sha256", "gcs"])
def store(request: pytest.FixtureRequest, server: ObjectStoreControl) -> Iterator[Any]:
    dialect, _, option = request.param.partition(" ")
    more = {"unsigned_payload": True} if option == "unsigned" else {"checksum_algorithm": option} if option else {}
    made = gcs_store(server.endpoint_url) if dialect == "gcs" else s3_store(server.endpoint_url, **more)
    yield made
    obstore.delete(made, [each["path"] for each in obstore.list(made).collect()])


def test_put_get_and_what_is_not_there(store: Any) -> None:
    obstore.put(store, "a b/ü", b"hello world")
    assert bytes(obstore.get(store, "a b/ü").bytes()) == b"hello world"
    assert bytes(obstore.get_range(store, "a b/ü", start=6, end=9)) == b"wor"
    head = obstore.head(store, "a b/ü")
    assert (head["size"], head["path"]) == (11, "a b/ü")
    with pytest.raises(FileNotFoundError):
        obstore.get(store, "none")
    with pytest.raises(FileNotFoundError):
        obstore.head(store, "none")


def test_an_exclusive_create_and_a_replacement(store: Any) -> None:
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    first = obstore.put(store, "k", b"1", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "k", b"2", mode="create")
    first = {name: value for name, value in first.items() if value is not None}  # obstore does not take its own None back
    obstore.put(store, "k", b"3", mode=first)
    with pytest.raises(PreconditionError):
        obstore.put(store, "k", b"4", mode=first)
    assert bytes(obstore.get(store, "k").bytes()) == b"3"


def test_a_multipart_upload(store: Any, tmp_path: Path) -> None:
    data = os.urandom(MIB) * 11
    (tmp_path / "file").write_bytes(data)
    obstore.put(store, "big", tmp_path / "file", chunk_size=5 * MIB, max_concurrency=3)
    assert bytes(obstore.get(store, "big").bytes()) == data
    assert bytes(obstore.get_range(store, "big", start=5 * MIB - 1, length=3)) == data[5 * MIB - 1 : 5 * MIB + 2]


def test_lists(store: Any) -> None:
    for name in ("run/a/1", "run/a/2", "run/b/1", "run/top"):
        obstore.put(store, name, b"x")
    found = obstore.list_with_delimiter(store, "run")
    assert sorted(found["common_prefixes"]) == ["run/a", "run/b"]
    assert [each["path"] for each in found["objects"]] == ["run/top"]
    assert sorted(each["path"] for each in obstore.list(store, "run/a").collect()) == ["run/a/1", "run/a/2"]


def test_copies_and_deletions(store: Any) -> None:
    obstore.put(store, "k", b"x")
    obstore.copy(store, "k", "k2")
    obstore.delete(store, ["k"])
    assert [each["path"] for each in obstore.list(store).collect()] == ["k2"]


def test_more_keys_than_one_page(server: ObjectStoreControl) -> None:
    store = s3_store(server.endpoint_url)
    names = [f"many/{number:05d}" for number in range(1203)]
    for name in names:
        obstore.put(store, name, b"", use_multipart=False)
    assert [each["path"] for each in obstore.list(store, "many").collect()] == names
    obstore.delete(store, names)
    assert not obstore.list(store).collect()
