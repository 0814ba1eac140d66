"""The configuration files of a sandbox's Slurm. Text in `render_*` (pure), files in `write_slurm_files`."""

import os
import secrets
import stat
from pathlib import Path

from holdfast_slurm.conf import render_gres_conf, render_slurm_conf
from holdfast_slurm.conf_settings import NodeGroup, SlurmSettings

from holdfast_sandbox.cluster_config import Site
from holdfast_sandbox.layout import CONTROL_HOST, LOCAL_NODE, LOCAL_PARTITION, PARTITION, RUN_HOLDFAST

_BASE = """\
# A throw-away cluster on loopback; the settings that any cluster needs for Holdfast follow below.
ClusterName=holdfast-{unique}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={local_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={state}
SlurmctldPidFile={sockets}/slurmctld.pid
SlurmctldLogFile={log}/slurmctld.log
# Every instance, and the sandbox itself, has a {run} of its own: a fresh one for each machine, as its disk would be.
SlurmdSpoolDir={run}/slurmd
SlurmdPidFile={run}/slurmd.pid
SlurmdLogFile={run}/slurmd.log
# No cgroups here: a step's processes are found by their parents.
ProctrackType=proctrack/linuxproc
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
MailProg=/bin/true
{by_version}
# An ordinary node and partition, which Holdfast must leave alone.
NodeName={local_node} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 State=UNKNOWN
PartitionName={local_partition} Nodes={local_node} Default=YES State=UP

"""


def slurm_settings(site: Site, version: tuple[int, int, int]) -> SlurmSettings:
    """Return what the fragment for this sandbox is made from."""
    config = site.config
    group = NodeGroup(
        prefix=PARTITION,
        count=config.nodes,
        cpus=config.cpus_per_node,
        memory_mb=config.memory_mb_per_node,
        gres=f"gpu:{config.gpus_per_node}" if config.gpus_per_node else "",
        first_port=site.ports.first_node,
        gres_files=_device_range(site),
    )
    return SlurmSettings(
        version=version,
        hooks_dir=site.layout.hooks,
        node_groups=(group,),
        partition=PARTITION,
        resume_timeout_s=config.resume_timeout_s,
        suspend_timeout_s=config.suspend_timeout_s,
        suspend_time_s=config.suspend_time_s,
        munge_socket=site.layout.munge_socket,
        sandbox=True,
        oversubscribe=config.oversubscribe,
    )


def render_sandbox_conf(site: Site, version: tuple[int, int, int], unique: str) -> str:
    """Return the whole slurm.conf; `unique` tells the cluster, whose job ids begin with 1, from an earlier one."""
    base = _BASE.format(
        unique=unique,
        host=CONTROL_HOST,
        ctld_port=site.ports.slurmctld,
        local_port=site.ports.local_slurmd,
        state=site.layout.slurm_state,
        sockets=site.layout.sockets,
        log=site.layout.log,
        run=RUN_HOLDFAST,
        local_node=LOCAL_NODE,
        local_partition=LOCAL_PARTITION,
        by_version="SwitchType=switch/none\nTaskPlugin=task/none\n" if version < (23, 2) else "",
    )
    extra = site.config.extra_slurm_conf.strip()
    return base + render_slurm_conf(slurm_settings(site, version)) + (f"\n{extra}\n" if extra else "")


def render_hosts(site: Site, *, with_nodes: bool) -> str:
    """Return a hosts file. Instances know the nodes' names; slurmctld's machine does not, as where no DNS has them."""
    names = ["localhost", CONTROL_HOST, LOCAL_NODE]
    if with_nodes:
        names += [f"{PARTITION}-{number}" for number in range(1, site.config.nodes + 1)]
    return "".join(f"127.0.0.1 {name}\n" for name in names)


def write_slurm_files(site: Site, version: tuple[int, int, int]) -> None:
    """Write slurm.conf, gres.conf, cgroup.conf and both hosts files. Raises OSError, ConfigError."""
    etc = site.layout.etc
    site.layout.slurm_conf.write_text(render_sandbox_conf(site, version, secrets.token_hex(4)), encoding="utf-8")
    site.layout.hosts.write_text(render_hosts(site, with_nodes=True), encoding="utf-8")
    site.layout.control_hosts.write_text(render_hosts(site, with_nodes=False), encoding="utf-8")
    if version >= (23, 2):
        (etc / "cgroup.conf").write_text("CgroupPlugin=disabled\n", encoding="utf-8")
    if gres := render_gres_conf(slurm_settings(site, version)):
        (etc / "gres.conf").write_text(gres, encoding="utf-8")
        devices = _device_directory(site)
        devices.mkdir(exist_ok=True)
        for number in range(site.config.gpus_per_node):
            os.mknod(devices / f"gpu{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))


def _device_directory(site: Site) -> Path:
    return site.layout.root / "dev"


def _device_range(site: Site) -> str:
    count = site.config.gpus_per_node
    if count == 0:
        return ""
    return f"{_device_directory(site)}/gpu" + (f"[0-{count - 1}]" if count > 1 else "0")
