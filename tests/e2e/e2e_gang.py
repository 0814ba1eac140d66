"""Jobs that train until they are told to end; two-node jobs, of which rank 0 trains as counter_job.py does and rank 1 sits there."""

import sys

from e2e_bed import Bed, TrainingJob

_SCRIPT = """\
#!/bin/sh
#SBATCH --nodes=2 --ntasks-per-node=1 --exclusive --requeue --open-mode=append
mkdir -p "$HOLDFAST_CHECKPOINT_DIR"
echo "$(date +%s.%N) ${{SLURM_RESTART_COUNT:-0}} $SLURMD_NODENAME" >>"$HOLDFAST_CHECKPOINT_DIR/starts.txt"
exec srun --kill-on-bad-exit=1 {directory}/rank.sh
"""
_RANK = """\
#!/bin/sh
if [ "$SLURM_PROCID" = 0 ]; then exec env RANK=0 WORLD_SIZE=1 {command}; fi
until [ -e {out} ]; do sleep 0.2; done
"""


def switched_on(bed: Bed) -> list[str]:
    """Return the nodes that have a machine."""
    names = [f"spot-{number}" for number in range(1, 1 + bed.sandbox.config.nodes)]
    return [name for name in names if "POWERED_DOWN" not in bed.slurm.node(name)["State"]]


def gang(bed: Bed, *arguments: str, step: bool = True, fresh: bool = False) -> TrainingJob:
    """Submit a two-node job; without `step` only the batch script's own node has processes; `fresh`: on nodes that are switched off."""
    if not step:
        return bed.train(*arguments, options=("--nodes=2", "--ntasks-per-node=1", "--exclusive"))
    directory = bed.directory()
    out = directory / "out.json"
    rank, script = directory / "rank.sh", directory / "job.sh"
    rank.write_text(_RANK.format(command=f"{sys.executable} {bed.work / 'counter_job.py'} --out {out} {' '.join(arguments)}", out=out))
    rank.chmod(0o755)
    script.write_text(_SCRIPT.format(directory=directory))
    return bed.submit(directory, script, *(("--exclude", ",".join(switched_on(bed))) if fresh else ()))


def endless(bed: Bed) -> tuple[str, ...]:
    """Return arguments of a training that saves on a notice only, and goes on until `end`: however long the test's own steps take."""
    (bed.work / "stop").unlink(missing_ok=True)
    return ("--steps", "100000", "--every-steps", "100000", "--until", str(bed.work / "stop"))


def end(bed: Bed, job: TrainingJob, restarts: int = 1) -> None:
    """Let it end, and check that it has done each step once, in so many further attempts."""
    (bed.work / "stop").touch()
    assert job.finished()["Restarts"] == str(restarts)
    ended = job.result()  # it left its loop within this step, having done it
    assert ended["digest"] == bed.reference("--steps", str(ended["step"] + 1))["digest"]
