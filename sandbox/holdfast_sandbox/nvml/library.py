"""Builds the fake libnvidia-ml.so.1 from the C sources beside this file."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

SONAME = "libnvidia-ml.so.1"
"""What nvidia-ml-py asks the loader for."""
STATE_VARIABLE = "HOLDFAST_FAKE_NVML"
CALLS_VARIABLE = "HOLDFAST_FAKE_NVML_CALLS"

_SOURCES = Path(__file__).parent
_FLAGS = (
    *("-shared", "-fPIC", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong"),
    *("-fvisibility=hidden", "-pthread", f"-Wl,-soname,{SONAME}", "-Wl,-z,defs"),
)


class BuildError(Exception):
    """There is no compiler, or it gave an error."""


def build(directory: Path, without: Collection[str] = ()) -> Path:
    """Compile the library below `directory` unless that was done, and return its path, which ends in libnvidia-ml.so.1.

    `without`: functions that it lacks, as an older driver does. Safe where several processes build at once. Raises BuildError, and
    ValueError for a function that it lacks anyway.
    """
    sources = sorted(path for path in _SOURCES.iterdir() if path.suffix in {".c", ".h"})
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    if unknown := [name for name in without if f" {name}(" not in text]:
        raise ValueError(f"the fake {SONAME} has no {', '.join(unknown)}")
    script = "{ global: nvml*; local: " + "".join(f"{name}; " for name in sorted(without)) + "*; };\n"
    digest = hashlib.sha256(repr((_FLAGS, script, text)).encode()).hexdigest()
    home = directory / digest[:16]
    library = home / SONAME
    if not library.exists():
        home.mkdir(parents=True, exist_ok=True)
        _compile([path for path in sources if path.suffix == ".c"], script, library)
    return library


def _compile(sources: list[Path], script: str, library: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise BuildError("the fake libnvidia-ml.so.1 is compiled from C, and there is no gcc here: apt-get install gcc libc6-dev")
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        exports = Path(scratch, "exports")
        exports.write_text(script)
        made = Path(scratch, SONAME)
        argv = [compiler, *_FLAGS, f"-Wl,--version-script={exports}", "-o", str(made), *map(str, sources)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(f"{compiler} cannot compile the fake {SONAME}:\n{done.stderr.strip()}")
        made.replace(library)


def environment(library: Path, state_file: Path, calls: Path | None = None) -> Mapping[str, str]:
    """Return what a process needs in its environment, from its start on, to see the fake GPUs that `state_file` describes.

    `calls`: a file to which each call is appended; see `calls_made`.
    """
    rest = os.environ.get("LD_LIBRARY_PATH", "")
    variables = {"LD_LIBRARY_PATH": f"{library.parent}:{rest}" if rest else str(library.parent), STATE_VARIABLE: str(state_file)}
    return variables if calls is None else {**variables, CALLS_VARIABLE: str(calls)}


def calls_made(calls: Path) -> Counter[str]:
    """Return how often each function was called, by all processes that wrote to the file (empty while there is none)."""
    try:
        lines = calls.read_text().splitlines()
    except FileNotFoundError:
        return Counter()
    return Counter(line.partition(" ")[0] for line in lines)
