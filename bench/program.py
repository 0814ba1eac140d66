"""What the benchmarks' commands have in common: their folder, what they print and write, and their exit status."""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from holdfast_sandbox.cloud_control import CloudControlError
from holdfast_sandbox.cluster import SandboxError
from rich.console import Console

OUTPUT = Path("bench-out")
FAULTS = (SandboxError, TimeoutError, LookupError, ValueError, OSError, subprocess.SubprocessError, CloudControlError)

Say = Callable[[str], None]
Measure = Callable[[argparse.Namespace, Path, Say], dict[str, Any]]


def run(
    name: str, options: argparse.Namespace, measure: Measure, show: Callable[[Mapping[str, Any], Console], None], *, width: int = 200
) -> int:
    """Measure, print, write to bench-out/NAME.json; return the exit status: 0 all targets met, 1 one missed or it failed.

    `measure` gets a folder that is removed afterwards; its figures name their `targets_met`. `width`: least columns where stdout is no
    terminal.
    """
    progress = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        if not options.quiet:
            progress.print(text, style="dim")

    # A short name: unix sockets have at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix=f"hf-{name}-"[:12], dir="/tmp"))
    folder.chmod(0o755)
    try:
        found = measure(options, folder, say)
    except FAULTS as error:
        progress.print(f"bench/{name} failed: {type(error).__name__}: {error}")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    path = Path(options.output or OUTPUT / f"{name}.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if options.json:
        print(json.dumps(found))
    else:
        console = Console(width=max(width, Console().width)) if not sys.stdout.isatty() else Console()
        show(found, console)
        console.print(f"written: {path}")
    return 0 if all(found["targets_met"].values()) or options.no_targets else 1


def add_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Add what every benchmark's command takes."""
    parser.add_argument("--no-targets", action="store_true", help="exit status 0 also where a target is missed")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON and no table")
    parser.add_argument("--output", type=Path, help=f"where the JSON goes, seen from the repository ({OUTPUT}/{name}.json)")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def machine(load: float) -> str:
    """Return what it ran on, in words."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "?")
    return f"{os.cpu_count()} cores, {model}, Linux {platform.release()}, load {load:.1f} at the start"
