"""AWS ParallelCluster's ResumeProgram (`slurm_plugin.resume`) on the same slurmctld and the same simulated EC2: nothing of it is replaced.

What it finds other than on its own head node, all by settings and files that it reads itself: EC2 and DynamoDB are found by boto3's
AWS_ENDPOINT_URL; no DNS zone is set, so that it writes no Route 53 records; job_level_scaling is off where slurmctld's resume file does
not say which nodes are to be resumed (before 23.02); the heartbeat file of its daemon is fresh; `sudo` runs the command as it is.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.cluster_config import INSTANCE_TYPE, REGION, SandboxConfig
from holdfast_sandbox.record import read_record
from holdfast_slurm.conf_settings import HOOKS

from bench.launch_types import Launch, Setting, check_addresses, hook_began
from bench.peer_install import VERSION, python
from bench.requests import TIMED
from bench.tables_service import table_service

APIS = ("run-instances", "create-fleet")
"""How it launches: the former where its cluster's configuration names one instance type, the latter where it names a list."""
QUEUE, RESOURCE, CLUSTER = "queue1", "sim", "pc"
ZONE = f"{REGION}a"
IMAGE = "ami-0123456789abcdef0"
SIDES = {f"ParallelCluster {VERSION}, {api}": api for api in APIS}
SETTINGS = {
    "update_node_address": "true",
    "use_private_hostname": "false",
    "job_level_scaling": "false",
    "scaling_strategy": "all-or-nothing",
    "launch_max_batch_size": "500",
    "assign_node_max_batch_size": "500",
    "boto3_retry": "1",
}
"""Its own defaults, but for job_level_scaling."""
_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) - \d+ - \[[^]]*\] - [A-Z]+ - (.*)")
_HOOK = """\
#!/bin/sh
export PATH={folder}/bin:/usr/bin:/bin HOME={folder} CONFIG_FILE={folder}/resume.conf SLURM_BINARIES_DIR={bin_dir} SLURM_CONF={conf}
. {folder}/environment
# It logs to /var/log/parallelcluster, whatever it is told.
exec unshare --mount /bin/sh -c 'mount --bind {folder}/log /var/log && exec "$0" -m slurm_plugin.resume "$@"' {python} "$@"
"""


def launch(directory: Path, setting: Setting, nodes: int, side: str) -> Launch:
    """Make one request. Raises as Sandbox does, TimeoutError, ValueError where the launcher failed, FileNotFoundError without it."""
    directory.mkdir()
    folder = directory / "pc"
    (folder / "log" / "parallelcluster").mkdir(parents=True)
    names = f"{QUEUE}-dy-{RESOURCE}-[1-{nodes}]"
    own = f"NodeName={names} CPUs=4 RealMemory=4000 State=CLOUD\nPartitionName={QUEUE} Nodes={names} MaxTime=INFINITE State=UP"
    config = SandboxConfig(
        nodes=1,
        zones=1,
        zone_capacity=nodes,
        boot_delay_s=0.0,
        resume_timeout_s=1200,
        extra_slurm_conf=own,
        write_hooks=lambda hooks, **paths: _write_hooks(hooks, folder, paths),
        cloud_overrides=setting.cloud(),
    )
    with table_service(setting.table_latency_s) as tables, Sandbox(directory / "s", config) as sandbox:
        sandbox.cloud.fail_boot()
        _configure(folder, sandbox, tables, SIDES[side])
        sandbox.slurm.submit("-p", QUEUE, "--exclusive", f"--nodes={nodes}", "-o", "/dev/null", "--wrap", "sleep 1")
        began = hook_began(sandbox.layout.hooks / "resume.log")
        lines = log_lines((folder / "log" / "parallelcluster" / "slurm_resume.log").read_text(encoding="utf-8"))
        phases = phases_of(lines, began)
        check_addresses(sandbox, nodes)
        throttled = sum(line["event"] == "throttled" for line in read_record(sandbox.layout.cloud / "cloud.jsonl"))
    ids, addresses = (max(at for at, text in lines if text.startswith(words)) - began for words in (LAUNCHED, CONFIGURED))
    return Launch(side, setting.name, nodes, ids, addresses, phases, throttled)


STARTED, LOOKED, LAUNCHING = "ResumeProgram startup", "Current state of Slurm nodes", "Launching all-or-nothing"
LAUNCHED, SAVING, DNS, CONFIGURED = (
    "Launched the following",
    "Saving assigned hostnames",
    "Updating DNS records",
    "Nodes are now configured",
)


def log_lines(text: str) -> list[tuple[float, str]]:
    """Return the launcher's log: Unix seconds and text; continuation lines (tracebacks) are left out."""
    found = (_LINE.match(line) for line in text.splitlines())
    return [(datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S,%f").timestamp(), match[2]) for match in found if match]


def phases_of(lines: Sequence[tuple[float, str]], began: float) -> dict[str, float]:
    """Return what its time went into. Raises ValueError where it did not get to the end."""
    at = {
        words: [moment for moment, text in lines if text.startswith(words)] for words in (STARTED, LOOKED, LAUNCHING, LAUNCHED, CONFIGURED)
    }
    if not all(at.values()):
        raise ValueError(f"ParallelCluster's launcher failed: {lines[-1][1][:500] if lines else 'no log'}")
    phases = {
        "start (Python, imports)": at[STARTED][0] - began,
        "look at Slurm": at[LOOKED][0] - at[STARTED][0],
        "boto3 clients": at[LAUNCHING][0] - at[LOOKED][0],
        "launch calls": at[LAUNCHED][-1] - at[LAUNCHING][0],
        "DynamoDB": 0.0,
        "addresses (scontrol)": 0.0,
    }
    before = at[LAUNCHED][-1]
    for moment, text in lines:
        if text.startswith(DNS) and moment >= before:
            phases["DynamoDB"] += moment - before
            before = moment
        elif text.startswith(CONFIGURED):
            phases["addresses (scontrol)"] += moment - before
            before = moment
    return phases


def _configure(folder: Path, sandbox: Sandbox, tables: str, api: str) -> None:
    section = {
        "cluster_name": CLUSTER,
        "region": REGION,
        "dynamodb_table": f"parallelcluster-slurm-{CLUSTER}",
        "head_node_private_ip": "127.0.0.1",
        "head_node_hostname": "localhost",
        "clustermgtd_heartbeat_file_path": str(folder / "heartbeat"),
        "fleet_config_file": str(folder / "fleet.json"),
        **SETTINGS,
    }
    text = "[slurm_resume]\n" + "".join(f"{key} = {value}\n" for key, value in section.items())
    (folder / "resume.conf").write_text(text, encoding="utf-8")
    (folder / "heartbeat").write_text(datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f%z") + "\n", encoding="ascii")
    pool: dict[str, Any] = {"Api": api, "CapacityType": "spot", "Instances": [{"InstanceType": INSTANCE_TYPE}]}
    pool |= {"AllocationStrategy": "price-capacity-optimized", "Networking": {"SubnetIds": [f"subnet-{ZONE}"]}}
    (folder / "fleet.json").write_text(json.dumps({QUEUE: {RESOURCE: pool}}), encoding="utf-8")
    environment = {key: value for key, value in sandbox.env.items() if key.startswith("AWS_")}
    environment["AWS_ENDPOINT_URL_DYNAMODB"] = tables
    exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in environment.items())
    (folder / "environment").write_text(exports, encoding="utf-8")
    _make_template(sandbox.site.cloud_url, api)


def _make_template(url: str, api: str) -> None:
    """Make the launch template that ParallelCluster's stack would have made."""
    tags = [{"Key": "parallelcluster:cluster-name", "Value": CLUSTER}, {"Key": "parallelcluster:node-type", "Value": "Compute"}]
    data: dict[str, Any] = {"ImageId": IMAGE, "TagSpecifications": [{"ResourceType": "instance", "Tags": tags}]}
    if api == "run-instances":
        spot = {"InstanceType": INSTANCE_TYPE, "InstanceMarketOptions": {"MarketType": "spot"}}
        data |= {**spot, "Placement": {"AvailabilityZone": ZONE}}
    keys = {"aws_access_key_id": "sandbox", "aws_secret_access_key": "sandbox"}
    client = boto3.client("ec2", endpoint_url=url, region_name=REGION, **keys)
    client.create_launch_template(LaunchTemplateName=f"{CLUSTER}-{QUEUE}-{RESOURCE}", LaunchTemplateData=data)


def _write_hooks(hooks: Path, folder: Path, paths: Mapping[str, Any]) -> None:
    hooks.mkdir(mode=0o755, parents=True, exist_ok=True)
    for name in HOOKS.values():
        _program(hooks / name, "#!/bin/sh\nexit 0\n")
    real = hooks / "resume.installed"
    _program(hooks / "resume", TIMED.format(real=real, log=hooks / "resume.log"))
    _program(real, _HOOK.format(folder=folder, python=python(), bin_dir=paths["bin_dir"], conf=paths["slurm_conf"]))
    (folder / "bin").mkdir()
    _program(folder / "bin" / "sudo", '#!/bin/sh\nexec "$@"\n')


def _program(path: Path, text: str) -> None:
    path.write_text(text, encoding="ascii")
    path.chmod(0o755)
