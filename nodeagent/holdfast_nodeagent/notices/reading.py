"""Strict reading of what metadata services say: JSON, words, times. All raise InputError."""

import json
import re
from collections.abc import Callable
from datetime import datetime
from email.utils import format_datetime, parsedate_to_datetime

from holdfast_common.errors import InputError
from holdfast_common.jobfiles import TIME_MAX

_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_WORD = re.compile(r"[\x21-\x7e]{0,256}")


def json_value(body: bytes) -> object:
    """Return the JSON value that the body is."""
    try:
        content: object = json.loads(body)
    except (ValueError, RecursionError):
        raise InputError("no JSON") from None
    return content


def json_object(body: bytes) -> dict[str, object]:
    """Return the JSON object that the body is."""
    content = json_value(body)
    if not isinstance(content, dict):
        raise InputError("no JSON object")
    return content


def word(value: object) -> str:
    """Return a text that is one printable word of at most 256 characters, or empty."""
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise InputError(f"not one word: {shown(value)}")
    return value


def iso_time(value: object) -> float:
    """Return the Unix seconds of a time such as `2020-04-24T17:11:44Z`."""
    if not isinstance(value, str) or not _ISO.fullmatch(value):
        raise InputError(f"no time: {shown(value)}")
    return _bounded(datetime.fromisoformat, value)


def http_date(value: object) -> float:
    """Return the Unix seconds of a time such as `21 Jan 2019 09:00:43 GMT`, with or without the day of the week."""
    if not isinstance(value, str) or not value.endswith(" GMT"):
        raise InputError(f"no time: {shown(value)}")
    return _bounded(parsedate_to_datetime, value)


def rfc1123_date(value: object) -> float:
    """Return the Unix seconds of a time such as `Mon, 11 Apr 2022 22:26:58 GMT`, written exactly so, with the right day of the week."""
    at = http_date(value)
    if format_datetime(parsedate_to_datetime(str(value)), usegmt=True) != value:
        raise InputError(f"no time: {shown(value)}")
    return at


def _bounded(read: Callable[[str], datetime], value: str) -> float:
    """Return the moment in Unix seconds, if it is one that can be told to jobs."""
    try:
        at = read(value).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        raise InputError(f"no time: {shown(value)}") from None
    if not 0 <= at <= TIME_MAX:
        raise InputError(f"no time of ours: {shown(value)}")
    return at


def shown(value: object) -> str:
    """Return how a fault names a value that should not be there."""
    return repr(value[:40]) if isinstance(value, str) else f"of type {type(value).__name__}"
