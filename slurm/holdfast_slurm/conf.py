"""The slurm.conf and gres.conf fragment that Holdfast needs, each line with its reason (`conf_reasons.toml`).

Pure: settings in, text out.
"""

import re
import textwrap
import tomllib
from functools import cache
from importlib import resources

from holdfast_slurm.conf_settings import HOOKS, Check, NodeGroup, Setting, SlurmSettings


def required_settings(settings: SlurmSettings) -> tuple[Setting, ...]:
    """Return every demand on slurm.conf, in the order of the fragment."""
    rows: list[tuple[str, object, Check]] = [
        ("JobRequeue", 1, "equal"),
        ("JobFileAppend", 1, "equal"),
        ("KillWait", settings.kill_wait_s, "equal"),
        ("MinJobAge", 300, "at_least"),
        ("SchedulerParameters", ",".join(_scheduler_words(settings)), "contains"),
        ("AuthInfo", ",".join(_auth_words(settings)), "contains"),
        ("SlurmctldParameters", ",".join(_slurmctld_words(settings)), "contains"),
        ("ResumeRate", 0, "equal"),
        ("SuspendRate", 0, "equal"),
        ("ResumeTimeout", settings.resume_timeout_s, "at_least"),
        ("SuspendTimeout", settings.suspend_timeout_s, "at_least"),
        ("PrivateData", "cloud" if settings.version < (23, 2) else "", "contains"),
        *((key, settings.hooks_dir / name, "equal") for key, name in HOOKS.items()),
        ("HealthCheckInterval", 60, "positive"),
        ("HealthCheckNodeState", "ANY", "contains"),
        ("PrologFlags", "Alloc", "contains"),
        ("PrologEpilogTimeout", settings.resume_timeout_s, "unset_or_at_least"),
        ("MessageTimeout", settings.message_timeout_s, "equal"),
        ("SlurmdTimeout", settings.slurmd_timeout_s, "at_least"),
        ("ReturnToService", 2, "equal"),
        ("TreeWidth", 65533, "equal"),
        ("SlurmdParameters", "config_overrides" if settings.sandbox else "", "contains"),
    ]
    return tuple(
        Setting(key, str(want), check, _why(key, settings), key.startswith("HealthCheck")) for key, want, check in rows if str(want)
    )


def render_slurm_conf(settings: SlurmSettings) -> str:
    """Return the fragment for slurm.conf (to be included at its end), ending in a newline."""
    year, month, patch = settings.version
    title = f"Holdfast on Slurm {year}.{month:02d}.{patch}, by `holdfast slurm-conf`. Include it at the end of slurm.conf."
    blocks = [_comment(title)]
    for setting in required_settings(settings):
        if setting.check == "unset_or_at_least":
            blocks.append(_comment(f"{setting.key}: leave it unset, or at {setting.want} or more. {setting.why}"))
        else:
            blocks.append(f"{_comment(setting.why)}\n{setting.key}={setting.want}")
    if settings.has_gpus:
        types = sorted({group.gres.split(":", 1)[0] for group in settings.node_groups if group.gres})
        blocks.append(f"{_comment(_why('GresTypes', settings))}\nGresTypes={','.join(types)}")
    blocks.append("\n".join([_comment(_why("nodes", settings)), *map(_node_line, settings.node_groups)]))
    blocks.append(f"{_comment(_why('partition', settings))}\n{_partition_line(settings)}")
    return "\n\n".join(blocks) + "\n"


def render_gres_conf(settings: SlurmSettings) -> str:
    """Return the fragment for gres.conf; empty where no node group has GRES."""
    lines = [_gres_line(group) for group in settings.node_groups if group.gres]
    return "\n".join([_comment(_why("gres", settings)), *lines]) + "\n" if lines else ""


def parse_version(text: str) -> tuple[int, int, int]:
    """Return the version that `scontrol -V` prints (`slurm-wlm 22.05.8`). Raises ValueError where there is none."""
    found = re.search(r"\b(\d{2})\.(\d{2})\.(\d{1,3})", text)
    if found is None:
        raise ValueError(f"no Slurm version in {text[:80]!r}")
    return int(found[1]), int(found[2]), int(found[3])


def _scheduler_words(settings: SlurmSettings) -> list[str]:
    words = ["sched_interval=1", "bf_interval=1", "sched_min_interval=0", "batch_sched_delay=0"]
    return [*words, "requeue_delay=0"] if settings.has_requeue_delay else words


def _auth_words(settings: SlurmSettings) -> list[str]:
    words = [] if settings.munge_socket is None else [f"socket={settings.munge_socket}"]
    return words if settings.has_requeue_delay else [*words, f"cred_expire={settings.cred_expire_s}"]


def _slurmctld_words(settings: SlurmSettings) -> list[str]:
    words = ["idle_on_node_suspend", "power_save_interval=1", "power_save_min_interval=0"]
    return [*words, *(["cloud_dns"] if settings.cloud_dns else []), *(["enable_configless"] if settings.configless else [])]


def _why(key: str, settings: SlurmSettings) -> str:
    keys = [key]
    if key == "SchedulerParameters" and settings.has_requeue_delay:
        keys.append("requeue_delay")
    if key == "AuthInfo" and not settings.has_requeue_delay:
        keys = ["cred_expire"]
    if key == "SlurmctldParameters":
        keys += [word for word, asked in (("cloud_dns", settings.cloud_dns), ("enable_configless", settings.configless)) if asked]
    text = " ".join(_reasons()[each] for each in keys)
    return " ".join(text.format(kill_wait_s=settings.kill_wait_s, least_suspend_timeout_s=settings.least_suspend_timeout_s).split())


@cache
def _reasons() -> dict[str, str]:
    text = resources.files("holdfast_slurm").joinpath("conf_reasons.toml").read_text(encoding="utf-8")
    return {key: str(value) for key, value in tomllib.loads(text).items()}


def _node_line(group: NodeGroup) -> str:
    words = [f"NodeName={group.nodes}", f"CPUs={group.cpus}", f"RealMemory={group.memory_mb}", f"Weight={group.weight}"]
    words.append("State=CLOUD")
    if group.gres:
        words.append(f"Gres={group.gres}")
    if group.first_port is not None:
        last = group.first_port + group.count - 1
        words.append(f"Port={group.first_port}-{last}" if group.count > 1 else f"Port={group.first_port}")
    return " ".join(words)


def _partition_line(settings: SlurmSettings) -> str:
    nodes = ",".join(group.nodes for group in settings.node_groups)
    return (
        f"PartitionName={settings.partition} Nodes={nodes} State=UP"
        f" OverSubscribe={settings.oversubscribe} SuspendTime={settings.suspend_time_s}"
    )


def _gres_line(group: NodeGroup) -> str:
    name, *model, count = group.gres.split(":")
    kind = f" Type={model[0]}" if model else ""
    found = f"AutoDetect=off Name={name}{kind} Count={count} File={group.gres_files}"
    if not group.gres_files:
        found = f"AutoDetect=nvml Name={name}{kind} Count={count}"
    return f"NodeName={group.nodes} {found}"


def _comment(text: str) -> str:
    return "\n".join(f"# {line}" for line in textwrap.wrap(text, 118))
