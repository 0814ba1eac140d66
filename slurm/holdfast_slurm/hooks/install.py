"""Writes the small /bin/sh programs that slurm.conf names as hooks, with every path baked in: hooks run without PATH.

Each ends with status 0 whatever our part did, but for a health-check that says `sick`: an uninstalled Python must not drain nodes or
requeue jobs. A site's own script runs first, with the same environment, and its status counts.
"""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from holdfast_common.errors import ConfigError

import holdfast_slurm
from holdfast_slurm.hooks import glance, health_check, task_prolog

CHAINABLE = ("prolog-slurmctld", "prolog", "epilog", "task-prolog", "health-check")
"""The hooks before which a site's own script can run."""

_IMPORT = "import sys; sys.path.append(sys.argv.pop(1)); from holdfast_slurm.hooks.{module} import main; sys.exit(main())"


def write_wrappers(
    directory: Path,
    *,
    python: Path,
    controller_socket: Path,
    run_dir: Path,
    bin_dir: Path,
    slurm_conf: Path,
    nodes: str = "",
    chain: Mapping[str, Path] | None = None,
) -> None:
    """Write the programs of `conf_settings.HOOKS` into `directory`, each atomically.

    `nodes` (Slurm's notation) are the managed ones: jobs on others pass the gate without a question to the controller.
    `chain` maps a hook of CHAINABLE to a site's own script. Beside the system log, slurmctld's hooks write to `hooks.log` next
    to the controller's socket and slurmd's hooks to one in `run_dir` (bounded, and left out where they cannot write).
    Raises ConfigError with every fault, OSError.
    """
    chain = dict(chain or {})
    paths = {"directory": directory, "python": python, "controller_socket": controller_socket, "run_dir": run_dir}
    paths |= {"bin_dir": bin_dir, "slurm_conf": slurm_conf} | {f"chain {name}": path for name, path in chain.items()}
    _check(paths, chain)
    call = ["--socket", str(controller_socket), "--log", str(controller_socket.parent / "hooks.log")]
    managed = ["--nodes", nodes] if nodes else []
    local = ["--run-dir", str(run_dir), "--log", str(run_dir / "hooks.log")]
    root = str(Path(holdfast_slurm.__file__).parents[1])

    def with_packages(module: str, *arguments: str) -> str:
        return shlex.join([str(python), "-I", "-m", f"holdfast_slurm.hooks.{module}", *arguments])

    def bare(module: str, *arguments: str) -> str:
        return shlex.join([str(python), "-I", "-S", "-c", _IMPORT.format(module=module), root, *arguments])

    asked = ["--bin-dir", str(bin_dir), "--slurm-conf", str(slurm_conf)]
    bodies = {
        "resume": _calling(with_packages("resume", *call), '-- "$@"'),
        "suspend": _calling(with_packages("suspend", *call), '-- "$@"'),
        "resume-fail": _calling(with_packages("resume_fail", *call), '-- "$@"'),
        "prolog-slurmctld": glance.body(bin_dir, slurm_conf) + _calling(with_packages("prolog_slurmctld", *call, *managed)),
        "prolog": _calling(bare("prolog", *local, *asked)),
        "epilog": _calling(bare("epilog", *local)),
        "task-prolog": task_prolog.body(run_dir),
        "health-check": health_check.body(run_dir),
    }
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    for name, body in bodies.items():
        _write(directory / name, _head(name, chain.get(name)) + body)
    _sync(directory)


def _check(paths: Mapping[str, Path], chain: Mapping[str, Path]) -> None:
    faults = [f"{name} must be an absolute path, not {str(path)!r}" for name, path in paths.items() if not path.is_absolute()]
    faults += [f"{name}: control characters in {str(path)!r}" for name, path in paths.items() if not str(path).isprintable()]
    faults += [f"{name} cannot be chained, only {', '.join(CHAINABLE)}" for name in chain if name not in CHAINABLE]
    if faults:
        raise ConfigError("hooks", faults)


def _head(name: str, site_script: Path | None) -> str:
    lines = ["#!/bin/sh", f"# The hook {name}, by `holdfast slurm-conf --install-hooks`, which writes it anew: change nothing here."]
    if site_script is not None:
        lines.append(f'{shlex.quote(str(site_script))} "$@" || exit $?')
    return "\n".join(lines) + "\n"


def _calling(command: str, arguments: str = "") -> str:
    return f"{command} {arguments}".rstrip() + " </dev/null\nexit 0\n"


def _write(path: Path, text: str) -> None:
    """Replace a file whole: slurmctld may start it at this very moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o755), "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o755)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
