"""From what a user writes to a store."""

import importlib.util
import sys
from pathlib import Path

import pytest
from holdfast.errors import HoldfastError
from holdfast.store import FileStore, open_store
from holdfast.store.location import azure_config, gcs_config, s3_config


@pytest.mark.parametrize("text", ["run", "./run", "~x", "C:run"])
def test_a_path(text: str) -> None:
    store = open_store(text)
    assert isinstance(store, FileStore)
    assert store.root == Path.cwd() / text
    assert (store.tier, store.durable, store.place("a/b")) == ("shared", True, str(Path.cwd() / text / "a/b"))


def test_a_nodes_own_disk_is_not_durable(tmp_path: Path) -> None:
    store = open_store(tmp_path, local=True)
    assert (store.tier, store.durable) == ("local", False)


def test_a_file_url() -> None:
    assert open_store("file:///data/run%201").location == "/data/run 1"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("s3:///run", "needs a bucket"),
        ("s3:/bucket/run", "two slashes"),
        (Path("s3://bucket/run"), "two slashes"),
        ("http://host/run", "a path or begins with"),
        ("hdfs://host/run", "a path or begins with"),
        ("file://host/run", "file:///absolute"),
        ("s3://bucket/run?versionId=1", r"no user, no '\?' and no '#'"),
        ("s3://key:secret@bucket/run", "no user"),
        ("s3://bucket/run#1", "no user"),
    ],
)
def test_what_is_no_location_is_refused(text: str | Path, told: str) -> None:
    with pytest.raises(HoldfastError, match=told) as caught:
        open_store(text)
    assert "secret" not in str(caught.value)


def test_without_the_client_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(HoldfastError, match=r"pip install 'holdfast\[gcs\]'"):
        open_store("gs://bucket/run")


def test_the_file_stores_bring_no_client_along() -> None:
    code = "import sys, holdfast.store, holdfast.directory, holdfast.fence; print('obstore' in sys.modules, 'xxhash' in sys.modules)"
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False False\n"


def test_tiers_of_object_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AZURE_STORAGE_ACCOUNT": "a",
        "AZURE_STORAGE_KEY": "a2V5",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:1")
    stores = [open_store(f"{scheme}://bucket/a/run") for scheme in ("s3", "gs", "az")]
    assert [(store.tier, store.durable) for store in stores] == [("s3", True), ("gcs", True), ("azure", True)]
    assert stores[0].place("step-00000001.a0") == "s3://bucket/a/run/step-00000001.a0"
    assert open_store("s3://bucket").location == "s3://bucket"


def test_plain_http_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_ENDPOINT_URL": "https://127.0.0.1:1"}.items():
        monkeypatch.setenv(name, value)
    assert "allow_http" not in open_store("s3://bucket/run")._client.client_options  # type: ignore[attr-defined]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    assert open_store("s3://bucket/run")._client.client_options["allow_http"]  # type: ignore[attr-defined]


def test_a_profile_of_the_aws_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    pytest.importorskip("boto3")
    (tmp_path / "credentials").write_text("[train]\naws_access_key_id = AKIA1\naws_secret_access_key = s\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "train")
    provider = open_store("s3://bucket/run")._client.credential_provider  # type: ignore[attr-defined]
    assert provider()["access_key_id"] == "AKIA1"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    assert open_store("s3://bucket/run")._client.credential_provider is None  # type: ignore[attr-defined]


def test_what_the_clouds_own_tools_read() -> None:
    s3 = s3_config({"AWS_ENDPOINT_URL": "https://a", "AWS_DEFAULT_REGION": "eu-west-1"})
    assert s3 == {"endpoint": "https://a", "region": "eu-west-1", "checksum_algorithm": "CRC64NVME", "unsigned_payload": "true"}
    assert s3_config({"AWS_CHECKSUM_ALGORITHM": "SHA256"})["checksum_algorithm"] == "SHA256"
    assert gcs_config({}) == {}
    assert gcs_config({"STORAGE_EMULATOR_HOST": "host:1"})["base_url"] == "http://host:1"
    assert azure_config({"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_KEY": "k"}) == {"account_name": "a", "account_key": "k"}
