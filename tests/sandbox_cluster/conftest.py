"""Fixtures: sandboxes without controller and cloud, whose ResumeProgram starts instances itself."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.cluster_config import AgentSpec, SandboxConfig
from holdfast_sandbox.components import NODE_SCRIPTS
from holdfast_slurm.conf_settings import HOOKS

PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH\n"

RESUME = """\
for node in $(scontrol show hostnames "$1"); do
  dir={root}/cloud/instances/i-$node
  mkdir -p "$dir"
  export HOLDFAST_SANDBOX_INSTANCE_ID="i-$node" HOLDFAST_SANDBOX_INSTANCE_IP=127.0.0.1
  export HOLDFAST_SANDBOX_METADATA_URL=http://127.0.0.1:9/ HOLDFAST_SANDBOX_INSTANCE_DIR="$dir"
  export HOLDFAST_SANDBOX_DIR={root} HOLDFAST_SANDBOX_ETC={root}/etc HOLDFAST_SANDBOX_AGENT="/bin/sh {root}/etc/test-agent.sh"
  setsid unshare --pid --mount --uts --fork --kill-child=KILL --mount-proc -- /bin/sh {scripts}/init.sh >/dev/null 2>&1 &
  outer=$!
  echo $outer >"$dir/outer.pid"
  scontrol update nodename="$node" nodeaddr="127.77.0.${{node#spot-}}"
  # slurmctld kills our process group when we end: setsid must have happened by then.
  until [ "$(ps -o sid= -p $outer | tr -d ' ')" = $outer ]; do sleep 0.02; done
done
"""

SUSPEND = """\
for node in $(scontrol show hostnames "$1"); do
  pkill -KILL -P "$(cat {root}/cloud/instances/i-$node/outer.pid)"
done
"""

WAIT_FOR_NODES = """\
want=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | wc -l)
until [ "$(scontrol show node -o "$SLURM_JOB_NODELIST" | grep -v POWER | grep -c NodeName=)" = "$want" ]; do
  sleep 0.1
done
"""

AGENT = f"""\
{NODE_SCRIPTS}/start_slurmd.sh "${{HOLDFAST_SANDBOX_INSTANCE_ID#i-}}"
exec sleep 100000
"""


def write_test_hooks(
    directory: Path, *, python: Path, controller_socket: Path, run_dir: Path, bin_dir: Path, slurm_conf: Path, nodes: str
) -> None:
    """Hooks that start and kill instances themselves, without a controller or a cloud."""
    root = directory.parent
    bodies = {
        "resume": RESUME.format(root=root, scripts=NODE_SCRIPTS),
        "suspend": SUSPEND.format(root=root),
        "prolog-slurmctld": WAIT_FOR_NODES,
    }
    for name in HOOKS.values():
        path = directory / name
        path.write_text("#!/bin/sh\n" + PATH + f"export SLURM_CONF={slurm_conf}\n" + bodies.get(name, "exit 0\n"))
        path.chmod(0o755)
    (root / "etc" / "test-agent.sh").write_text(f"SLURM_CONF={slurm_conf}; export SLURM_CONF\n" + AGENT)


@pytest.fixture
def plain_config() -> SandboxConfig:
    """Slurm only: no cloud, no controller."""
    return SandboxConfig(nodes=4, cloud=False, write_hooks=write_test_hooks, agent=AgentSpec(("true",)), suspend_time_s=600)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory with a short name, as a user's would be."""
    path = Path(tempfile.mkdtemp(prefix="hf-test-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def start_sandbox(plain_config: SandboxConfig) -> Iterator[Callable[..., Sandbox]]:
    """Start sandboxes that are stopped and removed at the end of the test."""
    started: list[Sandbox] = []

    def start(directory: Path, config: SandboxConfig | None = None) -> Sandbox:
        sandbox = Sandbox(directory, config or plain_config)
        started.append(sandbox)
        sandbox.start()
        return sandbox

    yield start
    for sandbox in started:
        sandbox.stop()
