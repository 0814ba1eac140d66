"""The sandbox as `holdfast sandbox up` makes it: the real controller, hooks and agents on the simulated cloud."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from holdfast_common.policy import parse_policy
from holdfast_controller.config import load_config
from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.cluster_config import SandboxConfig
from holdfast_sandbox.defaults import default_controller, default_policy

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]


@pytest.fixture
def sandbox(short_dir: Path) -> Iterator[Sandbox]:
    config = SandboxConfig(nodes=2, boot_delay_s=0.2, zones=2, controller=default_controller())
    with Sandbox(short_dir / "sb", config) as started:
        yield started


def test_a_job_gets_a_node_bought_for_it(sandbox: Sandbox, short_dir: Path) -> None:
    assert load_config(sandbox.layout.controller_config).listen.socket == sandbox.env["HOLDFAST_SOCKET"]
    assert parse_policy(default_policy(sandbox.site)).nodes == ("spot-1", "spot-2")
    output = short_dir / "out"
    script = 'hostname; ls "$HOLDFAST_JOB_DIR"'
    job = sandbox.slurm.submit("-p", "spot", "-o", str(output), "--wrap", script)
    sandbox.slurm.await_job(job, {"COMPLETED"}, 90)
    assert output.read_text().split() == ["spot-1", "job", "node"]
    bought = sandbox.cloud.instances()
    assert [each["instance_id"] for each in bought] == [sandbox.instances.instance_of("spot-1")]

    # A controller that is killed and started again finds everything as it was: nothing is bought twice.
    sandbox.supervisor.kill("controller")
    sandbox.start_component("controller")
    again = sandbox.slurm.submit("-p", "spot", "--wrap", "true")
    sandbox.slurm.await_job(again, {"COMPLETED"}, 60)
    assert len(sandbox.cloud.instances()) == 1

    # The unmanaged partition never was Holdfast's business.
    assert sandbox.run(["srun", "-p", "local", "hostname"]).stdout == "local-1\n"
