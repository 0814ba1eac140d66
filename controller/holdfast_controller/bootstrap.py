"""The user data of a launch: one cloud-config for the three clouds, out of which a machine boots into Slurm.

What is in it must be there before the agent starts, and nothing more. So there are files only (`write_files`, which cloud-init writes in
its network stage, before sysinit.target) and no commands (`runcmd` runs when all else has started): the units that use them are in the
image. It holds no secret but the launch token, since everyone on the machine can read it, and everyone who may describe the instance.

The same launch gets the same bytes, so that a launch call can be repeated: EC2 refuses a known client token with other parameters.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import get_args

from holdfast_common.errors import ConfigError

from holdfast_controller.bootstrap_config import Cloud, NodeSettings
from holdfast_controller.bootstrap_own import HEADER, read_own
from holdfast_controller.providers.tags import LAUNCH_ID

LIMIT_BYTES: Mapping[Cloud, int] = {
    "aws": 16_384,  # EC2's own, before base64
    "gcp": 262_144,  # of one metadata value
    "azure": 49_152,  # 64 KB once it is base64: its documentation does not say whether the limit counts before or after
}
MERGE = "list(append)+dict(no_replace,recurse_list)+str()"
"""How the site's part is merged with ours: lists grow, a key that we have set stays (cloud-init's documentation, "Merging user data")."""

AGENT_TOML = "/etc/holdfast/agent.toml"
MUNGE_KEY = "/etc/holdfast/munge-key"
SLURMD_DEFAULTS = "/etc/default/slurmd"
LOGIND = "/etc/systemd/logind.conf.d/holdfast.conf"
OUR_PATHS = frozenset({AGENT_TOML, MUNGE_KEY, SLURMD_DEFAULTS, LOGIND})

CONFIGLESS_CONF = "/run/slurm/conf/slurm.conf"
"""Where slurmd keeps a configuration that it has fetched, and the commands find it."""
SLURMD_COMMAND = ("systemctl", "start", "holdfast-slurmd@{node}.service")
RELEASE_COMMAND = ("systemctl", "stop", "holdfast-slurmd@*.service")

_LOGIND = """\
# The cloud announces a preemption by the power button: the machine must go on until its jobs are saved.
[Login]
HandlePowerKey=ignore
"""
_TOKEN_MAX = 200


def bootstrap(  # the launch's words, and what is the same for all launches
    settings: NodeSettings,
    cloud: Cloud,
    cluster: str,
    launch_id: str,
    launch_token: str,
    *,
    slurm_user: str = "slurm",
    own: str = "",
) -> str:
    """Return the user data of one launch; the same for the same arguments. `own` is the site's cloud-config.

    Raises ValueError for words that no launch has, and where the whole is longer than the cloud takes.
    """
    if not LAUNCH_ID.fullmatch(launch_id) or len(launch_token) > _TOKEN_MAX or not launch_token.isascii() or not launch_token.isprintable():
        raise ValueError("launch id or token is none of ours")
    words = {"holdfast": {"v": 1, "cluster": cluster, "launch_id": launch_id, "launch_token": launch_token}}
    document = {"write_files": _files(settings, cloud, cluster, slurm_user)}
    # JSON is YAML, and ASCII without line breaks inside its texts: nothing that is put in can end a text.
    ours = f"{HEADER}\n#holdfast {json.dumps(words)}\n{json.dumps(document, indent=1)}\n"
    whole = _multipart(ours, own) if own else ours
    if len(whole.encode()) > LIMIT_BYTES[cloud]:
        raise ValueError(f"user data of {len(whole.encode())} bytes; {cloud} takes {LIMIT_BYTES[cloud]}")
    return whole


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What is the same for all launches of this controller; made by `prepare`."""

    settings: NodeSettings
    cluster: str
    slurm_user: str
    own: str

    def user_data(self, cloud: Cloud, launch_id: str, launch_token: str) -> str:
        """Return the user data of one launch."""
        return bootstrap(self.settings, cloud, self.cluster, launch_id, launch_token, slurm_user=self.slurm_user, own=self.own)


def prepare(settings: NodeSettings, clouds: Iterable[str], cluster: str, slurm_user: str, where: str = "controller.toml") -> Bootstrap:
    """Read the site's cloud-config and try each cloud with the longest words a launch can have.

    Raises ConfigError with every fault: of the site's document under its own name, of the settings in `where`.
    """
    faults = []
    if not cluster[:1].isalnum():
        faults.append(f"cluster: {cluster!r}: the nodes' agents want a letter or a digit first")
    own = read_own(settings.cloud_config, OUR_PATHS) if settings.cloud_config else ""
    made = Bootstrap(settings, cluster, slurm_user, own)
    known: tuple[Cloud, ...] = get_args(Cloud)
    for cloud in (each for each in known if each in set(clouds)):
        try:
            made.user_data(cloud, "x" * 64, "x" * _TOKEN_MAX)
        except ValueError as error:
            faults.append(f"nodes: {error}; make {settings.cloud_config or 'it'} shorter")
    if faults:
        raise ConfigError(where, faults)
    return made


def _files(settings: NodeSettings, cloud: Cloud, cluster: str, slurm_user: str) -> list[dict[str, str]]:
    files = {AGENT_TOML: _agent_toml(settings, cloud, cluster, slurm_user), LOGIND: _LOGIND}
    if settings.conf_server:
        files[SLURMD_DEFAULTS] = f'SLURMD_OPTIONS="--conf-server {settings.conf_server}"\n'
    if reference := getattr(settings.munge_key, cloud):
        files[MUNGE_KEY] = f"{reference}\n"
    return [{"path": path, "owner": "root:root", "permissions": "0644", "content": content} for path, content in files.items()]


def _agent_toml(settings: NodeSettings, cloud: Cloud, cluster: str, slurm_user: str) -> str:
    keys: dict[str, str | float | bool | Sequence[str]] = {
        "controller": settings.controller,
        "cluster": cluster,
        "cloud": cloud,
        "controller_user": slurm_user,
        "slurmd_command": SLURMD_COMMAND,
        "release_command": RELEASE_COMMAND,
        **({"slurm_conf": CONFIGLESS_CONF} if settings.conf_server else {}),
        **settings.agent.given(),
    }
    # A JSON text of printable ASCII, a number and a list of them are written the same in TOML.
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())


def _multipart(ours: str, own: str) -> str:
    """Return both documents as one MIME message, ours first and unencoded: the agent looks for its line in it."""
    whole = MIMEMultipart(boundary=f"holdfast-{hashlib.sha256((ours + own).encode()).hexdigest()[:32]}")
    whole.attach(MIMEText(ours, "cloud-config", "us-ascii"))
    part = MIMEText(own, "cloud-config", "us-ascii" if own.isascii() else "utf-8")
    part["X-Merge-Type"] = MERGE
    whole.attach(part)
    return whole.as_string()
