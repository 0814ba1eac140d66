"""`[nodes]` of the controller's settings: what a machine is told when it is launched, so that it boots into this cluster's Slurm.

Where the table is missing, a launch carries its own words only, and all else is in the machines' image.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from holdfast_common.settings import HostPort, Path_, Section, worded
from pydantic import AfterValidator, Field

Cloud = Literal["aws", "gcp", "azure"]

_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
_PORT = r"[0-9]{1,5}"
_WILDCARDS = ("0.0.0.0", "[::]")  # noqa: S104


def _reachable(value: str) -> str:
    host, _, port = value.rpartition(":")
    if host in _WILDCARDS:
        raise ValueError("is no address that a node can reach: name the host")
    if not 1 <= int(port) <= 65535:
        raise ValueError("has no port from 1 to 65535")
    return value


Address = Annotated[str, worded(rf"(?:{_HOST}|\[[0-9A-Fa-f:]{{2,45}}\]):{_PORT}", "write host:port"), AfterValidator(_reachable)]
Servers = Annotated[
    str, worded(rf"(?:{_HOST}(?::{_PORT})?(?:,{_HOST}(?::{_PORT})?){{0,7}})?", "write host or host:port, several with commas between")
]
AwsSecret = Annotated[
    str,
    worded(
        r"(?:arn:aws(?:-cn|-us-gov)?:secretsmanager:[a-z0-9-]{1,32}:[0-9]{12}:secret:[A-Za-z0-9/_+=.@-]{1,519})?",
        "write the ARN of a secret in Secrets Manager: arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME",
    ),
]
GcpSecret = Annotated[
    str,
    worded(
        r"(?:projects/[a-z0-9.:-]{1,64}/secrets/[A-Za-z0-9_-]{1,255}/versions/(?:latest|[0-9]{1,10}))?",
        "write projects/PROJECT/secrets/NAME/versions/latest",
    ),
]
AzureSecret = Annotated[
    str,
    worded(
        r"(?:https://[A-Za-z0-9-]{3,24}\.vault\.(?:azure\.net|azure\.cn|usgovcloudapi\.net)/secrets/[A-Za-z0-9-]{1,127}(?:/[0-9a-f]{32})?)?",
        "write https://VAULT.vault.azure.net/secrets/NAME",
    ),
]


class MungeKeys(Section):
    """Where a machine of each cloud fetches the cluster's munge key, by its own role; empty: the key is in its image."""

    aws: AwsSecret = ""
    gcp: GcpSecret = ""
    azure: AzureSecret = ""


class AgentSettings(Section):
    """Further keys of the nodes' `agent.toml`; what is not set is left to the agent. Times in seconds."""

    poll_s: Annotated[float, Field(ge=0.05, le=60)] | None = None
    patience_s: Annotated[float, Field(ge=0.05, le=60)] | None = None
    margin_s: Annotated[float, Field(ge=0, le=60)] | None = None
    kill_wait_s: Annotated[float, Field(ge=0, le=600)] | None = None
    orphan_shutdown_s: Annotated[float, Field(ge=0, le=604_800)] | None = None
    log_level: Literal["debug", "info", "warning", "error"] | None = None
    gpu_health: bool | None = None
    nvml_library: Annotated[str, worded(r"|/[^\x00-\x1f]{0,1000}", "write an absolute path")] | None = None
    watched_paths: Annotated[tuple[Path_, ...], Field(strict=False, max_length=64)] | None = None
    checkpoint_mounts: Annotated[tuple[Path_, ...], Field(strict=False, max_length=64)] | None = None
    quick_check_s: Annotated[float, Field(ge=1, le=600)] | None = None
    metrics_listen: HostPort | None = None
    metrics_dcgm_names: bool | None = None

    def given(self) -> Mapping[str, float | str | bool | list[str]]:
        """Return what is set."""
        return self.model_dump(exclude_none=True, mode="json")


class NodeSettings(Section):
    """What the machines are told at their launch."""

    controller: Address
    """host:port at which their agents reach us."""
    conf_server: Servers = ""
    """slurmctld, from which slurmd fetches its configuration (`--conf-server`); empty: slurm.conf is in the image."""
    cloud_config: Annotated[Path_, Field(min_length=1)] | None = None
    """A `#cloud-config` document of the site's own, merged after ours."""
    munge_key: MungeKeys = MungeKeys()
    agent: AgentSettings = AgentSettings()
