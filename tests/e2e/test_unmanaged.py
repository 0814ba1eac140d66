"""A partition that the policy does not name is Slurm's alone: also while a spot node is taken back."""

import pytest
from e2e_bed import Bed

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(90)]
SETTINGS = {"nodes": 3}


def test_is_left_alone(bed: Bed) -> None:
    script = bed.directory() / "local.sh"
    script.write_text('#!/bin/sh\nmkdir -p "$OUT"\nenv >"$OUT/env"\nuntil [ -e "$OUT/stop" ]; do sleep 0.1; done\n')
    out = script.parent / "out"
    common = ["--parsable", "-p", "local", "-D", str(script.parent), "-o", str(script.parent / "log"), "--export", f"ALL,OUT={out}"]
    local = int(bed.sandbox.run(["sbatch", *common, str(script)]).stdout)
    bed.slurm.await_job(local, {"RUNNING"}, 10)

    job = bed.train("--steps", "40", "--every-steps", "1000")
    job.await_event("first_step_done")
    bed.reclaim(job.nodes()[0], notice_s=20)
    assert job.finished()["Restarts"] == "1"
    seen = bed.slurm.job(local)
    assert (seen["JobState"], seen["Restarts"]) == ("RUNNING", "0")
    assert seen.get("AdminComment", "") == ""

    (out / "stop").touch()
    assert bed.slurm.await_job(local, {"COMPLETED", "FAILED"}, 10)["JobState"] == "COMPLETED"
    assert "HOLDFAST_JOB_DIR" not in (out / "env").read_text()
    bed.slurm.await_node("local-1", lambda now: now["State"] == "IDLE", 10)
    assert "Reason" not in bed.slurm.node("local-1")
    assert not (bed.sandbox.layout.local_run / "jobs").exists()
    assert not (bed.sandbox.layout.local_run / "hooks.log").exists()
    told = [entry for entry in bed.journal() if f"job {local} " in entry.text or "local-1" in entry.text]
    assert told == [], "the controller took notice of what is none of its business"


def test_starts_at_once_without_the_controller(bed: Bed) -> None:
    bed.sandbox.supervisor.kill("controller")
    assert bed.sandbox.run(["srun", "-p", "local", "hostname"], timeout_s=5).stdout == "local-1\n"
    bed.restart_controller()
