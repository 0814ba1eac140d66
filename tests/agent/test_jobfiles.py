import json

import pytest
from holdfast_common.errors import InputError
from holdfast_common.jobfiles import FILES, MAX_FILE_BYTES, NoticeFile, RankFile, StatusFile, dump, parse
from hypothesis import given, settings
from hypothesis import strategies as st

RANK = {"v": 1, "pid": 7, "started": 1.5, "rank": 0, "world_size": 2, "wake_signal": "SIGUSR1", "state": "running", "step": 3}


def read(**changes: object) -> RankFile:
    return parse(RankFile, json.dumps({**RANK, **changes}).encode())


def test_unknown_keys_are_ignored_and_optional_ones_may_be_missing() -> None:
    assert read(colour="red", metrics={"loss": 1}).step == 3
    assert read(wake_signal=10).wake_signal == 10
    assert read().save_expected_s is None


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"pid": "7"},
        {"pid": 7.5},
        {"pid": True},
        {"pid": -1},
        {"pid": 0},
        {"started": "now"},
        {"state": "RUNNING"},
        {"state": None},
        {"step": 2**64},
        {"step": 3.5},
        {"wake_signal": 65},
        {"wake_signal": ["SIGUSR1"]},
        {"notice_id": "x" * 257},
        {"save_expected_s": -1},
        {"world_size": 0},
    ],
)
def test_a_wrong_type_or_value_voids_the_file(changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        read(**changes)


@pytest.mark.parametrize("text", [b"", b"null", b"[]", b"{", b"\xff", b"[" * 60_000, b'{"v":1,"state":"ready","attempt":0,"step":NaN}'])
def test_no_json_object(text: bytes) -> None:
    with pytest.raises(InputError):
        parse(StatusFile, text)


def test_a_file_above_the_limit_is_void_even_if_it_is_well_formed() -> None:
    text = json.dumps({"v": 1, "state": "ready", "attempt": 0, "more": "x" * MAX_FILE_BYTES}).encode()
    with pytest.raises(InputError, match="larger"):
        parse(StatusFile, text)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
@settings(max_examples=25, deadline=None)
def test_whatever_comes_is_refused_in_a_sentence(content: object) -> None:
    for model in FILES.values():
        with pytest.raises(InputError, match=r"^.{1,500}$"):
            parse(model, json.dumps(content).encode())


def test_what_is_dumped_is_what_is_parsed() -> None:
    notice = NoticeFile(id="n", kind="preempt", deadline=None, received=5.0, action="save")
    assert parse(NoticeFile, dump(notice)) == notice
