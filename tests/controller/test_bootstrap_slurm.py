"""What the user data says of slurmd, on real Slurm: a machine without a slurm.conf gets it from slurmctld, registers and runs a job."""

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from holdfast_controller.bootstrap import CONFIGLESS_CONF, SLURMD_DEFAULTS, bootstrap
from holdfast_controller.bootstrap_config import NodeSettings
from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.cluster_config import AgentSpec, SandboxConfig
from holdfast_slurm.conf_settings import HOOKS

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(120)]

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "holdfast-slurmd@.service"
MACHINE = """\
# A machine as its image and cloud-init leave it: munge's socket where it always is, and no Slurm configuration at all.
set -e
mount --make-rprivate /
mkdir -p /run/munge /run/slurm /run/holdfast /etc/slurm
for directory in /run/munge /run/slurm /run/holdfast /etc/slurm; do mount -t tmpfs none $directory; done
touch /run/munge/munge.socket.2
mount --bind {socket} /run/munge/munge.socket.2
mount --bind {hosts} /etc/hosts
unset SLURM_CONF
. {defaults}
exec {command} >{log} 2>&1
"""


def write_idle_hooks(directory: Path, **_: object) -> None:
    """Hooks that do nothing: the test is the cloud."""
    for name in HOOKS.values():
        (directory / name).write_text("#!/bin/sh\nexit 0\n")
        (directory / name).chmod(0o755)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    directory = Path(tempfile.mkdtemp(prefix="hf-boot-", dir="/tmp"))  # short, for its sockets
    config = SandboxConfig(
        nodes=1,
        cloud=False,
        write_hooks=write_idle_hooks,
        agent=AgentSpec(("true",)),
        suspend_time_s=600,
        extra_slurm_conf="SlurmctldParameters=idle_on_node_suspend,power_save_interval=1,power_save_min_interval=0,enable_configless",
    )
    with Sandbox(directory / "sb", config) as started:
        yield started
    shutil.rmtree(directory)


@contextmanager
def machine(sandbox: Sandbox, defaults: Path, log: Path) -> Iterator[None]:
    """A machine on which systemd starts holdfast-slurmd@spot-1, with -b: its uptime, that of the host, does not tell that it has booted."""
    start = next(line.partition("=")[2] for line in UNIT.read_text().splitlines() if line.startswith("ExecStart="))
    command = start.replace("%i", "spot-1").replace("slurmd -D ", "slurmd -D -b ")
    assert "-b" in shlex.split(command)
    script = MACHINE.format(
        socket=sandbox.layout.munge_socket, hosts=sandbox.layout.hosts, defaults=defaults, command=f"{command} -v", log=log
    )
    unshare = ["unshare", "--pid", "--mount", "--uts", "--fork", "--kill-child=KILL", "--mount-proc", "--"]
    process = subprocess.Popen([*unshare, "/bin/sh", "-c", script], start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def await_up(sandbox: Sandbox, log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        shown = sandbox.run(["scontrol", "show", "node", "-o", "spot-1"], check=False).stdout
        if "State=IDLE+CLOUD" in shown and "NOT_RESPONDING" not in shown and "POWERING_UP" not in shown:
            return
        assert time.monotonic() < deadline, f"{shown}\n{log.read_text() if log.exists() else 'slurmd was not started'}"
        time.sleep(0.1)


def test_a_machine_without_slurm_conf_registers_and_runs_a_job(sandbox: Sandbox, tmp_path: Path) -> None:
    settings = NodeSettings(controller="127.0.0.1:7420", conf_server=f"127.0.0.1:{sandbox.site.ports.slurmctld}")
    document = yaml.safe_load(bootstrap(settings, "aws", "physics", "l-1", "l-1.0"))
    (tmp_path / "slurmd").write_text({file["path"]: file["content"] for file in document["write_files"]}[SLURMD_DEFAULTS])
    sandbox.run(["scontrol", "update", "nodename=spot-1", "state=power_up"])
    sandbox.run(["scontrol", "update", "nodename=spot-1", "nodeaddr=127.77.0.1"])
    with machine(sandbox, tmp_path / "slurmd", tmp_path / "slurmd.log"):
        await_up(sandbox, tmp_path / "slurmd.log")
        # where agent.toml says that the configuration is, the agent's own scontrol finds it
        asked = f"echo $SLURMD_NODENAME; ls -A /etc/slurm; SLURM_CONF={CONFIGLESS_CONF} scontrol ping"
        done = sandbox.run(["srun", "-p", "spot", "sh", "-c", asked], timeout_s=30)
        assert done.stdout.splitlines() == ["spot-1", "Slurmctld(primary) at holdfast-ctl is UP"]
