"""Whole sandboxes on real Slurm: start, use, faults, and that nothing is left behind."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_sandbox.cluster import Sandbox, SandboxError
from holdfast_sandbox.cluster_config import SandboxConfig
from holdfast_sandbox.ports import BLOCK_PORTS, FIRST_PORT, default_lock_directory, lease_ports
from holdfast_sandbox.processes import with_environment

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(120)]
StartSandbox = Callable[..., Sandbox]


def processes_of(root: Path) -> list[int]:
    """Every process on the machine that belongs to the sandbox: supervisor, daemons, instances, steps."""
    return with_environment("HOLDFAST_SANDBOX_DIR", str(root))


def await_true(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not within the time allowed"
        time.sleep(0.05)


def test_starts_in_seconds_and_runs_a_job(start_sandbox: StartSandbox, short_dir: Path) -> None:
    started = time.monotonic()
    sandbox = start_sandbox(short_dir / "sb")
    assert time.monotonic() - started < 10
    assert sandbox.run(["srun", "--partition=local", "hostname"]).stdout == "local-1\n"
    assert {name: entry["state"] for name, entry in sandbox.supervisor.status().items()} == {
        "munged": "running",
        "slurmctld": "running",
        "local-slurmd": "running",
    }
    # An instance's machine must not be seen from the sandbox's own processes' /run, nor theirs from the host's.
    assert (sandbox.layout.local_run / "slurmd").is_dir()
    assert not Path("/run/holdfast/slurmd").exists()


def test_running_slurm_has_every_required_setting(start_sandbox: StartSandbox, short_dir: Path) -> None:
    from holdfast_sandbox.slurm_files import slurm_settings
    from holdfast_sandbox.startup import slurm_version
    from holdfast_slurm.conf import required_settings

    sandbox = start_sandbox(short_dir / "sb")
    shown = sandbox.run(["scontrol", "show", "config"]).stdout
    values = {match[1]: match[2] for match in re.finditer(r"^(\w+)\s+= ?(.*)$", shown, re.MULTILINE)}
    settings = required_settings(slurm_settings(sandbox.site, slurm_version()))
    assert {s.key: values[s.key] for s in settings if not s.holds(values[s.key])} == {}
    partition = sandbox.run(["scontrol", "show", "partition", "spot"]).stdout
    assert "spot-[1-4]" in partition
    log = (sandbox.layout.log / "slurmctld.log").read_text()
    assert "Unable to parse" not in log
    assert "specified more than once" not in log


def test_cloud_node_without_dns_boots_registers_and_runs_a_two_node_job(start_sandbox: StartSandbox, short_dir: Path) -> None:
    sandbox = start_sandbox(short_dir / "sb")
    output = short_dir / "out"
    job_id = sandbox.slurm.submit("-p", "spot", "-N2", "-o", str(output), "--wrap", "hostname; srun hostname | sort; ls /run/holdfast")
    sandbox.slurm.await_job(job_id, {"COMPLETED"}, 60)
    assert output.read_text().split() == ["spot-1", "spot-1", "spot-2", "slurmd", "slurmd.log", "slurmd.pid"]
    assert [sandbox.slurm.node(name)["NodeAddr"] for name in ("spot-1", "spot-2")] == ["127.77.0.1", "127.77.0.2"]

    # The address outlives slurmctld. Slurm 22.05 saves node states up to five seconds late.
    saved, now = sandbox.layout.slurm_state / "node_state", time.time()
    sandbox.run(["scontrol", "update", "nodename=spot-1", "comment=seen"])
    await_true(lambda: saved.stat().st_mtime > now, 10)
    sandbox.supervisor.kill("slurmctld")
    assert sandbox.supervisor.status()["slurmctld"] == {"state": "exited", "pid": None, "exit": -9, "asked": True, "starts": 1}
    sandbox.start_component("slurmctld")
    assert sandbox.slurm.node("spot-1")["NodeAddr"] == "127.77.0.1"
    assert sandbox.run(["srun", "-p", "spot", "-w", "spot-1", "hostname"]).stdout == "spot-1\n"

    # A machine that is taken away dies whole.
    instance = short_dir / "sb/cloud/instances/i-spot-1"
    mine = with_environment("HOLDFAST_SANDBOX_INSTANCE_DIR", str(instance))
    assert len(mine) >= 3
    sandbox.run(["scontrol", "update", "nodename=spot-1", "state=POWER_DOWN_FORCE", "reason=holdfast: test"])
    await_true(lambda: not with_environment("HOLDFAST_SANDBOX_INSTANCE_DIR", str(instance)))
    assert with_environment("HOLDFAST_SANDBOX_INSTANCE_DIR", str(instance)) == []


def test_two_at_once_do_not_touch_each_other(start_sandbox: StartSandbox, short_dir: Path) -> None:
    first, second = start_sandbox(short_dir / "one"), start_sandbox(short_dir / "two")
    assert first.site.ports.first != second.site.ports.first
    first.run(["sbatch", "--partition=local", "--hold", "--job-name=mine", "--wrap", "true"])
    assert first.run(["squeue", "-h", "-o", "%j"]).stdout.split() == ["mine"]
    assert second.run(["squeue", "-h", "-o", "%j"]).stdout == ""
    stranger = subprocess.run(
        ["squeue", "-h"], env=second.env | {"SLURM_CONF": str(foreign_conf(first, second))}, capture_output=True, check=False
    )
    assert stranger.returncode != 0, "the munge key of one sandbox opens another"
    first.stop()
    assert second.run(["srun", "-p", "local", "hostname"]).stdout == "local-1\n"


def foreign_conf(victim: Sandbox, thief: Sandbox) -> Path:
    """The victim's slurm.conf with the thief's munge socket."""
    text = victim.layout.slurm_conf.read_text()
    path = thief.root / "foreign.conf"
    path.write_text(text.replace(str(victim.layout.munge_socket), str(thief.layout.munge_socket)))
    return path


def test_stop_leaves_no_process_no_lock_and_no_file(start_sandbox: StartSandbox, short_dir: Path) -> None:
    sandbox = start_sandbox(short_dir / "sb")
    root, ports = sandbox.root, sandbox.site.ports
    job = sandbox.slurm.submit("-p", "spot", "--wrap", "sleep 1000")
    sandbox.slurm.await_job(job, {"RUNNING"}, 60)
    assert len(processes_of(root)) >= 8
    sandbox.stop()
    assert processes_of(root) == []
    assert not sandbox.root.exists()
    assert not sandbox.running
    lock = default_lock_directory() / f"{(ports.first - FIRST_PORT) // BLOCK_PORTS:03d}.lock"
    subprocess.run(["flock", "--nonblock", str(lock), "true"], check=True)
    sandbox.stop()  # harmless


PARENT = """
import sys, signal
sys.path.insert(0, {tests!r})
from conftest import write_test_hooks
from pathlib import Path
from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.cluster_config import AgentSpec, SandboxConfig
config = SandboxConfig(nodes=2, cloud=False, write_hooks=write_test_hooks, agent=AgentSpec(("true",)))
sandbox = Sandbox(Path({root!r}), config)
sandbox.start(die_with_parent={die})
print("up", flush=True)
signal.pause()
"""


def start_parent(root: Path, *, die: bool) -> subprocess.Popen[bytes]:
    program = PARENT.format(tests=str(Path(__file__).parent), root=str(root), die=die)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.stdout.close()
    return process


def test_kill_of_the_parent_leaves_no_process(short_dir: Path) -> None:
    root = short_dir / "sb"
    parent = start_parent(root, die=True)
    job = Sandbox.open(root).slurm.submit("-p", "spot", "--wrap", "sleep 1000")
    Sandbox.open(root).slurm.await_job(job, {"RUNNING"}, 60)
    parent.kill()
    parent.wait()
    await_true(lambda: not processes_of(root))
    assert processes_of(root) == []
    # The next start in the same place takes it over.
    assert not Sandbox.open(root).running
    Sandbox.open(root).stop()
    assert not root.exists()


def test_detached_outlives_its_parent_and_is_found_again(short_dir: Path) -> None:
    root = short_dir / "sb"
    parent = start_parent(root, die=False)
    parent.kill()
    parent.wait()
    found = Sandbox.open(root)
    try:
        assert found.running
        assert found.run(["srun", "-p", "local", "hostname"]).stdout == "local-1\n"
        with pytest.raises(SandboxError, match=r"runs in .* already"):
            Sandbox(root).start()
        assert found.running
    finally:
        found.stop()
    assert processes_of(root) == []


def test_kill_of_init_leaves_no_process(start_sandbox: StartSandbox, short_dir: Path) -> None:
    sandbox = start_sandbox(short_dir / "sb")
    root = sandbox.root
    init = Sandbox.open(sandbox.root)._state.init  # type: ignore[union-attr]
    assert init is not None
    os.kill(init.pid, signal.SIGKILL)
    await_true(lambda: not processes_of(root))
    assert processes_of(root) == []


def test_a_daemon_that_dies_is_reported_and_not_restarted(start_sandbox: StartSandbox, short_dir: Path) -> None:
    sandbox = start_sandbox(short_dir / "sb")
    sandbox.run(["scontrol", "shutdown", "slurmctld"], check=False)
    await_true(lambda: sandbox.supervisor.status()["slurmctld"]["state"] != "running")
    status = sandbox.supervisor.status()["slurmctld"]
    assert (status["state"], status["asked"], status["starts"]) == ("exited", False, 1)
    sandbox.start_component("slurmctld")
    assert sandbox.run(["scontrol", "ping"]).returncode == 0


def test_a_long_directory_name_gets_short_sockets(start_sandbox: StartSandbox, tmp_path: Path) -> None:
    root = tmp_path / ("long-" * 20) / "sb"
    sandbox = start_sandbox(root)
    sockets = sandbox.layout.sockets
    assert sockets.parent == Path("/tmp")
    assert sandbox.run(["srun", "-p", "local", "hostname"]).stdout == "local-1\n"
    sandbox.stop()
    assert not sockets.exists()


def test_failure_names_the_daemon_and_shows_its_log(start_sandbox: StartSandbox, short_dir: Path, plain_config: SandboxConfig) -> None:
    from dataclasses import replace

    faulty = replace(plain_config, extra_slurm_conf="NoSuchKey=1")
    with pytest.raises(SandboxError, match=r"(?s)slurmctld ended.*NoSuchKey"):
        start_sandbox(short_dir / "sb", faulty)
    assert processes_of(short_dir / "sb") == []


def test_a_directory_with_other_files_is_left_alone(short_dir: Path) -> None:
    (short_dir / "thesis.tex").write_text("years of work")
    with pytest.raises(SandboxError, match="not empty"):
        Sandbox(short_dir).start()
    assert (short_dir / "thesis.tex").read_text() == "years of work"


def test_gpus_are_pretended(start_sandbox: StartSandbox, short_dir: Path, plain_config: SandboxConfig) -> None:
    from dataclasses import replace

    sandbox = start_sandbox(short_dir / "sb", replace(plain_config, nodes=1, gpus_per_node=2))
    shown = sandbox.run(["srun", "-p", "spot", "--gres=gpu:1", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES"], timeout_s=60)
    assert shown.stdout == "0\n"


def test_agent_is_restarted_unless_told_not_to(start_sandbox: StartSandbox, short_dir: Path) -> None:
    sandbox = start_sandbox(short_dir / "sb")
    sandbox.run(["scontrol", "update", "nodename=spot-3", "state=POWER_UP"])
    sandbox.slurm.await_node("spot-3", lambda node: "POWER" not in node["State"], 40)
    instance = sandbox.instances.instance_of("spot-3")
    assert instance == "i-spot-3"
    first = sandbox.instances.kill_agent("spot-3")
    assert len(first) == 1
    await_true(lambda: sandbox.instances.agent_pids("spot-3") not in ([], first))
    sandbox.instances.kill_agent("spot-3", restart=False)
    time.sleep(1.0)
    assert sandbox.instances.agent_pids("spot-3") == []
    # slurmd is not the agent's child: it goes on, as it would under systemd.
    assert sandbox.run(["srun", "-p", "spot", "-w", "spot-3", "hostname"]).stdout == "spot-3\n"


def test_no_ports_left_is_said(tmp_path: Path) -> None:
    leases = [lease_ports(1000, tmp_path / "locks") for _ in range(2)]
    assert leases[0].ports.first + 1000 < leases[1].ports.first
    for lease in leases:
        lease.close()
