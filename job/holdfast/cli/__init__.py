"""The `holdfast` command: the standard library only, so that it starts fast and works in a training environment.

The other packages add their command groups through entry points in the group `holdfast.commands`; one is imported when it
is used, and no other. Exit codes: 0 done, 1 failed, 2 usage, 3 controller not reachable, 4 refused by policy.
"""

import difflib
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from types import FunctionType
from typing import Any

GROUP = "holdfast.commands"
FAILED, USAGE = 1, 2
_EXTRAS = {"holdfast_sandbox": "sandbox", "holdfast_nodeagent": "agent"}
_OWN = {
    "checkpoint": "list, verify, show, prune and copy checkpoints",
    "completion": "print a shell's completion script",
    "run": "run a training script that saves by itself, under guard",
}


_ADDED = {
    "doctor": "compare a running Slurm with what Holdfast needs",
    "events": "what has happened, and what was done about it",
    "explain": "why a node or a job is as it is",
    "interrupt": "evacuate a node as if the cloud had given notice",
    "jobs": "jobs of managed partitions",
    "nodes": "managed nodes",
    "pools": "what each pool costs and has lately refused; what the clouds sell",
    "policy": "show, check and set the policy",
    "reconfigure": "have Slurm read slurm.conf again, with no job waiting at its start",
    "sandbox": "a throw-away cluster on a simulated cloud",
    "slurm-conf": "print the part of slurm.conf that Holdfast needs",
}
"""What the other packages' groups are for; importing them to ask would cost each start of the command."""


def _added() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def _usage(added: dict[str, EntryPoint]) -> str:
    own = "\n".join(f"  {name:<12} {what}" for name, what in _OWN.items())
    others = "\n".join(f"  {name:<12} {_ADDED.get(name, '')}".rstrip() for name in added)
    return (
        "usage: holdfast [--help] [--version] COMMAND ...\n\n"
        "Keeps GPU training jobs running on spot capacity under Slurm.\n\n"
        f"commands:\n{own}\n{others}\n\n"
        "`holdfast COMMAND --help` tells more.\n"
        "exit codes: 0 done, 1 failed, 2 usage, 3 controller not reachable, 4 refused by policy"
    )


def _version() -> str:
    try:
        return version("holdfast")
    except PackageNotFoundError:
        return "unknown (not installed)"


def _own(name: str) -> Callable[[Sequence[str]], int]:
    if name == "checkpoint":
        from holdfast.cli.checkpoint import main as checkpoint

        return checkpoint
    if name == "run":
        from holdfast.cli.run import main as run

        return run
    from holdfast.cli.completion import main as completion

    return lambda argv: completion(argv, [*_OWN, *_added()])


def run_entry(entry: EntryPoint, argv: list[str]) -> int:
    """Load one command group and run it. A function gets the argument list; an app (typer, click) is called as such.

    SystemExit from the command passes through.
    """
    try:
        command: Any = entry.load()
    except ImportError as fault:
        extra = _EXTRAS.get(entry.value.partition(".")[0], "controller")
        missing = f"the module {fault.name}" if fault.name else f"something that is missing ({fault})"
        print(f"holdfast {entry.name} needs {missing}: pip install 'holdfast[{extra}]'", file=sys.stderr)
        return FAILED
    if isinstance(command, FunctionType):
        result = command(argv)
    else:
        result = command(args=argv, prog_name=f"holdfast {entry.name}", standalone_mode=True)
    return result if isinstance(result, int) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else ""
    if name in ("--version", "-V"):
        print(f"holdfast {_version()}")
        return 0
    added = _added()
    if name in ("--help", "-h", "help"):
        print(_usage(added))
        return 0
    if name in _OWN:
        return _own(name)(arguments[1:])
    if name in added:
        return run_entry(added[name], arguments[1:])
    if name:
        close = difflib.get_close_matches(name, [*_OWN, *added], n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        print(f"holdfast: no command {name!r}{hint}\n", file=sys.stderr)
    print(_usage(added), file=sys.stderr)
    return USAGE


if __name__ == "__main__":
    sys.exit(main())
