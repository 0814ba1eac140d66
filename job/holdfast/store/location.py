"""From what a user writes (a path, `s3://bucket/prefix`, …) to a store, with the credentials that the clouds' own tools would take."""

import importlib.util
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from holdfast.errors import HoldfastError
from holdfast.store.base import Store
from holdfast.store.files import FileStore

PATIENCE_S = 120.0
REQUEST_S = 60.0
"""Longest single request: below 0.6 MB/s (four parts of 8 MiB at once) no upload would be done within a notice anyway."""
EXTRAS = {"s3": "s3", "gs": "gcs", "az": "azure-storage"}
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}", re.ASCII)


def open_store(location: str | Path, *, local: bool = False, patience_s: float = PATIENCE_S) -> Store:
    """The store at a path or at `file://`, `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`.

    `local`: a path on the node's own disk, lost with it. `patience_s`: how long a fault of an object store is retried.
    Nothing is read or written yet. Raises HoldfastError for another kind of location, or where the client is not installed.
    """
    text = str(location)
    match = _URL.match(text)
    if match is None:
        return FileStore(Path(location).absolute(), local=local)
    scheme = match[1]
    if scheme != "file" and scheme not in EXTRAS:
        raise HoldfastError(f"{text}: a checkpoint directory is a path or begins with file://, s3://, gs:// or az://")
    if isinstance(location, Path) or not text.startswith(f"{scheme}://"):
        raise HoldfastError(f"{text}: write it as text and with two slashes: {scheme}://…")
    parts = urlsplit(text)
    if parts.query or parts.fragment or parts.username:
        raise HoldfastError(f"{scheme}://{parts.hostname}: a location has no user, no '?' and no '#'")
    if scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise HoldfastError(f"{text}: write file:///absolute/path")
        return FileStore(Path(unquote(parts.path)), local=local)
    return _object_store(scheme, parts.netloc, parts.path.strip("/"), patience_s)


def _object_store(scheme: str, bucket: str, prefix: str, patience_s: float) -> Store:
    if not bucket:
        raise HoldfastError(f"{scheme}:// needs a bucket: {scheme}://bucket/prefix")
    if importlib.util.find_spec("obstore") is None:
        raise HoldfastError(f"for {scheme}:// install the client: pip install 'holdfast[{EXTRAS[scheme]}]'")
    from obstore.exceptions import BaseError
    from obstore.store import AzureStore, GCSStore, S3Store

    from holdfast.store.objects import ObjectStore

    keys: dict[str, Any] = {"prefix": prefix or None, "retry_config": _retries(patience_s)}
    location = f"{scheme}://{bucket}/{prefix}".rstrip("/")
    try:
        if scheme == "s3":
            config = s3_config(os.environ)
            client = S3Store(bucket, config=config, credential_provider=_profile(os.environ), **_http(config.get("endpoint")), **keys)
            return ObjectStore(client, location, "s3", checked=True)
        if scheme == "gs":
            config = gcs_config(os.environ)
            return ObjectStore(GCSStore(bucket, config=config, **_http(config.get("base_url")), **keys), location, "gcs")
        config = azure_config(os.environ)
        return ObjectStore(AzureStore(bucket, config=config, **_http(config.get("endpoint")), **keys), location, "azure")
    except (BaseError, ValueError) as fault:
        raise HoldfastError(f"{location}: {str(fault).splitlines()[0]}") from fault


def _retries(patience_s: float) -> dict[str, Any]:
    backoff = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2}
    return {"max_retries": 30, "retry_timeout": timedelta(seconds=patience_s), "backoff": backoff}


def _http(endpoint: str | None) -> dict[str, Any]:
    """Only an endpoint that is given as http:// is talked to without TLS."""
    options: dict[str, Any] = {"timeout": timedelta(seconds=REQUEST_S), "connect_timeout": timedelta(seconds=5)}
    if endpoint is not None and endpoint.startswith("http://"):
        options["allow_http"] = True
    return {"client_options": options}


def _first(environ: Mapping[str, str], *names: str) -> str | None:
    return next((environ[name] for name in names if environ.get(name)), None)


def s3_config(environ: Mapping[str, str]) -> Any:
    """What the AWS tools read and obstore does not by itself, and a checksum that S3 checks each part against.

    CRC-64/NVME costs a tenth of SHA-256, which signing the content too would cost once more; TLS guards it on the way.
    """
    found = {
        "endpoint": _first(environ, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
        "region": _first(environ, "AWS_REGION", "AWS_DEFAULT_REGION"),
        "checksum_algorithm": environ.get("AWS_CHECKSUM_ALGORITHM") or "CRC64NVME",
        "unsigned_payload": environ.get("AWS_UNSIGNED_PAYLOAD") or "true",
    }
    return {key: value for key, value in found.items() if value is not None}


def gcs_config(environ: Mapping[str, str]) -> Any:
    """STORAGE_EMULATOR_HOST, as Google's libraries read it (no real credentials are sent there)."""
    host = environ.get("STORAGE_EMULATOR_HOST")
    if not host:
        return {}
    return {"base_url": host if "://" in host else f"http://{host}", "bearer_token": "emulator"}


def azure_config(environ: Mapping[str, str]) -> Any:
    """The names that the `az` tool reads, next to obstore's own."""
    found = {
        "account_name": _first(environ, "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"),
        "account_key": _first(environ, "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"),
        "endpoint": _first(environ, "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    }
    return {key: value for key, value in found.items() if value is not None}


def _profile(environ: Mapping[str, str]) -> Any:
    """Credentials of ~/.aws (a profile, SSO), through boto3; None where obstore finds them itself (variables, the node's role)."""
    if environ.get("AWS_ACCESS_KEY_ID"):
        return None
    files = (environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), environ.get("AWS_CONFIG_FILE", "~/.aws/config"))
    named = environ.get("AWS_PROFILE")
    if not named and not any(Path(name).expanduser().exists() for name in files):
        return None
    if importlib.util.find_spec("boto3") is None:
        if named:
            raise HoldfastError(f"AWS_PROFILE={named} needs boto3: pip install boto3, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        return None
    from boto3 import Session
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = Session()
    return None if session.get_credentials() is None else Boto3CredentialProvider(session)
