import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from holdfast_common.log import MAX_TEXT, REDACTED, configure_logging, redact
from hypothesis import given
from hypothesis import strategies as st


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    root.setLevel(level)
    structlog.reset_defaults()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_both_kinds_of_logger_end_in_one_line_of_json_each() -> None:
    out = io.StringIO()
    configure_logging("controller", stream=out)
    structlog.get_logger("a.b").info("launched", pool="a/b", count=3)
    logging.getLogger("c.d").warning("refused %s", "x\ny")
    logging.getLogger("c.d").debug("not at this level")
    first, second = lines(out)
    assert (first["event"], first["pool"], first["count"], first["component"], first["level"]) == (
        "launched",
        "a/b",
        3,
        "controller",
        "info",
    )
    assert (second["event"], second["logger"], second["component"], second["level"]) == ("refused x\ny", "c.d", "controller", "warning")
    assert first["timestamp"].endswith("Z")


def test_an_exception_is_logged_with_its_traceback_in_the_same_line() -> None:
    out = io.StringIO()
    configure_logging("agent", stream=out)
    try:
        raise ValueError("MUNGE:AwQFAABN: is bad")
    except ValueError:
        logging.getLogger("x").exception("boom")
        structlog.get_logger().exception("bam")
    for line in lines(out):
        assert "Traceback" in line["exception"]
        assert "AwQFAABN" not in line["exception"]


def test_a_terminal_gets_keys_and_values_without_secrets() -> None:
    out = Terminal()
    configure_logging("controller", "debug", stream=out)
    structlog.get_logger().debug("launched", pool="here", launch_token="s3cretvalue")
    assert "launched" in out.getvalue()
    assert "pool" in out.getvalue()
    assert "here" in out.getvalue()
    assert "s3cretvalue" not in out.getvalue()


def test_no_secret_reaches_the_log() -> None:
    out = io.StringIO()
    configure_logging("controller", stream=out)
    credential = "MUNGE:AwQFAABNFZW41dnZ3Jn7p77nvxqLn35W+/==:"
    structlog.get_logger().info(f"got {credential}", token="t0psecret", nested={"aws_secret_access_key": "t0psecret", "list": [credential]})
    logging.getLogger("x").info("key AKIAABCDEFGHIJKLMNOP, %s, password=t0psecret", "Bearer: t0psecret")
    logging.getLogger("x").info("%s", {"secret": "t0psecret"})
    assert "t0psecret" not in out.getvalue()
    assert "AwQF" not in out.getvalue()
    assert "AKIA" not in out.getvalue()
    assert out.getvalue().count(REDACTED) >= 7


def test_a_second_set_up_replaces_the_first_and_a_level_must_be_known() -> None:
    one, two = io.StringIO(), io.StringIO()
    configure_logging("a", stream=one)
    configure_logging("b", "warning", stream=two)
    logging.getLogger("x").warning("hello")
    logging.getLogger("x").info("unheard")
    assert (one.getvalue(), len(lines(two))) == ("", 1)
    with pytest.raises(ValueError, match="'loud' is not one of debug, info"):
        configure_logging("a", "loud")


@given(st.recursive(st.none() | st.text() | st.integers() | st.binary(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_any_value_can_be_logged(value: Any) -> None:
    json.dumps(redact(value))


def test_long_values_are_cut() -> None:
    assert len(redact("x" * 10 * MAX_TEXT)) == MAX_TEXT + 1
    assert len(redact(list(range(1000)))) == 100
