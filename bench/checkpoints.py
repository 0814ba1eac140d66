"""`bench/checkpoint`: what checkpoints cost, beside PyTorch's own and a plain copy. Exit status: 0 all targets met, else 1."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench import checkpoints_figures as figures
from bench import checkpoints_saves, checkpoints_tables, checkpoints_uploads, program
from bench.checkpoints_model import ALONE, DDP, FSDP2, MIB, RANKS
from bench.checkpoints_rank import run_ranks
from bench.checkpoints_steps import STEP_S

PARTS = ("saves", "memory", "loads", "steps", "uploads")
TIMEOUT_S = 900.0
FULL = {"mib": 1100, "repeats": 3, "rounds": 8, "loads": 5, "pairs": 8, "steps": 1500, "uploads": 5}
QUICK = {"mib": 160, "repeats": 1, "rounds": 6, "loads": 3, "pairs": 4, "steps": 500, "uploads": 3}


@contextmanager
def _fresh(parent: Path) -> Iterator[Path]:
    """A folder for one measurement, gone afterwards: memory is what a tmpfs is made of."""
    folder = Path(tempfile.mkdtemp(prefix="hf-checkpoint-", dir=parent))
    try:
        yield folder / "at"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(options: argparse.Namespace, _folder: Path, say: program.Say) -> dict[str, Any]:
    """Everything, as `program.run` wants it."""
    load = os.getloadavg()[0]
    size = {**(QUICK if options.quick else FULL), **{key: getattr(options, key) for key in ("mib", "repeats") if getattr(options, key)}}
    kinds = [kind for kind, ranks in RANKS.items() if options.device == "cpu" or ranks == 1]
    found: dict[str, Any] = {"saves": {}, "memory": {}, "loads": {}, "steps": {}}
    if "saves" in options.parts:
        found["saves"] = _saves(options, size, kinds, say)
    if "memory" in options.parts:
        found["memory"] = {kind: _memory(options, size, kind, say) for kind in kinds}
    if "loads" in options.parts:
        program.OUTPUT.mkdir(exist_ok=True)
        found["loads"] = _loads(options, size, kinds, program.OUTPUT.resolve(), say)
    if "steps" in options.parts:
        found["steps"] = _steps(options, size, say)
    if "uploads" in options.parts:
        found |= _uploads(options, size, say)
    found["judged"] = figures.judged(found)
    found["targets_met"] = figures.met(found["judged"])
    found["setup"] = {
        "machine": f"{program.machine(load)}, {os.getloadavg()[0]:.1f} at the end; PyTorch {torch.__version__} on {options.device}",
        "where": "; cold loads below ".join(f"{path} ({_file_system(path)})" for path in (options.directory, program.OUTPUT)),
        "sizes": ", ".join(f"{key} {value}" for key, value in size.items()),
    }
    return found


def _saves(options: argparse.Namespace, size: dict[str, int], kinds: list[str], say: program.Say) -> dict[str, Any]:
    """The repeats take turns between the kinds, so that a busy minute does not meet one of them only."""
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    bytes_of: dict[str, tuple[int, int]] = {}
    for repeat in range(size["repeats"]):
        for kind in kinds:
            say(f"saves {repeat + 1}/{size['repeats']}: {kind}")
            with _fresh(options.directory) as place:
                ranks = _ranks("saves", place, options, size, kind, rounds=size["rounds"], repeat=repeat)
            rows[kind] += [{**row, "repeat": repeat} for row in figures.slowest([rank["saves"] for rank in ranks])]
            bytes_of[kind] = ranks[0]["state_bytes"], ranks[0]["share_bytes"]
    found = {}
    for kind in kinds:
        state, share = bytes_of[kind]
        found[kind] = {**figures.saves(rows[kind], share), "state_mib": state / MIB, "share_mib": share / MIB, "rows": rows[kind]}
    return found


def _memory(options: argparse.Namespace, size: dict[str, int], kind: str, say: program.Say) -> dict[str, Any]:
    found = {}
    for way in checkpoints_saves.WAYS[:-1]:
        say(f"memory: {kind}, {way}")
        with _fresh(options.directory) as place:
            found[way] = max(_ranks("memory", place, options, size, kind, way=way), key=lambda rank: rank["added_mib"])
    return found


def _loads(options: argparse.Namespace, size: dict[str, int], kinds: list[str], disk: Path, say: program.Say) -> dict[str, Any]:
    found = {}
    places = {kind: (kind, options.directory, False) for kind in kinds} | {f"{ALONE}, cold": (ALONE, disk, True)}
    for title, (kind, parent, cold) in places.items():
        say(f"loads: {title}")
        with _fresh(parent) as place:
            ranks = _ranks("loads", place, options, size, kind, loads=size["loads"], cold=cold, in_place=not cold)
        found[title] = figures.loads(figures.slowest([rank["loads"] for rank in ranks]))
    return found


def _steps(options: argparse.Namespace, size: dict[str, int], say: program.Say) -> dict[str, Any]:
    found = {}
    for title, ranks in (("one rank", 1), ("2 ranks", 2)):
        say(f"steps of {STEP_S * 1000:g} ms: {title}")
        with _fresh(options.directory) as place:
            measured = run_ranks("steps", place, world_size=ranks, timeout_s=TIMEOUT_S, threads=1, pairs=size["pairs"], steps=size["steps"])
        found[title] = figures.steps([rank["stretches"] for rank in measured])
    return found


def _uploads(options: argparse.Namespace, size: dict[str, int], say: program.Say) -> dict[str, Any]:
    with _fresh(options.directory) as place:
        say("a checkpoint to upload and to verify")
        _ranks("loads", place, options, size, ALONE, loads=0, cold=False, in_place=False)
        shutil.rmtree(place / "dcp")
        say("verify")
        verified = checkpoints_uploads.verifications(place / "holdfast", size["loads"])
        say("uploads")
        sent = checkpoints_uploads.uploads(place / "holdfast", place / "server", size["uploads"])
    return {"uploads": figures.uploads(sent), "verifications": figures.verifications(verified)}


def _ranks(part: str, place: Path, options: argparse.Namespace, size: dict[str, int], kind: str, **settings: Any) -> list[dict[str, Any]]:
    own = {"kind": kind, "state_mib": size["mib"], "device": options.device}
    return run_ranks(part, place, world_size=RANKS[kind], timeout_s=TIMEOUT_S, **own, **settings)


def _file_system(path: Path) -> str:
    """The type of the file system of a path."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    found = str(path.resolve())
    above = [(where, kind) for where, kind in mounts if found == where or found.startswith(where.rstrip("/") + "/")]
    return max(above, key=lambda mount: len(mount[0]), default=("", "?"))[1]


def _parts(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := set(chosen) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: parts are {', '.join(PARTS)}")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="bench/checkpoint", description="Checkpoints beside PyTorch's own and a plain copy.")
    parser.add_argument("--parts", type=_parts, default=list(PARTS), help=f"some of {','.join(PARTS)} (all)")
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"), help="where checkpoints are written (/dev/shm, a tmpfs)")
    parser.add_argument("--mib", type=int, help=f"state of one rank, {DDP} and {FSDP2} alike ({FULL['mib']})")
    parser.add_argument("--repeats", type=int, help=f"processes of {FULL['rounds']} saves for each kind ({FULL['repeats']})")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where the state is (cpu); cuda: one rank only")
    parser.add_argument("--quick", action="store_true", help="small and few: to see that it works, not to judge")
    program.add_options(parser, "checkpoint")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ranks and what they have written go with it
    return program.run("checkpoint", parser.parse_args(arguments), measure, checkpoints_tables.show, width=150)


if __name__ == "__main__":
    sys.exit(main())
