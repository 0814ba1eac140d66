"""Where everything of one sandbox lies: all under one directory, but for sockets whose paths would grow too long."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

LONGEST_ROOT = 60
"""A unix socket's path has at most 107 bytes on Linux; our longest name below the root has some 30."""

PARTITION = "spot"
LOCAL_PARTITION = "local"
LOCAL_NODE = "local-1"
CONTROL_HOST = "holdfast-ctl"
RUN_HOLDFAST = Path("/run/holdfast")
"""Every instance, and the sandbox itself, sees a directory of its own here."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one sandbox. `sockets` is `root/run`, or a short directory under /tmp where root is long."""

    root: Path
    sockets: Path

    @property
    def etc(self) -> Path:
        """Configuration files."""
        return self.root / "etc"

    @property
    def log(self) -> Path:
        """One log for each component."""
        return self.root / "log"

    @property
    def hooks(self) -> Path:
        """The programs that slurmctld and slurmd run."""
        return self.root / "hooks"

    @property
    def slurm_state(self) -> Path:
        """slurmctld's StateSaveLocation."""
        return self.root / "state" / "slurmctld"

    @property
    def controller_state(self) -> Path:
        """The controller's journal."""
        return self.root / "state" / "controller"

    @property
    def munge(self) -> Path:
        """Key, seed and log of munged."""
        return self.root / "state" / "munge"

    @property
    def cloud(self) -> Path:
        """State of the simulated cloud."""
        return self.root / "cloud"

    @property
    def cloud_ready(self) -> Path:
        """Written by the simulated cloud when it answers."""
        return self.cloud / "ready.json"

    @property
    def local_run(self) -> Path:
        """What the sandbox's own processes, and the node local-1, see as /run/holdfast."""
        return self.root / "local" / "run"

    @property
    def slurm_conf(self) -> Path:
        """The cluster's slurm.conf."""
        return self.etc / "slurm.conf"

    @property
    def hosts(self) -> Path:
        """What instances see as /etc/hosts."""
        return self.etc / "hosts"

    @property
    def control_hosts(self) -> Path:
        """What slurmctld, the controller and the cloud see as /etc/hosts."""
        return self.etc / "hosts.ctl"

    @property
    def supervisor_config(self) -> Path:
        """The daemons' command lines."""
        return self.etc / "supervisor.json"

    @property
    def agent_template(self) -> Path:
        """The agent's configuration, with @INSTANCE_ID@, @INSTANCE_IP@, @METADATA_URL@ and @INSTANCE_DIR@ to be filled in."""
        return self.etc / "agent.toml.in"

    @property
    def controller_config(self) -> Path:
        """The controller's configuration."""
        return self.etc / "controller.toml"

    @property
    def nvml(self) -> Path:
        """Below it is the fake libnvidia-ml.so.1, where machines have GPUs."""
        return self.root / "nvml"

    @property
    def health_rules(self) -> Path:
        """The controller's health rules, where machines have GPUs."""
        return self.etc / "rules.toml"

    @property
    def spoilt(self) -> Path:
        """While it is there, the next machine boots with a GPU less, and takes it away."""
        return self.etc / "spoilt"

    @property
    def market(self) -> Path:
        """The recorded market that the cloud follows, with this sandbox's names for the zones."""
        return self.etc / "market.json"

    @property
    def state_file(self) -> Path:
        """What the next command must know: ports, pids, settings."""
        return self.root / "sandbox.json"

    @property
    def munge_socket(self) -> Path:
        """The socket of the sandbox's own munged."""
        return self.sockets / "munge.sock"

    @property
    def supervisor_socket(self) -> Path:
        """Where the supervisor takes orders."""
        return self.sockets / "supervisor.sock"

    @property
    def controller_socket(self) -> Path:
        """The controller's unix socket (hooks and command line)."""
        return self.sockets / "controller.sock"

    def make_directories(self) -> None:
        """Make every directory; only private state is closed to the jobs of other users."""
        for path in (self.root, self.sockets, self.etc, self.log, self.hooks, self.cloud, self.local_run):
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
        for path in (self.slurm_state, self.controller_state, self.munge):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def remove(self) -> None:
        """Remove everything. Call it when no process of the sandbox is left."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.rmtree(self.sockets, ignore_errors=True)


def new_layout(root: Path) -> Layout:
    """Return the layout for a new sandbox in `root`; makes a short directory for the sockets where `root` is too long."""
    root = root.resolve()
    if len(str(root).encode()) <= LONGEST_ROOT:
        return Layout(root, root / "run")
    sockets = Path(tempfile.mkdtemp(prefix="hf-sb-", dir="/tmp"))
    sockets.chmod(0o755)
    return Layout(root, sockets)
