"""The daemons of a sandbox: command lines, environments and the simulated cloud's configuration."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast_sandbox.cluster_config import REGION, AgentSpec, Site
from holdfast_sandbox.component import ComponentSpec
from holdfast_sandbox.layout import LOCAL_NODE
from holdfast_sandbox.zones import SandboxZone, market_of, zones_of

MUNGED = "munged"
SLURMCTLD = "slurmctld"
CLOUD = "cloud"
CONTROLLER = "controller"
LOCAL_SLURMD = "local-slurmd"

NODE_SCRIPTS = Path(__file__).parent / "node_scripts"
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def cloud_environment(site: Site) -> dict[str, str]:
    """Return what makes AWS's clients find the simulated cloud, and never a real one."""
    return {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ACCESS_KEY_ID": "sandbox",
        "AWS_SECRET_ACCESS_KEY": "sandbox",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": site.cloud_url,
        "NO_GCE_CHECK": "true",
    }


def daemon_environment(site: Site) -> dict[str, str]:
    """Return the whole environment of our daemons: nothing of the starting shell leaks into it."""
    return {
        "PATH": f"{site.python.parent}:{site.bin_dir}:{_SYSTEM_PATH}",
        "HOME": str(site.layout.root),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "SLURM_CONF": str(site.layout.slurm_conf),
        "HOLDFAST_SANDBOX_DIR": str(site.layout.root),
        **cloud_environment(site),
    }


def instance_environment(site: Site, agent: AgentSpec) -> dict[str, str]:
    """Return what `init.sh` needs beside what the cloud tells it of the instance."""
    words = [_fill(word, site) for word in agent.command]
    if faulty := [word for word in words if any(c.isspace() for c in word)]:
        raise ValueError(f"the agent's command line must not hold a space within a word: {faulty}")
    return {
        **daemon_environment(site),
        "HOLDFAST_SANDBOX_ETC": str(site.layout.etc),
        "HOLDFAST_SANDBOX_AGENT": " ".join(words),
        "HOLDFAST_SANDBOX_PYTHON": str(site.python),
        "HOLDFAST_SANDBOX_GPU_PROFILE": site.config.gpu_profile,
        "HOLDFAST_SANDBOX_SPOILT": str(site.layout.spoilt),
    }


def instance_command() -> list[str]:
    """Return what runs as an instance's init, in namespaces that the simulated cloud has made."""
    return ["/bin/sh", str(NODE_SCRIPTS / "init.sh")]


def cloud_config(site: Site, agent: AgentSpec) -> dict[str, object]:
    """Return the simulated cloud's configuration (`cloud_config.CloudConfig`)."""
    config = site.config
    capacity = config.nodes if config.zone_capacity is None else config.zone_capacity
    shape = {"vcpus": config.cpus_per_node, "memory_mib": config.memory_mb_per_node}
    if config.gpus:
        shape["gpu_count"] = config.gpus
    zones = zones_of(config)
    return {
        "state_dir": str(site.layout.cloud),
        "ready_file": str(site.layout.cloud_ready),
        "port": site.ports.cloud,
        "instance_types": {zone.instance_type: shape for zone in zones},
        "boot_delay_s": config.boot_delay_s,
        "notice_s": config.notice_s,
        "instance_command": instance_command(),
        "instance_env": instance_environment(site, agent),
        **(_fixed(zones, capacity) if config.trace is None else _followed(site)),
        **config.cloud_overrides,
    }


def _fixed(zones: Sequence[SandboxZone], capacity: int) -> dict[str, object]:
    return {
        "zones": [
            {
                "name": zone.name,
                "region": zone.region,
                "provider": zone.provider,
                "capacity": {zone.instance_type: capacity},
                "spot_price_usd_h": zone.spot_usd_h,
                "on_demand_usd_h": zone.on_demand_usd_h,
            }
            for zone in zones
        ]
    }


def _followed(site: Site) -> dict[str, object]:
    config = site.config
    return {
        "trace": {
            "path": str(site.layout.market),
            "speed": config.trace_speed,
            "start_step": config.trace_start,
            "lead_s": config.trace_lead_s,
            "instances_per_unit": config.trace_units,
        }
    }


def component_specs(site: Site) -> list[ComponentSpec]:
    """Return the sandbox's daemons in the order of their start. Raises FileNotFoundError where a program is missing."""
    found = [_munged(site), _slurmctld(site)]
    if site.config.cloud:
        argv = [str(site.python), "-m", "holdfast_sandbox.cloud", "--config", str(site.layout.etc / "cloud.json")]
        found.append(_spec(site, CLOUD, argv))
    if site.config.controller is not None:
        controller = site.config.controller
        argv = [_fill(word, site) for word in controller.command]
        found.append(_spec(site, CONTROLLER, argv, {**daemon_environment(site), **controller.env}))
    return [*found, _local_slurmd(site)]


def system_binary(name: str) -> str:
    """Return the path of a program of Slurm or munge. Raises FileNotFoundError that says how to install it."""
    path = shutil.which(name, path=_SYSTEM_PATH)
    if path is None:
        raise FileNotFoundError(f"{name} is not installed; scripts/setup installs Debian's Slurm and munge")
    return path


def _munged(site: Site) -> ComponentSpec:
    munge, sockets = site.layout.munge, site.layout.sockets
    argv = [system_binary("munged"), "--foreground", "--force", "--num-threads=2"]
    argv += [f"--key-file={munge}/munge.key", f"--seed-file={munge}/seed"]
    argv += [f"--socket={site.layout.munge_socket}", f"--pid-file={sockets}/munged.pid"]
    return _spec(site, MUNGED, argv)


def _slurmctld(site: Site) -> ComponentSpec:
    argv = [system_binary("slurmctld"), "-D", "-f", str(site.layout.slurm_conf)]
    return _spec(site, SLURMCTLD, argv, log_name="slurmctld.out", pid_file=site.layout.sockets / "slurmctld.pid")


def _local_slurmd(site: Site) -> ComponentSpec:
    # In a UTS namespace of its own, since slurmd tells jobs the machine's host name.
    start = 'hostname "$1" && exec "$2" -D -f "$3" -N "$1"'
    argv = ["unshare", "--uts", "--", "/bin/sh", "-c", start, "sh", LOCAL_NODE, system_binary("slurmd")]
    return _spec(site, LOCAL_SLURMD, [*argv, str(site.layout.slurm_conf)], log_name="local-slurmd.out")


def write_cloud_config(site: Site, agent: AgentSpec) -> None:
    """Write etc/cloud.json, and the market that it follows. Raises OSError, ValueError."""
    if site.config.trace is not None:
        market = market_of(site.config, zones_of(site.config))
        site.layout.market.write_text(json.dumps(market), encoding="utf-8")
    text = json.dumps(cloud_config(site, agent), indent=2)
    (site.layout.etc / "cloud.json").write_text(text, encoding="utf-8")


def _spec(
    site: Site,
    name: str,
    argv: list[str] | tuple[str, ...],
    env: Mapping[str, str] | None = None,
    *,
    log_name: str | None = None,
    pid_file: Path | None = None,
) -> ComponentSpec:
    log = site.layout.log / (log_name or f"{name}.log")
    return ComponentSpec(name, tuple(argv), log, dict(env or daemon_environment(site)), pid_file)


def _fill(word: str, site: Site) -> str:
    return (
        word.replace("{config}", str(site.layout.controller_config))
        .replace("{python}", str(site.python))
        .replace("{node_scripts}", str(NODE_SCRIPTS))
        .replace("{root}", str(site.layout.root))
    )
