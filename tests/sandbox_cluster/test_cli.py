"""`holdfast sandbox …` as a user calls it, with the simulated cloud."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.cluster_config import INSTANCE_TYPE, AgentSpec, SandboxConfig
from holdfast_sandbox.components import NODE_SCRIPTS
from holdfast_sandbox.processes import with_environment
from holdfast_slurm.conf_settings import HOOKS

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(120)]
Cli = Callable[..., subprocess.CompletedProcess[str]]

# Waits until the test has said which node the instance is to be, as an agent waits for the controller's word.
AGENT = f"""\
until [ -s {{root}}/etc/name-$HOLDFAST_SANDBOX_INSTANCE_ID ]; do sleep 0.05; done
{NODE_SCRIPTS}/start_slurmd.sh "$(cat {{root}}/etc/name-$HOLDFAST_SANDBOX_INSTANCE_ID)"
exec sleep 100000
"""


def write_idle_hooks(directory: Path, **paths: object) -> None:
    """Hooks that do nothing: the test itself is the controller."""
    for name in HOOKS.values():
        (directory / name).write_text("#!/bin/sh\nexit 0\n")
        (directory / name).chmod(0o755)
    (directory.parent / "etc" / "agent.sh").write_text(AGENT.format(root=directory.parent))


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "from holdfast_sandbox.cli import app; app(prog_name='sandbox')", *arguments]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def sandbox(short_dir: Path) -> Iterator[Sandbox]:
    agent = AgentSpec(("/bin/sh", "{root}/etc/agent.sh"))
    config = SandboxConfig(nodes=2, zones=2, boot_delay_s=0.1, write_hooks=write_idle_hooks, agent=agent)
    with Sandbox(short_dir / "sb", config) as started:
        yield started


def launch(sandbox: Sandbox) -> dict[str, str]:
    """Start one instance as a controller would, with the credentials and the endpoint of the sandbox's environment."""
    env = sandbox.env
    client = boto3.client(
        "ec2",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        region_name=env["AWS_DEFAULT_REGION"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
    )
    found = client.run_instances(
        ImageId="ami-0123456789abcdef0",
        InstanceType=INSTANCE_TYPE,
        MinCount=1,
        MaxCount=1,
        Placement={"AvailabilityZone": "us-east-1b"},
        InstanceMarketOptions={"MarketType": "spot"},
    )
    client.close()
    instance: dict[str, str] = found["Instances"][0]
    return instance


def bring_up(sandbox: Sandbox, node: str) -> str:
    """Make an instance become a node, and return its id."""
    instance = launch(sandbox)
    sandbox.run(["scontrol", "update", f"nodename={node}", "state=POWER_UP"])
    sandbox.run(["scontrol", "update", f"nodename={node}", f"nodeaddr={instance['PrivateIpAddress']}"])
    sandbox.slurm.await_node(node, lambda found: "POWERING_UP" in found["State"], 10)
    (sandbox.layout.etc / f"name-{instance['InstanceId']}").write_text(node)
    sandbox.slurm.await_node(node, lambda found: "POWER" not in found["State"], 40)
    return instance["InstanceId"]


def test_an_instance_of_the_cloud_becomes_a_node_and_is_taken_back(sandbox: Sandbox) -> None:
    where = ["--dir", str(sandbox.root)]
    instance = bring_up(sandbox, "spot-2")
    assert sandbox.run(["srun", "-p", "spot", "-w", "spot-2", "hostname"]).stdout == "spot-2\n"

    shown = json.loads(call("status", *where, "--json").stdout)
    assert [(each["instance_id"], each["state"]) for each in shown["instances"]] == [(instance, "running")]
    assert {"name": "spot-2", "state": "idle", "partition": "spot"} in shown["nodes"]
    assert instance in call("status", *where).stdout

    assert call("interrupt", "spot-1", *where).returncode == 1  # no instance
    told = call("interrupt", "spot-2", "--notice", "1", "--json", *where)
    assert told.returncode == 0
    reply = json.loads(told.stdout)
    assert (reply["node"], reply["instance_id"]) == ("spot-2", instance)
    directory = sandbox.layout.cloud / "instances" / instance
    deadline = time.monotonic() + 10
    while with_environment("HOLDFAST_SANDBOX_INSTANCE_DIR", str(directory)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert time.time() >= reply["deadline"]

    # The next instance on the same name has nothing of the last one's disk.
    free_name(sandbox, "spot-2")
    second = bring_up(sandbox, "spot-2")
    assert second != instance
    assert len(list((sandbox.layout.cloud / "instances" / second / "run" / "slurmd").glob("job*"))) == 0
    assert sandbox.instances.instance_of("spot-2") == second
    assert call("interrupt", "spot-2", "--no-notice", *where).returncode == 0
    assert call("interrupt", "spot-2", "--no-notice", *where).returncode == 1


def free_name(sandbox: Sandbox, node: str) -> None:
    sandbox.run(["scontrol", "update", f"nodename={node}", "state=POWER_DOWN_FORCE", "reason=holdfast: taken back"])
    sandbox.slurm.await_node(node, lambda found: "POWERING_DOWN" in found["State"], 10)
    sandbox.run(["scontrol", "update", f"nodename={node}", "state=RESUME"])  # do not wait for SuspendTimeout
    sandbox.slurm.await_node(node, lambda found: "POWERED_DOWN" in found["State"], 10)


def test_run_passes_on_environment_and_exit_code(sandbox: Sandbox) -> None:
    where = ["--dir", str(sandbox.root)]
    done = call("run", *where, "--", "sh", "-c", "scontrol ping; echo $HOLDFAST_SOCKET --dir; exit 7")
    assert done.returncode == 7
    assert "UP" in done.stdout
    assert f"{sandbox.layout.controller_socket} --dir" in done.stdout
    assert call("run", *where, "--", "no-such-command").returncode == 1


def test_up_status_down(short_dir: Path) -> None:
    where = ["--dir", str(short_dir / "sb")]
    up = call("up", *where, "--nodes", "2", "--no-controller", "--json")
    try:
        assert up.returncode == 0, up.stderr
        told = json.loads(up.stdout)
        assert told["directory"] == str(short_dir / "sb")
        assert told["seconds"] < 10
        assert call("up", *where).returncode == 1
        os.kill(supervised_pid(short_dir / "sb", "slurmctld"), 9)
        deadline = time.monotonic() + 10
        while call("status", *where).returncode == 0:
            assert time.monotonic() < deadline
    finally:
        down = call("down", *where, "--json")
    assert json.loads(down.stdout) == {"ended": [str(short_dir / "sb")]}
    assert not (short_dir / "sb").exists()
    gone = call("status", *where, "--json")
    assert (gone.returncode, list(json.loads(gone.stdout))) == (1, ["error"])


def supervised_pid(root: Path, program: str) -> int:
    """The pid, as seen from here, of a sandbox's daemon."""
    for pid in with_environment("HOLDFAST_SANDBOX_DIR", str(root)):
        if Path(f"/proc/{pid}/comm").read_text().strip() == program:
            return pid
    raise LookupError(program)


def test_foreground_ends_at_sigterm(short_dir: Path) -> None:
    root = short_dir / "sb"
    arguments = ["up", "--dir", str(root), "--nodes", "1", "--no-controller", "--foreground"]
    program = [sys.executable, "-c", "from holdfast_sandbox.cli import app; app(prog_name='sandbox')", *arguments]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "is up after" in process.stdout.readline()
        process.terminate()
        assert process.wait(20) == 0
    assert not root.exists()
    assert with_environment("HOLDFAST_SANDBOX_DIR", str(root)) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("up", "--nodes", "0"), "nodes must be 1 to 1000"),
        (("up", "--trace", "/nowhere.json"), "there is no trace"),
        (("interrupt", "spot-1", "--notice", "3", "--no-notice"), "exclude each other"),
        (("up", "--no-such-option"), "No such option"),
    ],
)
def test_wrong_usage_is_said_with_exit_code_2(arguments: tuple[str, ...], message: str) -> None:
    done = call(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
