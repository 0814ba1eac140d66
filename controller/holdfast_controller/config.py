"""The controller's settings: one TOML file, checked as a whole, every fault reported at once.

What decides over jobs and money is not here but in the policy (`holdfast_common.policy`). Nothing secret stands in this file: the clouds'
credentials come from the environment or the machine's own role.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from holdfast_common.channel import check_bind
from holdfast_common.errors import ConfigError
from holdfast_common.munge import DEFAULT_SOCKET
from holdfast_common.settings import HostPort, Name, Path_, Section, faults_of, parse_toml, read_text, table, validated, worded
from pydantic import Field, ValidationError

from holdfast_controller.bootstrap_config import NodeSettings
from holdfast_controller.config_clouds import Providers, cloud_faults
from holdfast_controller.providers.aws_config import AwsConfig

Interval = Annotated[float, Field(ge=0.01, le=3600)]
"""Seconds."""
Cluster = Annotated[str, worded(r"[a-z0-9-]{1,40}", "write 1 to 40 of a-z, 0-9 and -: it is tagged on every instance")]


class SlurmSettings(Section):
    """How slurmctld is reached."""

    conf: Path_ = "/etc/slurm/slurm.conf"
    bin_dir: Path_ = "/usr/bin"
    """Where scontrol and squeue are."""
    timeout_s: Interval = 10.0
    """Of one command."""
    user: Name = "slurm"
    """SlurmUser: besides root the only one whose calls are answered."""


class Listen(Section):
    """Where hooks, the CLI and agents find the controller."""

    socket: Path_ = "/run/holdfast/controller.sock"
    group: Annotated[str, worded(r"[A-Za-z0-9_.-]{0,32}", "write a group's name")] = ""
    """The admin group, which may open the socket as SlurmUser may; empty: none."""
    tcp: str = "127.0.0.1:7420"
    """host:port for agents."""
    allow_remote_without_tls: bool = False
    """Listen where other hosts can reach us although nothing protects the connection."""


class Auth(Section):
    """How callers over TCP are known."""

    munge_socket: Path_ = DEFAULT_SOCKET


class Timing(Section):
    """How often the controller looks, in seconds."""

    watch_idle_s: Interval = 2.0
    """At Slurm, while nothing is under way."""
    watch_busy_s: Interval = 0.1
    """At Slurm, while a node or a job is on its way."""
    cloud_poll_s: Interval = 10.0
    """At the clouds' lists, while nothing is under way."""
    cloud_poll_busy_s: Interval = 2.0
    """At the clouds' lists, while an instance comes or goes."""
    agent_heartbeat_s: Interval = 5.0
    agent_lost_s: Interval = 20.0
    """An agent that has been silent for so long is taken for gone."""


class Metrics(Section):
    """What Prometheus reads."""

    listen: HostPort = ""
    """host:port of `/metrics`, and of `/sd`, where it finds the agents (`http_sd_configs`); empty: not served. Anyone who reaches it may
    read it: node and pool names, prices, counts."""
    file_sd: Annotated[str, worded(r"|/[^\x00-\x1f]{0,1000}", "write an absolute path")] = ""
    """A file that is kept with the same targets, for `file_sd_configs`; empty: none."""


class ControllerConfig(Section):
    """The whole file."""

    cluster: Cluster
    """Tagged on every instance; two clusters in one account need two names."""
    state_dir: Path_
    """Where the journal is kept: on a disk that survives a reboot."""
    policy: Path_
    """The policy file. It is the truth; `holdfast policy set` replaces it, so SlurmUser must be able to write to its folder."""
    health_rules: Annotated[str, worded(r"|/[^\x00-\x1f]{0,1000}", "write an absolute path")] = ""
    """By which nodes' agents judge their health; empty: the table that Holdfast brings. `holdfast health rules --set` replaces it."""
    slurm: SlurmSettings = SlurmSettings()
    listen: Listen = Listen()
    auth: Auth = Auth()
    timing: Timing = Timing()
    metrics: Metrics = Metrics()
    providers: Providers = Providers()
    nodes: NodeSettings | None = None
    """What machines are told at their launch; without it, all but their launch's own words is in their image."""


def load_config(path: str | Path) -> ControllerConfig:
    """Return the settings. Raises ConfigError with every fault: file, TOML path, value, what is allowed, what was probably meant."""
    where = str(path)
    config = validated(ControllerConfig, parse_toml(read_text(path), where), where, _cross_faults)
    try:
        if config.providers.aws:
            config.providers.aws.with_cluster(config.cluster)
    except ValidationError as error:  # the provider's own demands, such as a region's form
        raise ConfigError(where, [f"providers.aws.{fault}" for fault in faults_of(error, AwsConfig)]) from error
    return config


def _cross_faults(data: Mapping[str, Any]) -> Iterator[str]:
    listen = table(data, "listen")
    address, remote = listen.get("tcp", "127.0.0.1:7420"), listen.get("allow_remote_without_tls", False)
    if isinstance(address, str) and isinstance(remote, bool):
        try:
            check_bind(address, remote)
        except ConfigError as error:
            yield from (f"listen.tcp: {address!r}: {fault}" for fault in error.faults)
    yield from _timing_faults(table(data, "timing"))
    yield from cloud_faults(data)


def _timing_faults(timing: Mapping[str, Any]) -> Iterator[str]:
    for smaller, larger in (("watch_busy_s", "watch_idle_s"), ("cloud_poll_busy_s", "cloud_poll_s")):
        yield from _ordered(timing, smaller, larger, 1)
    yield from _ordered(timing, "agent_heartbeat_s", "agent_lost_s", 2)


def _ordered(timing: Mapping[str, Any], smaller: str, larger: str, times: int) -> Iterator[str]:
    low, high = (timing.get(key, Timing.model_fields[key].default) for key in (smaller, larger))
    if isinstance(low, int | float) and isinstance(high, int | float) and low * times > high:
        needed = f"{times} times " if times > 1 else ""
        yield f"timing.{larger}: {high!r} is less than {needed}timing.{smaller} ({low!r})"
