"""The newest checkpoint of an evacuated job is damaged between two attempts: the newest good one is used, and the bad one named."""

import sys
from collections.abc import Callable

import pytest
from e2e_bed import Bed, TrainingJob

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(120)]
SETTINGS = {"nodes": 6}
STEPS = 40
TRAINING = ("--steps", str(STEPS), "--every-steps", "4")

_SCRIPT = """\
#!/bin/sh
#SBATCH --requeue --open-mode=append
if [ "${{SLURM_RESTART_COUNT:-0}}" = 1 ]; then
  {python} - <<'DAMAGE'
import os, pathlib
newest = max(pathlib.Path(os.environ["HOLDFAST_CHECKPOINT_DIR"]).glob("step-*"), key=lambda path: path.name)
file = newest / "{file}"
content = file.read_bytes()
{damage}
print("damaged", newest.name, flush=True)
DAMAGE
fi
exec {python} {script} --out {out} {arguments}
"""

FLIPPED = "middle = len(content) // 2\nfile.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])"
CUT = "file.write_bytes(content[: len(content) // 2])"
CASES: dict[str, tuple[str, str, Callable[[str], bool]]] = {
    "a flipped byte": ("rank0.pkl", FLIPPED, lambda reason: "hash is not the manifest's" in reason),
    "a truncated file": ("rank0.pkl", CUT, lambda reason: "bytes where the manifest says" in reason),
    "no manifest": ("manifest.json", "file.unlink()", lambda reason: "missing" in reason),
}


def submit(bed: Bed, file: str, damage: str) -> TrainingJob:
    directory = bed.directory()
    script = directory / "job.sh"
    places = {"script": bed.work / "counter_job.py", "out": directory / "out.json", "arguments": " ".join(TRAINING)}
    script.write_text(_SCRIPT.format(python=sys.executable, file=file, damage=damage, **places))
    return bed.submit(directory, script, "--exclusive")


def test_the_newest_good_one_is_used_and_the_bad_one_is_named(bed: Bed) -> None:
    jobs = {name: submit(bed, file, damage) for name, (file, damage, _) in CASES.items()}
    for job in jobs.values():
        job.await_event("save_ended", why="due", ok=True)
    for job in jobs.values():
        [node] = job.nodes()
        bed.reclaim(node, notice_s=30)
    reference = bed.reference(*TRAINING)
    for name, job in jobs.items():
        file, _, fits = CASES[name]
        parked = job.await_event("parked")
        resumed = job.await_event("resumed", attempt=1)
        [bad] = job.events("checkpoint_unusable")
        damaged = f"step-{parked['step']:08d}.a0"
        assert (bad["checkpoint"], bad["file"], bad["attempt"]) == (damaged, file, 1)
        assert fits(bad["reason"]), bad
        saved = [line for line in job.events("save_ended", attempt=0) if line["ok"] and line["checkpoint"] != damaged]
        assert resumed["checkpoint"] == saved[-1]["checkpoint"], f"{name}: not the newest good one"
        assert job.finished()["Restarts"] == "1"
        output = job.output()
        assert f"damaged {damaged}" in output
        [line] = [line for line in output.splitlines() if line.startswith(f"holdfast: checkpoint {damaged}")]
        assert file in line, f"the user is not told which file: {line}"
        assert job.result() == reference, f"{name}: not what it would have been without the interruption"
