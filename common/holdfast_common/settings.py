"""TOML checked by a pydantic model, every fault at once: where it is, what stands there, what is allowed, and what was probably meant."""

import difflib
import os
import re
import stat
import tomllib
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from holdfast_common.errors import ConfigError

MAX_BYTES = 262_144
_HOST_PORT = re.compile(r"(?:\[[0-9A-Fa-f:]+\]|[^\s:/]+):([0-9]{1,5})")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_M = TypeVar("_M", bound=BaseModel)


class Section(BaseModel):
    """A table of a settings file: frozen, no unknown keys, no conversions (`"4"` is no number), no NaN and no infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


def worded(pattern: str, allowed: str) -> AfterValidator:
    """Return a check that a text matches `pattern` as a whole, whose fault says in words what is `allowed`."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"is not allowed: {allowed}")
        return value

    return AfterValidator(check)


Name = Annotated[str, worded(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "write 1 to 64 letters, digits and . _ -, a letter or digit first")]
Path_ = Annotated[str, worded(r"/[^\x00-\x1f]{0,1000}", "write an absolute path")]


def _host_port(value: str) -> str:
    match = _HOST_PORT.fullmatch(value)
    if value and (match is None or int(match[1]) > 65535):
        raise ValueError("is not allowed: write host:port, or nothing")
    return value


HostPort = Annotated[str, AfterValidator(_host_port)]
"""Where to listen; port 0: any. Empty: nowhere."""
Texts = Annotated[tuple[str, ...], Field(strict=False)]
"""TOML's arrays are lists."""
Seconds = Annotated[float, Field(gt=0, le=604_800)]


def read_text(path: str | Path, limit: int = MAX_BYTES) -> str:
    """Return a settings file's text.

    Raises ConfigError if it cannot be read, is no regular file, is longer than `limit` bytes or is not UTF-8, and where every user can
    write to it: it says what root runs and what is bought.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # a pipe must not hold us
            found = os.fstat(file.fileno())
            content = file.read(limit + 1) if stat.S_ISREG(found.st_mode) else b""
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from error
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(str(path), ["is no regular file"])
    if found.st_mode & stat.S_IWOTH:
        raise ConfigError(str(path), ["every user can write to it: chmod o-w"])
    if len(content) > limit:
        raise ConfigError(str(path), [f"is longer than {limit} bytes"])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [f"is not UTF-8 at byte {error.start}"]) from error


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Return the document. Raises ConfigError with line and column."""
    if len(text.encode(errors="replace")) > MAX_BYTES:  # as read_text counts: what is put in force must be read again at the next start
        raise ConfigError(where, [f"is longer than {MAX_BYTES} bytes"])
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, and int() of thousands of digits
        raise ConfigError(where, [f"is not TOML: {error}"]) from error
    except RecursionError as error:
        raise ConfigError(where, ["is not TOML that anyone writes: nested too deeply"]) from error


def validated(model: type[_M], data: Mapping[str, Any], where: str, cross_checks: Callable[[Mapping[str, Any]], Iterable[str]]) -> _M:
    """Return the model, or raise ConfigError with the faults of all fields and those that `cross_checks` finds in the raw data.

    Cross checks see data that the model may have refused: they skip what they cannot read, since the model has reported it.
    """
    faults: list[str] = []
    found: _M | None = None
    try:
        found = model.model_validate(data)
    except ValidationError as error:
        faults += faults_of(error, model)
    faults += cross_checks(data)
    if faults or found is None:
        raise ConfigError(where, faults)
    return found


def faults_of(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one sentence per fault, each with its TOML path."""
    return [_sentence(dict(found), model) for found in error.errors(include_url=False)]


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or nothing where no known word is near."""
    near = difflib.get_close_matches(str(word), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def table(data: object, key: str) -> dict[str, Any]:
    """Return the sub-table `key` of raw TOML, empty if there is none: for cross checks."""
    found = data.get(key) if isinstance(data, Mapping) else None
    return found if isinstance(found, dict) else {}


def texts(data: object, key: str) -> list[str]:
    """Return the texts in the array `key` of raw TOML: for cross checks."""
    found = data.get(key) if isinstance(data, Mapping) else None
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []


_PLAIN = {
    "too_short": "at least one entry is needed",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "tuple_type": "must be an array",
    "string_type": "must be a text in quotes",
}


def _sentence(found: dict[str, Any], model: type[BaseModel]) -> str:
    where, kind, value = found["loc"], found["type"], repr(found["input"])
    path = _path(where)
    if kind == "missing":
        return f"{path} is missing"
    if kind == "extra_forbidden":
        known = _fields(model, where[:-1])
        return f"{path}: unknown key{did_you_mean(where[-1], known)} (known: {', '.join(known)})"
    if kind in _PLAIN:
        return f"{path}: {_PLAIN[kind]}"
    shown = value if len(value) <= 80 else value[:77] + "..."
    message = str(found["msg"]).removeprefix("Value error, ")
    if kind == "literal_error":
        expected = str(found["ctx"]["expected"])
        words = re.findall("'([^']*)'", expected)
        return f"{path}: {shown} is not allowed: {expected}{did_you_mean(found['input'], words)}"
    if kind == "value_error":
        return f"{path}: {shown} {message}"
    return f"{path}: {shown} is not allowed: {message.removeprefix('Input ').removeprefix('String ')}"


def _path(where: tuple[int | str, ...]) -> str:
    path = ""
    for part in where:
        if part == "[key]":
            continue
        key = part if isinstance(part, int) or _BARE_KEY.fullmatch(part) else repr(part[:80])
        path += f"[{part}]" if isinstance(part, int) else f".{key}" if path else str(key)
    return path or "the document"


def _fields(model: type[BaseModel], where: tuple[int | str, ...]) -> list[str]:
    """Return the keys that the model knows at a place."""
    at: Any = model
    for part in where:
        inner = [each for each in typing.get_args(at) if each is not Ellipsis]
        at = at.model_fields[str(part)].annotation if _is_model(at) else inner[-1]  # or what an array or a mapping has
        at = next(filter(_is_model, typing.get_args(at)), at) if type(None) in typing.get_args(at) else at
    return sorted(at.model_fields) if _is_model(at) else []


def _is_model(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, BaseModel)
