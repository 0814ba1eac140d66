"""The words of the command line that stand for more than text: node groups, times, versions, places."""

import dataclasses
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from holdfast_common.errors import ConfigError

from holdfast_slurm.conf import parse_version
from holdfast_slurm.conf_settings import NodeGroup, SlurmSettings

_GROUP_FIELDS = {field.name: field.type for field in dataclasses.fields(NodeGroup)}
_TIMES = {field.name for field in dataclasses.fields(SlurmSettings) if field.name.endswith("_s")}


def node_group(text: str) -> NodeGroup:
    """Return the node group in `prefix=spot,count=8,…`. Raises ConfigError."""
    values: dict[str, Any] = {}
    for word in text.split(","):
        name, found, value = word.partition("=")
        if not found or name not in _GROUP_FIELDS:
            raise ConfigError("--node-group", [f"{word!r} is none of {', '.join(_GROUP_FIELDS)}"])
        values[name] = _whole(word, value) if _GROUP_FIELDS[name] in {int, int | None} else value
    missing = [name for name in ("prefix", "count", "cpus", "memory_mb") if name not in values]
    if missing:
        raise ConfigError("--node-group", [f"{text!r} lacks {', '.join(missing)}"])
    return NodeGroup(**values)


def times(words: list[str]) -> dict[str, Any]:
    """Return the times in `NAME=SECONDS` words. Raises ConfigError."""
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in _TIMES:
            raise ConfigError("--set", [f"{word!r} is none of {', '.join(sorted(_TIMES))}"])
        found[name] = _whole(word, value)
    return found


def pairs(words: list[str]) -> dict[str, Path]:
    """Return the paths in `NAME=PATH` words. Raises ConfigError."""
    faults = [f"{word!r} is not HOOK=PATH" for word in words if "=" not in word]
    if faults:
        raise ConfigError("--chain", faults)
    return {word.partition("=")[0]: Path(word.partition("=")[2]) for word in words}


def _whole(word: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise ConfigError("arguments", [f"{word!r} wants a whole number"])
    return int(value)


def version(text: str, bin_dir: Path) -> tuple[int, int, int]:
    """Return the version that was given, else that of the installed Slurm. Raises ConfigError where there is none.

    The daemons are asked first: without a slurm.conf, `scontrol -V` fails (22.05).
    """
    places = os.pathsep.join([str(bin_dir), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    faults = ["no slurmctld, slurmd or scontrol tells it"]
    try:
        if text:
            return parse_version(text)
        for program in filter(None, (shutil.which(name, path=places) for name in ("slurmctld", "slurmd", "scontrol"))):
            done = subprocess.run([program, "-V"], capture_output=True, text=True, timeout=10, check=False)
            if done.returncode == 0:
                return parse_version(done.stdout)
    except (ValueError, OSError, subprocess.SubprocessError) as error:
        faults = [str(error)]
    raise ConfigError("--slurm-version", faults)


def bin_dir(given: Path | None) -> Path:
    """Return where Slurm's commands are. Raises ConfigError."""
    if given is not None:
        return given
    found = shutil.which("scontrol")
    if found is None:
        raise ConfigError("--bin-dir", ["no scontrol in PATH: say where it is"])
    return Path(found).parent
