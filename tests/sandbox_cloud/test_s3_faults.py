"""What goes wrong in the object store on demand."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from botocore.exceptions import BotoCoreError
from holdfast_sandbox.objects.control import ObjectStoreControl, running_object_store
from s3_bed import MIB, client, refused


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreControl]:
    with running_object_store(tmp_path_factory.mktemp("objects")) as control:
        yield control


@pytest.fixture
def s3(server: ObjectStoreControl) -> Iterator[Any]:
    made = client(server.endpoint_url)
    yield made
    server.clear()
    for each in made.list_objects_v2(Bucket="sandbox").get("Contents", []):
        made.delete_object(Bucket="sandbox", Key=each["Key"])
    server.clear()
    made.close()


def put(s3: Any, key: str = "k", body: bytes = b"hello") -> Any:
    return s3.put_object(Bucket="sandbox", Key=key, Body=body)


def get(s3: Any, key: str = "k") -> bytes:
    found: bytes = s3.get_object(Bucket="sandbox", Key=key)["Body"].read()
    return found


def keys(s3: Any) -> list[str]:
    return [each["Key"] for each in s3.list_objects_v2(Bucket="sandbox").get("Contents", [])]


def test_slow_down_for_some_calls(server: ObjectStoreControl, s3: Any) -> None:
    server.fail(action="PutObject", count=2)
    for _ in range(2):
        with refused("SlowDown", 503):
            put(s3)
    assert keys(s3) == []
    put(s3)
    assert server.counts() == {"PutObject SlowDown": 2, "ListObjectsV2 200": 1, "PutObject 200": 1}


def test_slow_down_for_a_share_of_calls_below_a_prefix(server: ObjectStoreControl, s3: Any) -> None:
    server.fail(prefix="bad/", share=0.5)
    outcomes = []
    for _ in range(40):
        try:
            put(s3, "bad/k")
            outcomes.append(True)
        except s3.exceptions.ClientError:
            outcomes.append(False)
        put(s3, "good/k")
    assert 8 < sum(outcomes) < 32


def test_an_error_after_the_call_took_effect(server: ObjectStoreControl, s3: Any) -> None:
    server.fail(action="PutObject", code="InternalError", after=True, count=1)
    with refused("InternalError", 500):
        put(s3)
    assert get(s3) == b"hello"


def test_an_answer_is_lost(server: ObjectStoreControl, s3: Any) -> None:
    server.fail("hang", action="PutObject", after=True, count=1)
    with pytest.raises(BotoCoreError):
        put(s3)
    assert get(s3) == b"hello"
    server.fail("hang", action="DeleteObject", count=1)
    with pytest.raises(BotoCoreError):
        s3.delete_object(Bucket="sandbox", Key="k")
    assert keys(s3) == ["k"], "that one was dropped before"
    assert {"action": "DeleteObject", "key": "k", "range": None, "status": None} in server.calls()


def test_delay(server: ObjectStoreControl, s3: Any) -> None:
    put(s3)
    server.fail("slow", seconds=0.3, count=1)
    began = time.monotonic()
    assert get(s3) == b"hello"
    assert time.monotonic() - began >= 0.3


def test_a_body_is_cut_on_its_way_up_and_down(server: ObjectStoreControl, s3: Any) -> None:
    server.fail("cut", action="PutObject", bytes=MIB, count=1)
    with pytest.raises(BotoCoreError):
        put(s3, body=b"x" * 3 * MIB)
    assert keys(s3) == []
    put(s3, body=b"x" * 3 * MIB)
    server.fail("cut", action="GetObject", bytes=MIB, count=1)
    body = s3.get_object(Bucket="sandbox", Key="k")["Body"]
    assert body.read(MIB) == b"x" * MIB
    with pytest.raises(Exception, match=r"Connection|IncompleteRead"):
        body.read()
    assert len(get(s3)) == 3 * MIB


def test_bandwidth(server: ObjectStoreControl, s3: Any) -> None:
    server.limit(4 * MIB)
    began = time.monotonic()
    put(s3, body=bytes(MIB))
    up = time.monotonic() - began
    assert len(get(s3)) == MIB
    down = time.monotonic() - began - up
    assert up >= 0.15
    assert down >= 0.15
    server.limit(None)
    assert server.bytes_in() == {"PutObject": MIB}


def test_wrong_bytes_are_stored(server: ObjectStoreControl, s3: Any) -> None:
    server.fail("corrupt", count=1)
    put(s3, body=bytes(100))
    body = s3.get_object(Bucket="sandbox", Key="k", Range="bytes=0-99")["Body"].read()
    assert sorted(body) == [0] * 99 + [1]
    with pytest.raises(BotoCoreError):
        get(s3)  # boto3 compares with the checksum that was stored


@pytest.mark.parametrize("wrong", [{"mode": "explode"}, {"count": 0}, {"share": 2.0}, {"nonsense": 1}])
def test_a_fault_that_makes_no_sense(server: ObjectStoreControl, wrong: dict[str, Any]) -> None:
    with pytest.raises(HTTPError, match="400") as caught:
        server.fail(**wrong)
    caught.value.close()


def test_nothing_stays_behind(tmp_path: Path) -> None:
    with running_object_store(tmp_path) as control:
        s3 = client(control.endpoint_url)
        for _ in range(3):
            put(s3)
        s3.close()
        assert [len(list(each.iterdir())) for each in tmp_path.iterdir() if each.is_dir()] == [1], "what was replaced is gone"
    assert not [each for each in tmp_path.iterdir() if each.is_dir()]
