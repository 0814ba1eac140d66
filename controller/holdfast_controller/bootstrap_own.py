"""The site's own cloud-config: read once, at the controller's start, with every fault that cloud-init would tell nobody about.

cloud-init drops a part that it cannot read, with a line in a log on a machine that then lacks its file systems. So it is read here first.
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from holdfast_common.errors import ConfigError
from holdfast_common.settings import read_text

HEADER = "#cloud-config"
MAX_BYTES = 262_144
"""More fits no cloud's user data; what a cloud takes is told once both parts are put together."""

_NOT_HERE = {
    "merge_how": "says how parts are merged, which is ours to say",
    "merge_type": "says how parts are merged, which is ours to say",
    "power_state": "ends or reboots the machine, whose agent would not know",
}


def read_own(path: str, our_paths: frozenset[str]) -> str:
    """Return the document. Raises ConfigError with its faults; `our_paths` are the files that it must not write."""
    text = read_text(path, MAX_BYTES)
    if text.partition("\n")[0].rstrip() != HEADER:
        raise ConfigError(path, [f"the first line must be {HEADER}"])
    faults = list(_faults(_parsed(path, text), our_paths))
    if faults:
        raise ConfigError(path, faults)
    return text


def _parsed(path: str, text: str) -> object:
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        raise ConfigError(path, ["cannot be checked without PyYAML: pip install pyyaml, into the controller's environment"]) from None
    try:
        found: object = yaml.safe_load(text)  # as cloud-init reads it
    except yaml.YAMLError as error:
        raise ConfigError(path, [f"is not YAML: {' '.join(str(error).split())[:300]}"]) from None
    except RecursionError:
        raise ConfigError(path, ["is not YAML that anyone writes: nested too deeply"]) from None
    return found


def _faults(document: object, our_paths: frozenset[str]) -> Iterator[str]:
    if not isinstance(document, Mapping):
        yield "must be a mapping of keys"
        return
    for key in document:
        if not isinstance(key, str):
            yield f"{key!r}: a key must be a text"
        elif key in _NOT_HERE:
            yield f"{key}: {_NOT_HERE[key]}"
    files = document.get("write_files", [])
    if not isinstance(files, list):
        yield "write_files: must be a list"
        return
    for number, file in enumerate(files):
        path = file.get("path") if isinstance(file, Mapping) else None
        if not isinstance(path, str) or not path.startswith("/"):
            yield f"write_files[{number}]: needs a path that begins with /"
        elif path in our_paths:
            yield f"write_files[{number}]: {path} is written by Holdfast (settings: [nodes])"
