"""The agent's settings: `agent.toml`, checked as a whole."""

import re
from pathlib import Path
from typing import Annotated, Literal

from holdfast_common.errors import ConfigError
from holdfast_common.settings import HostPort, parse_toml, read_text
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from holdfast_nodeagent.notices.http import PLAIN_HTTP

Interval = Annotated[float, Field(ge=0.05, le=60)]
Argument = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


def _absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError("must be an absolute path")
    return value


Absolute = Annotated[Path, AfterValidator(_absolute)]


class AgentConfig(BaseModel):
    """Settings of one node's agent. Times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    controller: str
    """`host:port` of the controller."""
    cluster: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    cloud: Literal["auto", "aws", "gcp", "azure"] = "auto"
    """Whose metadata service to ask."""
    metadata_url: str = ""
    """Base of the instance's metadata service, without `/latest`, `/computeMetadata` or `/metadata`. Empty: the cloud's own address."""
    munge_socket: Path = Path("/run/munge/munge.socket.2")
    controller_user: Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = "slurm"
    """SlurmUser, as whom the controller runs; root is believed as well."""
    run_dir: Path = Path("/run/holdfast")
    slurmd_command: tuple[Argument, ...] = ()
    """Starts slurmd as soon as the node's name is known; `{node}` is replaced by it. Must do nothing where slurmd runs, as
    `systemctl start` does. Empty: slurmd is started by someone else."""
    release_command: tuple[Argument, ...] = ()
    """Run once when the node is given up and its last job is out: stop slurmd."""
    slurm_conf: Path = Path("/etc/slurm/slurm.conf")
    bin_dir: Path = Path("/usr/bin")
    """Where scontrol is."""
    poll_s: Interval = 0.25
    """How often EC2's metadata service is asked for a notice: half of it is what detection costs on average. One request to the link-local
    service takes a millisecond, and EC2 allows 1024 packets a second to it. Google's tells of a change by itself; Azure's is asked once a
    second."""
    patience_s: Interval = 2.0
    """How long the controller may be silent after a notice before the agent acts for its own node."""
    margin_s: Annotated[float, Field(ge=0, le=60)] = 2.0
    """Before a deadline: the measured time of a requeue, used when the agent acts by itself."""
    kill_wait_s: Annotated[float, Field(ge=0, le=600)] = 5.0
    """slurm.conf's KillWait, used when the agent acts by itself."""
    orphan_shutdown_s: Annotated[float, Field(ge=0, le=604_800)] = 1800.0
    """A node that has heard neither its controller nor slurmctld for this long, and has no job, shuts itself down; 0: never."""
    shutdown_command: Annotated[tuple[Argument, ...], Field(min_length=1)] = ("systemctl", "poweroff")
    """Shuts the node down."""
    boot_id_path: Path = Path("/proc/sys/kernel/random/boot_id")
    log_level: Annotated[str, StringConstraints(pattern=r"^(debug|info|warning|error)$")] = "info"
    gpu_health: bool = True
    """Read NVML and the kernel's messages, where there is an NVIDIA driver or the controller says that the node has GPUs. The node's own
    readings (disks, memory, clock, mounts) are taken in any case."""
    nvml_library: str = ""
    """Path of libnvidia-ml.so.1. Empty: as the loader finds it."""
    kernel_log: Path = Path("/dev/kmsg")
    """Where the kernel's messages are read, the driver's XIDs among them."""
    watched_paths: tuple[Absolute, ...] = (Path("/"),)
    """Paths on the file systems whose free space is watched, and whether they have become read-only."""
    checkpoint_mounts: tuple[Absolute, ...] = ()
    """Where the checkpoint store must be mounted, and must answer within 5 s."""
    quick_check_s: Annotated[float, Field(ge=1, le=600)] = 20.0
    """The longest time that the check before slurmd's start may take."""
    metrics_listen: HostPort = ""
    """`host:port` of `/metrics`; port 0: any. Empty: not served."""
    metrics_dcgm_names: bool = False
    """Serve the names of dcgm-exporter as well. A site that runs that one would count twice."""

    @field_validator("controller")
    @classmethod
    def _address(cls, value: str) -> str:
        match = re.fullmatch(r"(\[[0-9A-Fa-f:]+\]|[^\s:/]+):(\d{1,5})", value)
        if match is None or not 1 <= int(match[2]) <= 65535:
            raise ValueError("must be host:port")
        return value

    @field_validator("metadata_url")
    @classmethod
    def _plain_http(cls, value: str) -> str:
        if value and PLAIN_HTTP.fullmatch(value) is None:
            raise ValueError("must be http://host[:port][/path] without query or credentials")
        return value.rstrip("/")

    @property
    def jobs_dir(self) -> Path:
        """Where the directories of the node's jobs are."""
        return self.run_dir / "jobs"


def load(path: Path) -> AgentConfig:
    """Read the settings. Raises ConfigError with every fault at once."""
    try:
        return AgentConfig.model_validate(parse_toml(read_text(path), str(path)))
    except ValidationError as error:
        faults = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()]
        raise ConfigError(str(path), faults) from None
