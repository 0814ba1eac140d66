"""How a sandbox comes to be: its files, its namespace, its daemons in order."""

import json
import os
import secrets
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from holdfast_slurm.conf import parse_version

from holdfast_sandbox.cluster_config import Site
from holdfast_sandbox.components import (
    LOCAL_SLURMD,
    MUNGED,
    SLURMCTLD,
    component_specs,
    system_binary,
    write_cloud_config,
)
from holdfast_sandbox.defaults import default_agent, default_hooks
from holdfast_sandbox.layout import CONTROL_HOST, PARTITION, RUN_HOLDFAST
from holdfast_sandbox.processes import ProcessId, listener_pid
from holdfast_sandbox.readiness import NotReadyError, await_first_look, await_ready, tail
from holdfast_sandbox.slurm_files import write_slurm_files
from holdfast_sandbox.supervisor_client import SupervisorClient

_POLL_S = 0.02


def slurm_version() -> tuple[int, int, int]:
    """Return the installed Slurm's version. Raises FileNotFoundError, ValueError."""
    done = subprocess.run([system_binary("slurmctld"), "-V"], capture_output=True, text=True, check=True, timeout=10)
    return parse_version(done.stdout)


def write_files(site: Site) -> None:
    """Write every configuration file, the munge key and the hooks. Raises OSError, ValueError, ConfigError."""
    site.layout.make_directories()
    _write_key(site.layout.munge / "munge.key")
    write_slurm_files(site, slurm_version())
    write_hooks = site.config.write_hooks or default_hooks
    write_hooks(
        site.layout.hooks,
        python=site.python,
        controller_socket=site.layout.controller_socket,
        run_dir=RUN_HOLDFAST,
        bin_dir=site.bin_dir,
        slurm_conf=site.layout.slurm_conf,
        nodes=f"{PARTITION}-[1-{site.config.nodes}]",
    )
    agent = site.config.agent or default_agent()
    if agent.render_template is not None:
        site.layout.agent_template.write_text(agent.render_template(site), encoding="utf-8")
    if site.config.cloud:
        write_cloud_config(site, agent)
    if site.config.controller is not None:
        for name, text in site.config.controller.files(site).items():
            (site.layout.etc / name).write_text(text, encoding="utf-8")
    supervisor = {
        "socket": str(site.layout.supervisor_socket),
        "hostname": CONTROL_HOST,
        "binds": [
            [str(site.layout.local_run), str(RUN_HOLDFAST)],
            [str(site.layout.control_hosts), "/etc/hosts"],
        ],
        "components": [spec.to_json() for spec in component_specs(site)],
    }
    site.layout.supervisor_config.write_text(json.dumps(supervisor, indent=2), encoding="utf-8")


def launch_supervisor(site: Site, hold_fds: Sequence[int]) -> tuple[subprocess.Popen[bytes], int]:
    """Start the namespace; return the outer process (unshare) and the lifeline, whose closing ends it. Raises OSError."""
    theirs, ours = os.pipe2(os.O_CLOEXEC)
    argv = ["unshare", "--pid", "--mount", "--uts", "--fork", "--kill-child=KILL", "--mount-proc", "--"]
    argv += [str(site.python), "-m", "holdfast_sandbox.supervisor", str(site.layout.supervisor_config)]
    argv += ["--lifeline", str(theirs), *(f"--hold={fd}" for fd in hold_fds)]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    env["HOLDFAST_SANDBOX_DIR"] = str(site.layout.root)
    try:
        with (site.layout.log / "supervisor.log").open("ab") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                cwd="/",
                pass_fds=[theirs, *hold_fds],
                start_new_session=True,  # Ctrl-C at a terminal concerns the starting process, which then stops the sandbox
            )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return process, ours


def await_supervisor(site: Site, process: subprocess.Popen[bytes], deadline: float) -> ProcessId:
    """Return the identity of the namespace's init once it answers. Raises NotReadyError."""
    while time.monotonic() < deadline and process.poll() is None:
        try:
            found = ProcessId.of(listener_pid(site.layout.supervisor_socket))
        except OSError:
            found = None
        if found is not None:
            return found
        time.sleep(_POLL_S)
    log = site.layout.log / "supervisor.log"
    raise NotReadyError(f"the supervisor did not start (making namespaces needs root)\n--- end of {log}\n{tail(log)}")


def start_daemons(site: Site, deadline: float) -> None:
    """Start each daemon when what it needs is ready; return when all are, and the controller has looked at everything once.

    Raises NotReadyError, SupervisorError.
    """
    supervisor = SupervisorClient(site.layout.supervisor_socket)
    names = [spec.name for spec in component_specs(site)]
    supervisor.start(MUNGED)
    await_ready(site, [MUNGED], deadline)
    others = [name for name in names if name not in (MUNGED, LOCAL_SLURMD)]
    for name in others:
        supervisor.start(name)
    await_ready(site, [SLURMCTLD], deadline)
    supervisor.start(LOCAL_SLURMD)
    await_ready(site, [*others, LOCAL_SLURMD], deadline)
    if site.config.controller is not None:
        await_first_look(site, deadline)


def _write_key(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with open(descriptor, "wb") as file:
        file.write(secrets.token_bytes(64))
