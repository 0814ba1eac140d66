"""Compares a running cluster with what Holdfast needs of it. Each finding says what is, what should be, why, and how to mend it.

The checks are pure: what they look at was read by `probe` before.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from holdfast_slurm.conf import parse_version, required_settings
from holdfast_slurm.conf_settings import HOOKS, UNSET, Setting, SlurmSettings

_RESTART = {"PrologSlurmctld", "PrologFlags", "AuthInfo", "TreeWidth", "SlurmctldParameters"}
"""What slurmctld 22.05 was seen not to take up by `scontrol reconfigure` (PrologSlurmctld), or what its manual says needs a restart."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it must be."""

    subject: str
    found: str
    wanted: str
    why: str
    mend: str
    advised: bool = False
    """Nothing breaks where it stays as it is."""


@dataclass(frozen=True, slots=True)
class Observed:
    """All that a look at the cluster brought."""

    config: Mapping[str, str]
    """`scontrol show config`."""
    partition: Mapping[str, str] | None
    """`scontrol show partition`, None where there is none."""
    not_cloud: tuple[str, ...]
    """Nodes of the partition that are not State=CLOUD."""
    hooks: Mapping[str, str | None]
    """Path of each hook that the running configuration names → what is unsafe about it, or None."""
    munge_fault: str | None
    controller_fault: str | None


def examine(seen: Observed, settings: SlurmSettings, socket: str) -> list[Finding]:
    """Return what must be mended, the configuration first."""
    return [
        *setting_findings(seen.config, settings),
        *rule_findings(seen.config),
        *partition_findings(seen, settings),
        *hook_findings(seen.hooks),
        *socket_findings(seen, socket),
    ]


def setting_findings(config: Mapping[str, str], settings: SlurmSettings) -> Iterator[Finding]:
    """Compare the running configuration with the fragment of `holdfast slurm-conf`."""
    for setting in required_settings(settings):
        value = config.get(setting.key, "")
        # from 23.11 on there may be several Prolog and Epilog programs; one of them must be ours
        values = value.split(",") if setting.key in HOOKS else [value]
        if any(setting.holds(each) for each in values):
            continue
        wanted = {"at_least": f"at least {setting.want}", "contains": f"contains {setting.want}"}.get(setting.check, setting.want)
        yield Finding(setting.key, value or "not set", wanted, setting.why, _mend_setting(setting, value), setting.advised)


def rule_findings(config: Mapping[str, str]) -> Iterator[Finding]:
    """Check what holds between values, whatever the site chose for them."""
    kill, message, suspend = (_seconds(config, key) for key in ("KillWait", "MessageTimeout", "SuspendTimeout"))
    if kill is not None and message is not None and suspend is not None and suspend < kill + message + 5:
        yield Finding(
            "SuspendTimeout",
            f"{suspend} s, with KillWait={kill} and MessageTimeout={message}",
            f"at least KillWait + MessageTimeout + 5 = {kill + message + 5} s",
            "A kill that slurmctld still retries would hit the next job on the name (measured).",
            _mend("SuspendTimeout", str(kill + message + 5)),
        )
    resume, batch = _seconds(config, "ResumeTimeout"), _seconds(config, "PrologEpilogTimeout")
    if resume is not None and batch is not None and config.get("PrologEpilogTimeout", "") not in UNSET and batch < resume:
        yield Finding(
            "PrologEpilogTimeout",
            f"{batch} s",
            f"unset, or at least ResumeTimeout = {resume} s",
            "PrologSlurmctld waits for booting nodes; a job whose prolog runs out of time is requeued while they boot (measured).",
            _mend("PrologEpilogTimeout", str(resume)),
        )
    excepted = [key for key in ("SuspendExcParts", "SuspendExcNodes") if config.get(key, "").lower() not in UNSET]
    if _seconds(config, "SuspendTime") is not None and not excepted:
        yield Finding(
            "SuspendTime",
            config["SuspendTime"],
            "set on the partition only, or with SuspendExcParts for the others",
            "A SuspendTime of the whole cluster powers nodes down that are not Holdfast's.",
            "remove SuspendTime from the top of slurm.conf and keep it in the PartitionName line; then `scontrol reconfigure`",
        )


def partition_findings(seen: Observed, settings: SlurmSettings) -> Iterator[Finding]:
    """Check that the partition is there, and made of CLOUD nodes."""
    subject = f"partition {settings.partition}"
    mend = (
        f"add the partition and its nodes from `holdfast slurm-conf` to slurm.conf, or name yours (--partition); now: {settings.partition}"
    )
    if seen.partition is None:
        yield Finding(subject, "not there", "there", "Holdfast serves the jobs of this partition only.", mend)
        return
    if seen.partition.get("State", "UP") != "UP":
        fix = f"scontrol update partitionname={settings.partition} state=up"
        yield Finding(subject, f"State={seen.partition['State']}", "State=UP", "No job of it can start.", fix)
    if seen.not_cloud:
        names = ", ".join(seen.not_cloud[:5]) + (f" and {len(seen.not_cloud) - 5} more" if len(seen.not_cloud) > 5 else "")
        yield Finding(
            f"nodes of {settings.partition}",
            f"{names}: not State=CLOUD",
            "State=CLOUD",
            "Only CLOUD nodes are powered up for a job and forgotten when they go.",
            "give the NodeName line State=CLOUD, and restart slurmctld and slurmd",
        )


def hook_findings(hooks: Mapping[str, str | None]) -> Iterator[Finding]:
    """Check the programs that slurmctld and slurmd run as SlurmUser and root."""
    for path, fault in hooks.items():
        if fault is not None:
            yield Finding(
                path,
                fault,
                "an executable file that only root or SlurmUser can change, in directories that only they can change",
                "slurmctld and slurmd run it with their privileges.",
                "write the hooks with `holdfast slurm-conf --install-hooks --hooks-dir DIR`, into a directory of root's",
            )


def socket_findings(seen: Observed, socket: str) -> Iterator[Finding]:
    """Check that munge and the controller can be reached."""
    if seen.munge_fault is not None:
        path = munge_socket(seen.config)
        yield Finding(
            path,
            seen.munge_fault,
            "munged answers",
            "Every call between Slurm's parts, and the agents', is signed by munge.",
            "start munged",
        )
    if seen.controller_fault is not None:
        yield Finding(
            socket,
            seen.controller_fault,
            "holdfast-controller answers",
            "Without it nothing is bought, and the hooks have nobody to tell.",
            "start holdfast-controller (systemctl start holdfast-controller), or name its socket (--socket)",
        )


def running_version(config: Mapping[str, str]) -> tuple[int, int, int]:
    """Return slurmctld's version. Raises ValueError."""
    return parse_version(config.get("SLURM_VERSION", ""))


def munge_socket(config: Mapping[str, str]) -> str:
    """Return where munged listens, by AuthInfo or munge's own default."""
    found = re.search(r"(?:^|,)socket=([^,]+)", config.get("AuthInfo", ""))
    return found[1] if found else "/run/munge/munge.socket.2"


def hook_paths(config: Mapping[str, str]) -> list[str]:
    """Return the absolute paths of all hooks that the running configuration names.

    A HealthCheckProgram of the site's own is left out: it may be on the nodes only.
    """
    values: Iterable[str] = (each.strip() for key in HOOKS for each in config.get(key, "").split(",") if not _sites_own_check(key, each))
    return sorted({value for value in values if value.startswith("/")})


def _seconds(config: Mapping[str, str], key: str) -> int | None:
    found = re.match(r"\d+", config.get(key, ""))
    return int(found[0]) if found else None


def _sites_own_check(key: str, value: str) -> bool:
    return key == "HealthCheckProgram" and value.strip().rpartition("/")[2] != HOOKS[key]


def _mend_setting(setting: Setting, value: str) -> str:
    if value.lower() not in UNSET and _sites_own_check(setting.key, value):
        return f"write the hooks with `slurm-conf --install-hooks --chain health-check={value}`, then set {setting.key}={setting.want}"
    return _mend(setting.key, setting.want)


def _mend(key: str, want: str) -> str:
    step = "restart slurmctld (and slurmd)" if key in _RESTART or key in HOOKS else "`scontrol reconfigure`"
    return f"set {key}={want} in slurm.conf (the fragment of `holdfast slurm-conf` has it), then {step}, while no job configures"
