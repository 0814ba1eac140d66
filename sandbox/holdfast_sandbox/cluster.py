"""A throw-away cluster under one directory: munged, slurmctld, an ordinary node, a simulated cloud and the controller.

All of it lives in one pid namespace whose init is `holdfast_sandbox.supervisor`: when that dies, nothing is left.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from holdfast_common.errors import HoldfastError

from holdfast_sandbox import registry
from holdfast_sandbox.cloud_control import CloudControl
from holdfast_sandbox.cluster_config import SandboxConfig, Site
from holdfast_sandbox.components import CLOUD, cloud_environment, system_binary
from holdfast_sandbox.instances import Instances
from holdfast_sandbox.layout import Layout, new_layout
from holdfast_sandbox.machine_gpus import MachineGpus
from holdfast_sandbox.nvml.library import BuildError
from holdfast_sandbox.ports import NoPortsError, PortLease, lease_ports
from holdfast_sandbox.queries import SlurmQueries
from holdfast_sandbox.readiness import NotReadyError, await_ready
from holdfast_sandbox.startup import await_supervisor, launch_supervisor, start_daemons, write_files
from holdfast_sandbox.state import SandboxState, StateError, load_state
from holdfast_sandbox.supervisor_client import SupervisorClient, SupervisorError

READY_TIMEOUT_S = 40.0
_OURS = ("HOLDFAST_SANDBOX", "HOLDFAST_SOCKET", "HOLDFAST_JOB_DIR", "HOLDFAST_FAULT")


class SandboxError(Exception):
    """A sandbox cannot be started, reached or stopped; the message says what failed and what its log says."""


class Sandbox:
    """One sandbox. `Sandbox(directory, config).start()` makes it, `Sandbox.open(directory)` finds one that runs.

    As a context manager it starts on entry and is stopped and removed on exit.
    """

    def __init__(self, directory: Path, config: SandboxConfig | None = None) -> None:
        self.root = directory.resolve()
        self.config = config or SandboxConfig()
        self._state: SandboxState | None = None
        self._lifeline: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def open(cls, directory: Path) -> "Sandbox":
        """Return the sandbox in `directory`, running or not. Raises StateError where there is none."""
        state = load_state(directory)
        sandbox = cls(directory, SandboxConfig(nodes=state.ports.nodes, cloud=state.has_cloud))
        sandbox._state = state
        return sandbox

    def __enter__(self) -> "Sandbox":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop(keep=kind is not None)

    def start(self, *, die_with_parent: bool = True, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Start everything and return when it is ready.

        With `die_with_parent` it ends with this process, also by kill -9; without, it stays until `stop`. Raises SandboxError,
        and has then ended what was started; the directory stays, for its logs.
        """
        layout = self._claim_directory()
        try:
            lease = lease_ports(self.config.nodes)
        except (OSError, NoPortsError) as fault:
            layout.remove()
            raise SandboxError(f"the sandbox in {self.root} gets no ports: {fault}") from fault
        state = SandboxState(layout, lease.ports, None, self.config.cloud, self.config.controller is not None)
        self._state = state
        try:
            state.save()
            registry.register(self.root)
            self._start(state, lease, time.monotonic() + timeout_s)
            if not die_with_parent:
                self.supervisor.detach()
        except (OSError, ValueError, subprocess.SubprocessError, HoldfastError, SupervisorError, NotReadyError, BuildError) as fault:
            self.stop(keep=True)
            raise SandboxError(f"the sandbox in {self.root} does not start: {fault}") from fault
        except BaseException:
            self.stop(keep=True)
            raise
        finally:
            lease.close()

    def stop(self, *, keep: bool = False, timeout_s: float = 20.0) -> None:
        """End every process of it and wait until they are gone; remove its directory unless `keep`. Harmless if repeated.

        Raises SandboxError where a process does not die.
        """
        state = self._state
        if state is None:
            return
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        if state.init is not None and not state.init.kill(timeout_s):
            raise SandboxError(f"the sandbox's init, process {state.init.pid}, does not die")
        if self._process is not None:
            if state.init is None:
                self._process.kill()  # unshare: takes the init, which we never learned, along (--kill-child)
            self._process.wait(timeout_s)
            self._process = None
        registry.unregister(self.root)
        if not keep:
            state.layout.remove()
            self._state = None

    @property
    def running(self) -> bool:
        """Whether its supervisor is alive."""
        return self._state is not None and self._state.running

    @property
    def site(self) -> Site:
        """Paths, ports and settings. Raises StateError before `start`."""
        if self._state is None:
            raise StateError(f"the sandbox in {self.root} has not been started")
        return Site(self._state.layout, self._state.ports, self.config, Path(sys.executable), _bin_dir())

    @property
    def layout(self) -> Layout:
        """Where its files are."""
        return self.site.layout

    @property
    def supervisor(self) -> SupervisorClient:
        """Starts, stops and kills single components: munged, slurmctld, cloud, controller, local-slurmd."""
        return SupervisorClient(self.layout.supervisor_socket)

    @property
    def slurm(self) -> SlurmQueries:
        """Short questions to its Slurm."""
        return SlurmQueries(self.run)

    @property
    def cloud(self) -> CloudControl:
        """The simulated cloud's control: refuse, reclaim, kill. Raises OSError where the cloud is not ready."""
        return CloudControl.from_ready_file(self.layout.cloud_ready)

    @property
    def instances(self) -> Instances:
        """The simulated machines, by the node that each is."""
        return Instances(self.layout.cloud)

    def gpus(self, node: str) -> MachineGpus:
        """Return the GPUs of the machine that is `node`, to inject faults. Raises LookupError where it has no machine, or that no GPUs."""
        return MachineGpus.of(self.instances.directory(node))

    def spoil_next_machine(self) -> None:
        """Let the next machine that boots have a GPU less than it should."""
        self.layout.spoilt.touch()

    @property
    def env(self) -> dict[str, str]:
        """The environment in which sbatch, squeue, holdfast and AWS's clients use this sandbox and nothing else."""
        site = self.site
        dropped = ("SLURM", "SBATCH", "SRUN", "SALLOC", "SQUEUE", "SINFO", "SCANCEL", "AWS_", *_OURS)
        env = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        path = env.get("PATH", "/usr/local/bin:/usr/bin:/bin")
        return env | {
            **cloud_environment(site),
            "PATH": f"{site.python.parent}:{site.bin_dir}:{path}",
            "SLURM_CONF": str(site.layout.slurm_conf),
            "HOLDFAST_SOCKET": str(site.layout.controller_socket),
            "HOLDFAST_SANDBOX_DIR": str(site.layout.root),
        }

    def run(
        self, command: Sequence[str], *, check: bool = True, timeout_s: float = 60.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in `env` (and what is added here) and return it with its output.

        Raises CalledProcessError (with `check`) or TimeoutExpired.
        """
        full = self.env | dict(env or {})
        return subprocess.run(command, env=full, capture_output=True, text=True, check=check, timeout=timeout_s)

    def start_component(self, name: str, env: Mapping[str, str] | None = None, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Start a component that was stopped or killed and wait until it is ready. Raises SandboxError, SupervisorError."""
        if name == CLOUD:
            self.layout.cloud_ready.unlink(missing_ok=True)
        self.supervisor.start(name, env)
        try:
            await_ready(self.site, [name], time.monotonic() + timeout_s)
        except NotReadyError as fault:
            raise SandboxError(str(fault)) from fault

    def _claim_directory(self) -> Layout:
        """Make the directory, or take over one in which a sandbox died. Raises SandboxError where it is not free."""
        if self.root.is_dir() and any(self.root.iterdir()):
            try:
                old = load_state(self.root)
            except StateError as fault:
                raise SandboxError(f"{self.root} is not empty, and holds no sandbox that could be replaced ({fault})") from fault
            if old.running:
                raise SandboxError(f"a sandbox runs in {self.root} already")
            old.layout.remove()
        layout = new_layout(self.root)
        layout.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        return layout

    def _start(self, state: SandboxState, lease: PortLease, deadline: float) -> None:
        site = self.site
        write_files(site)
        self._process, self._lifeline = launch_supervisor(site, lease.fds)
        self._state = replace(state, init=await_supervisor(site, self._process, deadline))
        self._state.save()
        start_daemons(site, deadline)


def _bin_dir() -> Path:
    return Path(system_binary("scontrol")).parent
