"""Slurm's commands, or the cloud, fail or hang for a while in the middle of a launch or an evacuation: it goes on where it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e_bed import Bed
from e2e_gang import end, endless
from holdfast_sandbox.cluster_config import ControllerSpec, Site
from holdfast_sandbox.defaults import default_controller, default_policy

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]
CALLS, MODE = "calls", "mode"

_COMMAND = """\
#!/bin/sh
mode=$(cat {here}/mode)
echo "$mode" >>{here}/calls
case $mode in
  failing) echo "slurm_load error: Unable to contact slurm controller (connect failure)" >&2; exit 1 ;;
  hanging) exec sleep 600 ;;
esac
exec {real} "$@"
"""


def switchable(site: Site) -> dict[str, str]:
    """The controller's files, with commands of Slurm that a test can break."""
    here = site.layout.etc / "slurm-bin"
    here.mkdir(exist_ok=True)
    (here / MODE).write_text("working")
    for name in ("scontrol", "squeue", "scancel"):
        path = here / name
        path.write_text(_COMMAND.format(here=here, real=site.bin_dir / name))
        path.chmod(0o755)
    files = dict(default_controller().files(site))
    before = f"bin_dir = {json.dumps(str(site.bin_dir))}"
    assert before in files["controller.toml"]
    files["controller.toml"] = files["controller.toml"].replace(before, f"bin_dir = {json.dumps(str(here))}\ntimeout_s = 2.0")
    files["policy.toml"] = default_policy(site)
    return files


SETTINGS = {"nodes": 14, "controller": ControllerSpec(default_controller().command, switchable)}


class Commands:
    """Slurm's commands as the controller has them."""

    def __init__(self, bed: Bed, until: Callable[..., Any]) -> None:
        self._here: Path = bed.sandbox.layout.etc / "slurm-bin"
        self._until = until

    def become(self, mode: str, calls: int = 0) -> None:
        """Be `working`, `failing` or `hanging`, and return when so many calls have met that."""
        temporary = self._here / "mode.new"
        temporary.write_text(mode)
        before = self._calls()
        temporary.replace(self._here / MODE)
        self._until(lambda: self._calls()[len(before) :].count(mode) >= calls, 30, f"{calls} calls of {mode} commands")

    def _calls(self) -> list[str]:
        path = self._here / CALLS
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def commands(bed: Bed, until: Callable[..., Any]) -> Any:
    found = Commands(bed, until)
    yield found
    found.become("working")


def test_commands_of_slurm_fail_and_hang(commands: Commands, bed: Bed) -> None:
    bed.allow_hook_lines(r"not taken by the controller|does not answer")
    job = bed.train(*endless(bed))
    [node] = bed.hostnames(bed.slurm.await_job(job.job_id, {"CONFIGURING"}, 10)["NodeList"])
    bought = bed.until_bought(node)
    commands.become("failing", calls=4)  # the instance's agent comes, and cannot be given its name
    commands.become("hanging", calls=2)
    commands.become("working")
    job.await_event("first_step_done")
    assert bed.sandbox.instances.instance_of(node) == bought

    commands.become("hanging", calls=2)
    bed.reclaim(node, notice_s=60)
    parked = job.await_event("parked")  # told by its node, which asks nobody
    commands.become("failing", calls=4)
    commands.become("working")
    assert job.await_event("resumed", attempt=1)["step"] == parked["step"]
    end(bed, job)
    assert len(bed.journal("JobRequeued", job.job_id)) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        {"mode": "hang", "seconds": 12.0},
        pytest.param({"mode": "slow", "seconds": 12.0}, marks=pytest.mark.long),
        pytest.param({"mode": "500"}, marks=pytest.mark.long),
    ],
    ids=["hanging", "slow", "500"],
)
def test_a_cloud_in_trouble_delays_no_evacuation(trouble: dict[str, Any], bed: Bed, until: Callable[..., Any]) -> None:
    job = bed.train(*endless(bed), options=("--exclusive",))
    spare = bed.train("--steps", "1", options=("--exclusive",))
    spare.finished()
    job.await_event("first_step_done")
    bed.allow_hook_lines(r"not taken by the controller|not done in time")  # only a busy machine
    before = len(bed.record("api_fault"))
    bed.cloud.fail(**trouble)
    off = [name for name in (f"spot-{number}" for number in range(14, 0, -1)) if "POWERED_DOWN" in bed.slurm.node(name)["State"]]
    waiting = [bed.train("--steps", "1", options=("--exclusive", "-w", name)) for name in off[:2]]
    until(
        lambda: {"RunInstances", "DescribeInstances"} <= {line["action"] for line in bed.record("api_fault")[before:]},
        20,
        "calls that meet the trouble",
    )
    [node] = job.nodes()
    bed.reclaim(node, notice_s=60)
    parked = job.await_event("parked")
    resumed = job.await_event("resumed", attempt=1)
    assert resumed["step"] == parked["step"]
    assert resumed["t"] - parked["t"] < 6, "it waited for the cloud"
    assert job.starts()[1][1] == spare.nodes()[0]
    bed.cloud.clear()
    end(bed, job)
    for other in waiting:
        ended = other.finished(60)
        bed.requeued_by_slurm[other.job_id] = int(ended["Restarts"])
