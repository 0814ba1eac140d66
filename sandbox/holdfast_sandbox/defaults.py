"""Holdfast's own hooks, agent and controller, as the sandbox starts them unless it is told otherwise."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from holdfast_sandbox.cluster_config import AgentSpec, ControllerSpec, Site
from holdfast_sandbox.components import NODE_SCRIPTS
from holdfast_sandbox.layout import PARTITION, RUN_HOLDFAST
from holdfast_sandbox.nvml.library import build
from holdfast_sandbox.provider_tables import provider_tables
from holdfast_sandbox.zones import zones_of

CLUSTER = "sandbox"

_CONTROLLER = """\
cluster = {cluster}
state_dir = {state}
policy = {policy}
{rules}
[slurm]
conf = {slurm_conf}
bin_dir = {bin_dir}
user = "root"

[listen]
socket = {socket}
tcp = "127.0.0.1:{port}"

[auth]
munge_socket = {munge}

[timing]
cloud_poll_s = 2.0
cloud_poll_busy_s = 0.5

{providers}"""

_AGENT = """\
controller = "127.0.0.1:{port}"
cluster = {cluster}
metadata_url = "@METADATA_URL@"
munge_socket = {munge}
controller_user = "root"
run_dir = {run_dir}
slurmd_command = [{start}, "{{node}}"]
release_command = [{stop}]
slurm_conf = {slurm_conf}
bin_dir = {bin_dir}
poll_s = 0.2
orphan_shutdown_s = 0
boot_id_path = "@INSTANCE_DIR@/boot_id"
kernel_log = "@INSTANCE_DIR@/kmsg"
"""

_AGENT_GPUS = """\
nvml_library = {library}
metrics_listen = "@INSTANCE_IP@:0"
"""

_METRICS = """\

[metrics]
listen = "127.0.0.1:{port}"
"""


def default_hooks(
    directory: Path, *, python: Path, controller_socket: Path, run_dir: Path, bin_dir: Path, slurm_conf: Path, nodes: str
) -> None:
    """Write Holdfast's hooks. Raises OSError, ConfigError."""
    from holdfast_slurm.hooks.install import write_wrappers

    write_wrappers(
        directory,
        python=python,
        controller_socket=controller_socket,
        run_dir=run_dir,
        bin_dir=bin_dir,
        slurm_conf=slurm_conf,
        nodes=nodes,
    )


def default_agent() -> AgentSpec:
    """Return how the node agent is started and configured. Where machines have GPUs, their NVML is compiled for it (BuildError)."""
    return AgentSpec(("{python}", "-m", "holdfast_nodeagent", "--config", "agent.toml"), _agent_template)


def default_controller(*, policy: Callable[[Site], str] | None = None, env: Mapping[str, str] | None = None) -> ControllerSpec:
    """Return how the controller is started; `policy` makes the text of etc/policy.toml where `default_policy` does not do."""

    def files(site: Site) -> dict[str, str]:
        return {"controller.toml": _controller_config(site), "policy.toml": (policy or default_policy)(site), **_health_rules(site)}

    command = ("{python}", "-m", "holdfast_controller", "--config", "{config}")
    return ControllerSpec(command, files, dict(env or {}))


def default_policy(site: Site, **launch: float) -> str:
    """Return a policy with one spot pool for each zone, in the zones' order; `launch` are more keys of the partition's table."""
    zones = zones_of(site.config)
    pools = [
        f'[pools.{zone.name}]\nprovider = "{zone.provider}"\nregion = "{zone.region}"\nzone = "{zone.own_name}"\n'
        f'instance_type = "{zone.instance_type}"\nmarket = "spot"\n'
        for zone in zones
    ]
    patience = {"registration_timeout_s": site.config.resume_timeout_s * 0.75, **launch}
    group = f'[node_groups.sim]\nnodes = "{PARTITION}-[1-{site.config.nodes}]"\ncpus = {site.config.cpus_per_node}\n'
    if site.config.gpu_profile:
        group += f"gpus = {site.config.gpus}\n"
    partition = (
        f'[partitions.{PARTITION}]\nnode_groups = ["sim"]\npools = {json.dumps([zone.name for zone in zones])}\n'
        f"launch = {{ {', '.join(f'{key} = {value:g}' for key, value in patience.items())} }}\n"
    )
    return "\n".join(["version = 1\n", *pools, group, partition])


def _health_rules(site: Site) -> dict[str, str]:
    if not site.config.gpu_profile:
        return {}
    from holdfast_common.health.rules import default_toml  # no start of a sandbox waits for it

    return {site.layout.health_rules.name: default_toml()}


def _controller_config(site: Site) -> str:
    metrics = _METRICS.format(port=site.ports.metrics) if site.config.gpu_profile else ""
    text = _CONTROLLER.format(
        cluster=_quoted(CLUSTER),
        state=_quoted(site.layout.controller_state),
        policy=_quoted(site.layout.etc / "policy.toml"),
        rules=f"health_rules = {_quoted(site.layout.health_rules)}\n" if site.config.gpu_profile else "",
        slurm_conf=_quoted(site.layout.slurm_conf),
        bin_dir=_quoted(site.bin_dir),
        socket=_quoted(site.layout.controller_socket),
        port=site.ports.controller,
        munge=_quoted(site.layout.munge_socket),
        providers=provider_tables(site),
    )
    return text + metrics


def _agent_template(site: Site) -> str:
    text = _AGENT.format(
        port=site.ports.controller,
        cluster=_quoted(CLUSTER),
        munge=_quoted(site.layout.munge_socket),
        run_dir=_quoted(RUN_HOLDFAST),
        start=_quoted(NODE_SCRIPTS / "start_slurmd.sh"),
        stop=_quoted(NODE_SCRIPTS / "stop_slurmd.sh"),
        slurm_conf=_quoted(site.layout.slurm_conf),
        bin_dir=_quoted(site.bin_dir),
    )
    return text + _AGENT_GPUS.format(library=_quoted(build(site.layout.nvml))) if site.config.gpu_profile else text


def _quoted(value: object) -> str:
    """Return a TOML string (JSON's strings are TOML's)."""
    return json.dumps(str(value))
