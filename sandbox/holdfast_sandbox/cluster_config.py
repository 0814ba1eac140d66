"""What a sandbox shall be, and the parts of it that its user may replace."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from holdfast_common.errors import ConfigError

from holdfast_sandbox.cloud_config import Cloud
from holdfast_sandbox.layout import Layout
from holdfast_sandbox.nvml.profiles import PROFILES
from holdfast_sandbox.ports import Ports

MOST_NODES = 1000
INSTANCE_TYPE = "sim1.node"
REGION = "us-east-1"
CLOUDS: tuple[Cloud, ...] = ("aws", "gcp", "azure")


@dataclass(frozen=True, slots=True)
class Site:
    """What a configuration of the controller or the agent can refer to."""

    layout: Layout
    ports: Ports
    config: "SandboxConfig"
    python: Path
    bin_dir: Path
    """Where sbatch, scontrol and slurmd are found."""

    @property
    def cloud_url(self) -> str:
        """The simulated cloud's endpoint."""
        return f"http://127.0.0.1:{self.ports.cloud}"


class WriteHooks(Protocol):
    """Writes the programs that slurm.conf names (`holdfast_slurm.conf_settings.HOOKS`) into a directory."""

    def __call__(
        self,
        directory: Path,
        *,
        python: Path,
        controller_socket: Path,
        run_dir: Path,
        bin_dir: Path,
        slurm_conf: Path,
        nodes: str,
    ) -> None:
        """Write them; every path that they need is baked in, since Slurm starts them without PATH and environment."""


@dataclass(frozen=True, slots=True)
class ControllerSpec:
    """How the controller is started; it is ready when it accepts connections on `Layout.controller_socket`."""

    command: tuple[str, ...]
    """The whole command line; `{config}` and `{python}` are replaced."""
    files: Callable[[Site], Mapping[str, str]]
    """File name → text, written into etc/; `{config}` is the one named controller.toml."""
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """How an instance's agent is started. It is to end up in `start_slurmd.sh NODE`."""

    command: tuple[str, ...]
    """The whole command line; `{python}`, `{node_scripts}` and `{root}` are replaced. No word may hold a space."""
    render_template: Callable[[Site], str] | None = None
    """Makes etc/agent.toml.in, in which init.sh fills in @INSTANCE_ID@, @INSTANCE_IP@, @METADATA_URL@ and @INSTANCE_DIR@."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """One sandbox. Times in seconds."""

    nodes: int = 8
    cpus_per_node: int = 4
    memory_mb_per_node: int = 4000
    gpus_per_node: int = 0
    """What Slurm is told. Pretended: CUDA_VISIBLE_DEVICES is set as on a real node, and the device files are /dev/null's twins."""
    gpu_profile: str = ""
    """The GPUs that each machine's NVML and kernel log tell of (a key of `nvml.profiles.PROFILES`), with metrics of agents and controller.
    Empty: no NVML, no metrics. Jobs can use the GPUs of neither."""
    oversubscribe: str = "NO"
    """slurm.conf OverSubscribe= of the spot partition. NO: jobs share a node by CPUs. EXCLUSIVE: one job for each node."""
    boot_delay_s: float = 1.0
    clouds: tuple[Cloud, ...] = ("aws",)
    """Whose interfaces the zones are reached through: dealt out in turn, where there are several."""
    zones: int = 3
    zone_capacity: int | None = None
    """Spot instances for each zone; None: as many as there are nodes."""
    notice_s: float = 120.0
    trace: Path | None = None
    """A recorded spot market instead of fixed zones."""
    trace_speed: float = 60.0
    trace_zones: tuple[str, ...] | None = None
    """Which zones of the recording, in order of preference; None: all."""
    trace_start: int = 0
    """The step with which it begins."""
    trace_units: int = 1
    """Instances for each that was recorded: some recordings only say whether there was one."""
    trace_lead_s: float = 0.0
    """How much longer than the others its first step lasts, in real seconds."""
    resume_timeout_s: int = 60
    suspend_timeout_s: int = 20
    suspend_time_s: int = 300
    extra_slurm_conf: str = ""
    """Lines after all others; where a key stands twice, Slurm takes the last."""
    cloud: bool = True
    cloud_overrides: Mapping[str, object] = field(default_factory=dict)
    """Further keys of the simulated cloud's configuration."""
    controller: ControllerSpec | None = None
    agent: AgentSpec | None = None
    write_hooks: WriteHooks | None = None
    """None: Holdfast's own hooks."""

    @property
    def gpus(self) -> int:
        """How many GPUs a node has, by whichever of the two says so."""
        return self.gpus_per_node or (PROFILES[self.gpu_profile].count if self.gpu_profile else 0)

    def __post_init__(self) -> None:
        """Raise ConfigError with every fault."""
        faults = list(self._gpu_faults())
        if not 1 <= self.nodes <= MOST_NODES:
            faults.append(f"nodes must be 1 to {MOST_NODES}, not {self.nodes}")
        if not 1 <= self.zones <= 26:
            faults.append(f"zones must be 1 to 26, not {self.zones}")
        if not self.clouds or len(set(self.clouds)) != len(self.clouds) or not set(self.clouds) <= set(CLOUDS):
            faults.append(f"clouds must be some of {', '.join(CLOUDS)}, not {', '.join(self.clouds) or 'none'}")
        elif self.zones < len(self.clouds):
            faults.append(f"zones must be {len(self.clouds)} at least, one for each of {', '.join(self.clouds)}, not {self.zones}")
        if not 0 <= self.boot_delay_s <= 3600:
            faults.append(f"boot_delay_s must be 0 to 3600, not {self.boot_delay_s}")
        if not 0 < self.trace_speed <= 1e6:
            faults.append(f"trace_speed must be above 0 and at most 1e6, not {self.trace_speed}")
        if self.trace is not None and not self.trace.is_file():
            faults.append(f"there is no trace {self.trace}")
        if faults:
            raise ConfigError("sandbox", faults)

    def _gpu_faults(self) -> Iterator[str]:
        if not self.gpu_profile:
            return
        if self.gpu_profile not in PROFILES:
            yield f"gpu_profile must be one of {', '.join(PROFILES)}, not {self.gpu_profile}"
        elif self.gpus_per_node not in {0, PROFILES[self.gpu_profile].count}:
            yield f"gpus_per_node is {self.gpus_per_node}, but {self.gpu_profile} has {PROFILES[self.gpu_profile].count} GPUs"
