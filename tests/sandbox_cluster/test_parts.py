"""The sandbox's parts without Slurm: ports, paths, processes, and the supervisor in a namespace of its own."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from holdfast_common.errors import ConfigError
from holdfast_sandbox.cluster_config import SandboxConfig
from holdfast_sandbox.component import ComponentSpec
from holdfast_sandbox.layout import new_layout
from holdfast_sandbox.ports import BLOCK_PORTS, FIRST_PORT, NoPortsError, lease_ports
from holdfast_sandbox.processes import ProcessId, accepts_connections, listener_pid
from holdfast_sandbox.queries import SlurmQueries
from holdfast_sandbox.registry import register, registered, unregister
from holdfast_sandbox.state import StateError, load_state
from holdfast_sandbox.supervisor_client import SupervisorClient, SupervisorError


def await_true(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 8
    while not condition():
        assert time.monotonic() < deadline, "not within the time allowed"
        time.sleep(0.01)


def test_leases_never_overlap_and_come_back(tmp_path: Path) -> None:
    first, second = lease_ports(10, tmp_path), lease_ports(100, tmp_path)
    assert first.ports.first_node + 10 <= second.ports.first
    assert (second.ports.first - FIRST_PORT) % BLOCK_PORTS == 0
    assert len(second.fds) == 3
    taken = first.ports.first
    first.close()
    third = lease_ports(10, tmp_path)
    assert third.ports.first == taken
    second.close()
    third.close()


def test_a_block_with_a_port_in_use_is_passed_over(tmp_path: Path) -> None:
    lease = lease_ports(10, tmp_path)
    busy = lease.ports.first + 17
    lease.close()
    with socket.socket() as other:
        other.bind(("127.0.0.1", busy))
        other.listen()
        again = lease_ports(10, tmp_path)
        assert not again.ports.first <= busy < again.ports.first + BLOCK_PORTS
        again.close()


def test_running_out_of_ports_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoPortsError, match="consecutive free blocks"):
        lease_ports(100_000, tmp_path)
    lease_ports(10, tmp_path).close()  # and nothing stays locked


def test_a_lock_directory_of_someone_else_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(PermissionError):
        lease_ports(1, tmp_path / "link")


def test_sockets_stay_below_the_limit(short_dir: Path) -> None:
    near = new_layout(short_dir)
    assert near.sockets.parent == short_dir
    far = new_layout(short_dir / ("x" * 90))
    try:
        assert len(str(far.supervisor_socket)) < 60
    finally:
        far.remove()
    assert not far.sockets.exists()


def test_a_process_is_known_again_and_killed_only_if_it_is_the_same() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        found = ProcessId.of(child.pid)
        assert found is not None
        assert found.alive()
        assert ProcessId(child.pid, found.started_ticks - 1).kill(0.1) is True  # another one with this pid: not touched
        assert found.alive()
        assert found.kill(5.0) is True
        assert not found.alive()
        assert child.wait() == -9
    assert found.kill(0.1) is True
    assert ProcessId.of(child.pid) is None


def test_state_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="there is no sandbox"):
        load_state(tmp_path)
    for text in ("", "[]", '{"version": 99}', '{"version": 1, "sockets": 3}'):
        (tmp_path / "sandbox.json").write_text(text)
        with pytest.raises(StateError):
            load_state(tmp_path)


def test_every_fault_of_a_config_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        SandboxConfig(nodes=0, zones=27, boot_delay_s=-1, trace_speed=0, trace=Path("/nowhere"))
    assert len(caught.value.faults) == 5


def test_registry_forgets_what_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    lease_ports(1).close()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sandbox.json").write_text("{}")
        register(tmp_path / name)
    (tmp_path / "a" / "sandbox.json").unlink()
    assert registered() == [tmp_path / "b"]
    unregister(tmp_path / "b")
    assert registered() == []


def test_scontrol_lines_are_taken_apart() -> None:
    line = "JobId=7 JobName=a b=c JobState=RUNNING Reason=None Comment=two words TRES=cpu=1,mem=4G Power=\n"

    def run(command: object, *, check: bool = True, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, line, "")

    job = SlurmQueries(run).job(7)
    assert job["JobState"] == "RUNNING"
    assert job["Comment"] == "two words"
    assert job["TRES"] == "cpu=1,mem=4G"
    assert job["Power"] == ""


# The supervisor


@pytest.fixture
def supervisor(short_dir: Path) -> Iterator[tuple[SupervisorClient, "subprocess.Popen[bytes]", int]]:
    """A real supervisor in a namespace, over components that are shell scripts; its process and its lifeline."""
    scripts = {
        "steady": "exec sleep 1000",
        "stubborn": "trap '' TERM; while :; do sleep 0.05; done",
        "brief": "echo told; exit 3",
        "printer": "echo value=$MARK; exec sleep 1000",
        "orphaning": "sh -c '(sleep 0.1; exit 9) & exit 0'; exec sleep 1000",
        # As slurmctld does from 23.11 on: hands over to a process that it has started, and says which.
        "replaced": f"sh -c 'echo $$ >{short_dir}/pid; while :; do sleep 0.05; done' & sleep 0.2; exit 0",
    }
    specs = [
        ComponentSpec(
            name,
            ("/bin/sh", "-c", script),
            short_dir / f"{name}.log",
            {"PATH": "/usr/bin:/bin"},
            short_dir / "pid" if name == "replaced" else None,
        )
        for name, script in scripts.items()
    ]
    specs.append(ComponentSpec("missing", ("/no/such/program",), short_dir / "missing.log"))
    config = {
        "socket": str(short_dir / "s"),
        "hostname": "test-ctl",
        "binds": [],
        "components": [spec.to_json() for spec in specs],
    }
    (short_dir / "c.json").write_text(json.dumps(config))
    theirs, ours = os.pipe()
    argv = ["unshare", "--pid", "--mount", "--uts", "--fork", "--kill-child=KILL", "--mount-proc", "--"]
    argv += [sys.executable, "-m", "holdfast_sandbox.supervisor", str(short_dir / "c.json"), "--lifeline", str(theirs)]
    with subprocess.Popen(argv, pass_fds=[theirs]) as process:
        os.close(theirs)
        await_true(lambda: accepts_connections(short_dir / "s"))
        yield SupervisorClient(short_dir / "s"), process, ours
        process.kill()


Running = tuple[SupervisorClient, "subprocess.Popen[bytes]", int]


def test_components_start_stop_and_die(supervisor: Running, short_dir: Path) -> None:
    client, _, lifeline = supervisor
    assert client.status()["steady"] == {"state": "never_started", "pid": None, "exit": None, "asked": False, "starts": 0}
    client.start("steady")
    with pytest.raises(SupervisorError, match="runs already"):
        client.start("steady")
    client.stop("steady")
    assert client.status()["steady"]["exit"] == -15
    client.stop("steady")  # harmless
    with pytest.raises(SupervisorError, match="does not run"):
        client.kill("steady")

    client.start("stubborn")
    await_true(lambda: client.status()["stubborn"]["state"] == "running")
    client.stop("stubborn", timeout_s=0.2)
    assert client.status()["stubborn"]["exit"] in (-9, -15)  # -15 where it had not come to its trap

    client.start("brief")
    await_true(lambda: client.status()["brief"]["state"] == "exited")
    assert client.status()["brief"] == {"state": "exited", "pid": None, "exit": 3, "asked": False, "starts": 1}
    assert (short_dir / "brief.log").read_text() == "told\n"

    with pytest.raises(SupervisorError, match=r"does not start.*No such file"):
        client.start("missing")
    with pytest.raises(SupervisorError, match="no component"):
        client.start("nonsense")
    os.close(lifeline)


def test_a_daemon_that_hands_over_to_another_process_still_runs(supervisor: Running, short_dir: Path) -> None:
    client, _, lifeline = supervisor
    client.start("replaced")
    before = client.status()["replaced"]["pid"]
    await_true(lambda: client.status()["replaced"]["pid"] not in (before, None))
    assert client.status()["replaced"] == {
        "state": "running",
        "pid": int((short_dir / "pid").read_text()),
        "exit": None,
        "asked": False,
        "starts": 1,
    }
    client.kill("replaced")
    assert client.status()["replaced"]["state"] == "exited"
    os.close(lifeline)


def test_environment_is_added_and_stays(supervisor: Running, short_dir: Path) -> None:
    client, _, lifeline = supervisor
    client.start("printer", {"MARK": "fault-7"})
    client.kill("printer")
    client.start("printer")
    await_true(lambda: (short_dir / "printer.log").read_text().count("\n") >= 1)
    client.kill("printer")
    assert set((short_dir / "printer.log").read_text().split()) == {"value=fault-7"}
    os.close(lifeline)


def test_orphans_are_reaped(supervisor: Running) -> None:
    client, process, lifeline = supervisor
    client.start("orphaning")
    init = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]

    def children() -> list[str]:
        return Path(f"/proc/{init}/task/{init}/children").read_text().split()

    await_true(lambda: len(children()) >= 1)
    await_true(lambda: len(children()) == 1)  # only the component itself, no zombie
    os.close(lifeline)


def test_end_of_the_lifeline_ends_everything(supervisor: Running, short_dir: Path) -> None:
    client, process, lifeline = supervisor
    client.start("steady")
    os.close(lifeline)
    assert process.wait(8) == 0
    with pytest.raises(SupervisorError, match="no answer"):
        client.status()


def test_detached_outlives_the_lifeline(supervisor: Running, short_dir: Path) -> None:
    client, process, lifeline = supervisor
    client.detach()
    os.close(lifeline)
    client.start("steady")
    assert client.status()["steady"]["state"] == "running"
    init = ProcessId.of(listener_pid(short_dir / "s"))
    assert init is not None
    assert init.kill(5.0)
    process.wait(8)


@pytest.mark.parametrize(
    "order", [b"nonsense\n", b"[]\n", b"{}\n", b'{"op": 5}\n', b'{"op": "start"}\n', b'{"op": "start", "component": []}\n']
)
def test_malformed_orders_are_refused_and_do_no_harm(supervisor: Running, short_dir: Path, order: bytes) -> None:
    client, _, lifeline = supervisor
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(short_dir / "s"))
        connection.sendall(order)
        reply = json.loads(connection.makefile("rb").readline())
    assert reply["ok"] is False
    assert reply["error"]
    assert client.status()["steady"]["state"] == "never_started"
    os.close(lifeline)


def test_it_refuses_to_be_an_ordinary_process(short_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast_sandbox.supervisor", str(short_dir / "c.json")], capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"pid 1" in done.stderr
