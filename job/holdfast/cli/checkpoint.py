"""`holdfast checkpoint ls|verify|show|prune|copy`: what stands in a checkpoint directory or bucket, and what one may do to it.

Only prune deletes, and only copy writes (in its destination); nothing is renamed or set aside. Each action's function gets the parsed
options and returns the exit code: 0 done, 1 failed or unsound.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from holdfast.clock import Clock
from holdfast.errors import HoldfastError

_WHERE = "a directory, or s3://bucket/prefix, gs://bucket/prefix, az://container/prefix"
_NAMED = re.compile(r"(.*?)/*((?:bad-)?step-\d{8,18}\.a\d{1,9}(?:\.\d+)?)/*", re.DOTALL | re.ASCII)
_CREDENTIALS = """
Object stores are reached with the credentials that the clouds' own tools use (AWS_PROFILE, AWS_ENDPOINT_URL, a node's role,
GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT, …); the client is installed by pip install 'holdfast[s3]', [gcs] or
[azure-storage].
"""
_TEXTS = {
    "ls": (
        "list checkpoints, newest first",
        "List checkpoints, newest first. Only manifests are read: `published` means complete, not yet sound.",
        "  holdfast checkpoint ls /shared/runs/4711\n  holdfast checkpoint ls s3://bucket/runs/4711 --json",
    ),
    "verify": (
        "read and hash every file",
        "Read and hash every file of all published checkpoints, or of the one that is named. The first faulty file of each bad one is"
        " named with the reason. Nothing is changed: a run sets a bad checkpoint aside by itself when it resumes.",
        "  holdfast checkpoint verify /shared/runs/4711\n  holdfast checkpoint verify s3://bucket/runs/4711/step-00001200.a0",
    ),
    "show": (
        "what one checkpoint holds",
        "Show one checkpoint's manifest: step, attempt, job, ranks, files with their sizes and hashes. Of a directory, the newest published"
        " one. The files are not verified.",
        "  holdfast checkpoint show /shared/runs/4711/step-00001200.a0\n  holdfast checkpoint show /shared/runs/4711 --tensors",
    ),
    "prune": (
        "delete old checkpoints",
        "Delete old checkpoints by the rules of a run's own retention: the newest N stay, those at every K-th step stay, and nothing goes"
        " unless one of the newest N is whole and has been read and verified just now."
        " Half-written ones and those set aside as bad are left alone.\n\n"
        "A directory that a live run owns is refused. Live is: its process is alive on this machine; or, elsewhere, squeue says that its"
        " job is there. Where neither can be told, it is refused, too; --force goes ahead. That is safe once no process of"
        " the run is left, and on a file system also beside a run that is training (not one that is just resuming).",
        "  holdfast checkpoint prune /shared/runs/4711 --keep 3 --dry-run\n"
        "  holdfast checkpoint prune s3://bucket/runs/4711 --keep 2 --keep-every 10000",
    ),
    "copy": (
        "copy checkpoints elsewhere, verified on the way",
        "Copy checkpoints between directories and buckets: the newest good one, the one that SRC names, or --all. Every byte is compared"
        " with the manifest while it is read; the manifest is written last, so that what an interrupted copy leaves is no checkpoint. Run"
        " it again to continue: files that have arrived are not sent twice.",
        "  holdfast checkpoint copy /shared/runs/4711 s3://bucket/runs/4711\n"
        "  holdfast checkpoint copy s3://bucket/runs/4711/step-00001200.a0 /scratch/4711 --progress\n"
        "  holdfast checkpoint copy --all gs://old/run s3://new/run",
    ),
}
WORDS = tuple(_TEXTS)


def split(location: str) -> tuple[str, str | None]:
    """A location as its root and, where it ends in a checkpoint's name, that name."""
    match = _NAMED.fullmatch(location)
    if match is None:
        return location, None
    return match[1] or ("/" if location.startswith("/") else "."), match[2]


def _parser() -> argparse.ArgumentParser:
    description = "Look at the checkpoints of a run, verify, delete or copy them."
    parser = argparse.ArgumentParser(
        prog="holdfast checkpoint", description=description, epilog="exit codes: 0 done, 1 failed or unsound, 2 usage"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (short, long, examples) in _TEXTS.items():
        epilog = f"examples:\n{examples}\n{_CREDENTIALS}"
        sub = actions.add_parser(name, help=short, description=long, epilog=epilog, formatter_class=_Paragraphs)
        sub.add_argument("--json", action="store_true", help="print JSON")
        sub.add_argument(
            "source", metavar="SRC" if name == "copy" else "WHERE", help=_WHERE + ("" if name == "prune" else "; or one checkpoint there")
        )
        _OPTIONS.get(name, lambda _parser: None)(sub)
    return parser


class _Paragraphs(argparse.RawDescriptionHelpFormatter):
    """Wraps a description's paragraphs, and leaves the examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return super()._fill_text(text, width, indent)
        return "\n\n".join(argparse.HelpFormatter._fill_text(self, part, width, indent) for part in text.split("\n\n"))


def _progress(parser: argparse.ArgumentParser) -> None:
    told = "show progress on stderr (default: where that is a terminal)"
    parser.add_argument("--progress", action=argparse.BooleanOptionalAction, default=None, help=told)


def _show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tensors", action="store_true", help="also names, shapes and types of the tensors (needs torch)")


def _prune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", type=_count, required=True, metavar="N", help="how many of the newest stay (at least 1)")
    parser.add_argument("--keep-every", type=_count, metavar="K", help="those whose step is divisible by K stay, too")
    parser.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    parser.add_argument("--force", action="store_true", help="also where a live run owns the directory, or that cannot be told")
    _progress(parser)


def _copy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="DST", help=_WHERE)
    parser.add_argument("--all", action="store_true", help="all published checkpoints, newest first")
    _progress(parser)


_OPTIONS = {"verify": _progress, "show": _show, "prune": _prune, "copy": _copy}


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 10**18):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def main(argv: Sequence[str], clock: Clock = Clock()) -> int:  # noqa: B008 - it is frozen
    """Run `holdfast checkpoint`; returns the exit code (argparse leaves with 2 by itself)."""
    options = _parser().parse_args(argv)
    options.clock = clock
    try:
        options.root, options.checkpoint = split(options.source)
        if "://" not in options.source and not Path(options.root).is_dir():
            raise HoldfastError(f"{options.root} is not a directory")
        code: int = getattr(import_module(f"holdfast.cli.checkpoint_{_MODULES.get(options.action, options.action)}"), options.action)(
            options
        )
    except (HoldfastError, OSError) as fault:
        code = _fail(str(fault), options.json)
    except KeyboardInterrupt:
        more = "; run it again to continue" if options.action == "copy" else ""
        code = _fail(f"interrupted{more}", options.json)
    return code


_MODULES = {"ls": "rows", "verify": "rows"}


def _fail(message: str, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": message}))
    print(f"holdfast checkpoint: {message}", file=sys.stderr)
    return 1
