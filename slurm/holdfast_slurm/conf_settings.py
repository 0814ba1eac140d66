"""The facts about a site on which its slurm.conf depends (`SlurmSettings`), and one demand on it (`Setting`).

Pure. `conf` turns settings into demands and the text of the fragment; `holdfast doctor` compares the demands with
`scontrol show config`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from holdfast_common.errors import ConfigError

Check = Literal["equal", "at_least", "contains", "unset_or_at_least", "positive"]

HOOKS = {
    "ResumeProgram": "resume",
    "SuspendProgram": "suspend",
    "ResumeFailProgram": "resume-fail",
    "PrologSlurmctld": "prolog-slurmctld",
    "Prolog": "prolog",
    "Epilog": "epilog",
    "TaskProlog": "task-prolog",
    "HealthCheckProgram": "health-check",
}
"""slurm.conf key → file name in the hooks directory."""

UNSET = {"", "(null)", "none", "n/a", "65534", "infinite", "unlimited"}
"""How `scontrol show config` prints a value that nobody set (65534 is Slurm's NO_VAL16)."""

_DURATIONS = (
    "resume_timeout_s",
    "suspend_timeout_s",
    "suspend_time_s",
    "kill_wait_s",
    "message_timeout_s",
    "slurmd_timeout_s",
    "cred_expire_s",
)
_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,40}")
_GRES = re.compile(r"[A-Za-z0-9_-]+(:[A-Za-z0-9_.-]+)?:[1-9][0-9]{0,3}")


@dataclass(frozen=True, slots=True)
class Setting:
    """One demand on the running configuration."""

    key: str
    """As slurm.conf and `scontrol show config` spell it."""
    want: str
    check: Check
    """equal; at_least (leading integer); contains (every comma-separated word of `want`); unset_or_at_least; positive."""
    why: str
    advised: bool = False
    """Nothing breaks without it: it is worth a word, and no fault."""

    def holds(self, value: str) -> bool:
        """Return whether `value`, as `scontrol show config` prints it, meets the demand."""
        value = value.strip()
        if self.check == "contains":
            return _words(self.want) <= _words(value)
        if self.check == "unset_or_at_least" and value.lower() in UNSET:
            return True
        if self.check == "equal" and not self.want.isdigit():
            return value.lower() == self.want.lower()
        have = re.match(r"\d+", value)
        if have is None:
            return False
        least = 1 if self.check == "positive" else int(self.want)
        return int(have[0]) == least if self.check == "equal" else int(have[0]) >= least


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """CLOUD nodes of one shape, named `<prefix>-1` to `<prefix>-<count>`."""

    prefix: str
    count: int
    cpus: int
    memory_mb: int
    gres: str = ""
    """As in a NodeName line: `gpu:8`, `gpu:h100:8`; empty without GPUs."""
    weight: int = 1
    first_port: int | None = None
    """Only for a sandbox, where all slurmd share one address: node N listens on first_port + N - 1."""
    gres_files: str = ""
    """gres.conf File= for sites that name the devices; empty: NVML finds them."""

    @property
    def nodes(self) -> str:
        """The group's names in Slurm's range notation."""
        return f"{self.prefix}-[1-{self.count}]"


@dataclass(frozen=True, slots=True)
class SlurmSettings:
    """A site, as far as the fragment depends on it. Times are whole seconds, as Slurm wants them."""

    version: tuple[int, int, int]
    hooks_dir: Path
    node_groups: tuple[NodeGroup, ...]
    partition: str = "spot"
    resume_timeout_s: int = 600
    """Longest time from ResumeProgram to registration: GPU instances boot in 2 to 5 minutes."""
    suspend_timeout_s: int = 30
    suspend_time_s: int = 300
    """How long a node of the partition idles before it is given back."""
    kill_wait_s: int = 5
    message_timeout_s: int = 10
    slurmd_timeout_s: int = 300
    cred_expire_s: int = 30
    """Before 25.11 only: Slurm waits this long + 1 s before it runs a requeued job again if our controller is down."""
    munge_socket: Path | None = None
    cloud_dns: bool = False
    """Whether node names are in DNS. If not, the controller tells slurmctld each node's address."""
    configless: bool = False
    """Whether nodes fetch slurm.conf from slurmctld (`slurmd --conf-server`)."""
    sandbox: bool = False
    """Accept nodes that have less than they declare (several slurmd on one machine)."""
    oversubscribe: str = "NO"

    def __post_init__(self) -> None:
        """Raise ConfigError with every fault."""
        faults = [*self._time_faults(), *self._name_faults()]
        if self.version < (22, 5):
            faults.append(f"Slurm {'.'.join(map(str, self.version))} is older than 22.05, the oldest that is supported")
        if faults:
            raise ConfigError("slurm settings", faults)

    @property
    def has_requeue_delay(self) -> bool:
        """Whether Slurm can be told how long a requeued job must wait (25.11 and later)."""
        return self.version >= (25, 11)

    @property
    def has_gpus(self) -> bool:
        """Whether any node group has GRES."""
        return any(group.gres for group in self.node_groups)

    @property
    def least_suspend_timeout_s(self) -> int:
        """How long a name must rest: slurmctld may retry the kill of its last job, and hit the next one (measured)."""
        return self.kill_wait_s + self.message_timeout_s + 5

    def _time_faults(self) -> list[str]:
        faults = [f"{name} must be a positive number of seconds" for name in _DURATIONS if getattr(self, name) <= 0]
        if self.suspend_timeout_s < self.least_suspend_timeout_s:
            faults.append(
                f"suspend_timeout_s is {self.suspend_timeout_s}, but must be at least "
                f"kill_wait_s + message_timeout_s + 5 = {self.least_suspend_timeout_s}"
            )
        return faults

    def _name_faults(self) -> list[str]:
        faults = []
        if not self.hooks_dir.is_absolute() or any(c.isspace() for c in str(self.hooks_dir)):
            faults.append(f"hooks_dir must be an absolute path without spaces, not {str(self.hooks_dir)!r}")
        if not self.node_groups:
            faults.append("at least one node group is needed")
        prefixes = [group.prefix for group in self.node_groups]
        if len(set(prefixes)) != len(prefixes):
            faults.append("two node groups have the same prefix")
        for name in (self.partition, *prefixes):
            if not _PREFIX.fullmatch(name):
                faults.append(f"{name!r} cannot be part of a Slurm name")
        for group in self.node_groups:
            if group.count < 1 or group.cpus < 1 or group.memory_mb < 1:
                faults.append(f"node group {group.prefix}: count, cpus and memory_mb must be at least 1")
            if group.gres and not _GRES.fullmatch(group.gres):
                faults.append(f"node group {group.prefix}: gres must read like gpu:8 or gpu:h100:8, not {group.gres!r}")
        return faults


def _words(value: str) -> set[str]:
    return {word.strip().lower() for word in value.split(",") if word.strip()}
