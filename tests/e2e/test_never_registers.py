"""An instance that starts, is paid for, and never becomes a node: it is replaced, and given up in the end if that does not help."""

import pytest
from e2e_bed import Bed

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(90)]
SETTINGS = {"nodes": 4}


def test_is_replaced(bed: Bed) -> None:
    bed.cloud.fail_boot(count=1)  # EC2 says that it runs; nothing ever comes of it
    job = bed.train("--steps", "3")
    assert job.finished()["Restarts"] == "0", "the job was to wait for the second instance"
    dead, good = [line["instance_id"] for line in bed.record("requested")]
    [(_, node)] = job.starts()
    assert bed.sandbox.instances.instance_of(node) == good
    reasons = [entry.command["reason"] for entry in bed.journal("TerminateInstance")]
    assert any(dead in reason and "did not register" in reason for reason in reasons)
    assert bed.cloud.instance(dead)["reason"] == "Client.UserInitiatedShutdown"
