"""A boto3 client for an object store, and what its refusals look like."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

MIB = 1024 * 1024


def client(url: str, **settings: Any) -> Any:
    """A client that neither retries nor asks anyone but this store."""
    config = Config(retries={"total_max_attempts": 1}, read_timeout=10, proxies={}, s3={"addressing_style": "path"}, **settings)
    keys = {"aws_access_key_id": "sandbox", "aws_secret_access_key": "sandbox", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=url, config=config, **keys)


@contextlib.contextmanager
def refused(code: str, status: int) -> Iterator[None]:
    """Expects an error."""
    with pytest.raises(ClientError) as caught:
        yield
    assert (caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)


@contextlib.contextmanager
def moto() -> Iterator[str]:
    """The address of moto's server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with contextlib.redirect_stdout(io.StringIO()):
        server.start()
    try:
        yield f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    finally:
        server.stop()
