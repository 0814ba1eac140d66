"""Wiring: settings → parts → one task each. Killed at any instant and started again, the agent goes on where it was."""

import asyncio
import logging
import os
import pwd
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from holdfast_common.auth import MungeAuthenticator
from holdfast_common.channel import agent_channel
from holdfast_common.clock import Clock, SystemClock
from holdfast_common.errors import ConfigError, Temporary
from holdfast_common.evacuation import Limits
from holdfast_common.health.catalogue import TIER_S
from holdfast_common.munge import Munge
from holdfast_slurm.client import Slurm

from holdfast_nodeagent.config import AgentConfig
from holdfast_nodeagent.fallback import Fallback
from holdfast_nodeagent.gpu.blame import Blame
from holdfast_nodeagent.gpu.kernel_log import KernelLog
from holdfast_nodeagent.gpu.supervisor import Probe
from holdfast_nodeagent.health.admission import Admission
from holdfast_nodeagent.health.calls import ThreadCalls
from holdfast_nodeagent.health.deep_check import DeepCheck
from holdfast_nodeagent.health.driver import driver_present
from holdfast_nodeagent.health.judging import Judging
from holdfast_nodeagent.health.kept import Memory
from holdfast_nodeagent.health.node_checks import NodeChecks
from holdfast_nodeagent.health.tenants import Tenants
from holdfast_nodeagent.health.verdict_file import VerdictFile
from holdfast_nodeagent.health.watch import HealthWatch
from holdfast_nodeagent.jobdirs import JobDirs
from holdfast_nodeagent.jobs import Jobs
from holdfast_nodeagent.link import Link
from holdfast_nodeagent.node import Node, read_boot_id
from holdfast_nodeagent.notices.azure import AzureMetadata
from holdfast_nodeagent.notices.base import Identity, NoticeSource
from holdfast_nodeagent.notices.detect import addresses, detect, open_source
from holdfast_nodeagent.orphan import Orphan
from holdfast_nodeagent.outbox import Outbox
from holdfast_nodeagent.processes import Processes
from holdfast_nodeagent.record import Record
from holdfast_nodeagent.slurmd import Slurmd

log = logging.getLogger(__name__)


class Agent:
    """All parts of one node's agent. `open_channel`, `slurm`, `source` and `processes` are what tests replace."""

    def __init__(
        self,
        config: AgentConfig,
        clock: Clock,
        open_channel: Callable[[], Any],
        slurm: Slurm,
        source: NoticeSource,
        processes: Processes,
    ) -> None:
        self._config = config
        self._clock = clock
        self._open_channel = open_channel
        self._slurm = slurm
        self._source = source
        self._processes = processes

    async def run(self) -> None:
        """Run until cancelled. Raises OSError where the run directory cannot be used."""
        config, clock = self._config, self._clock
        dirs = JobDirs(config.jobs_dir)
        dirs.prepare()
        boot_id = read_boot_id(config.boot_id_path)
        record = Record(config.run_dir / "agent.json", boot_id)
        identity = await self._identity(record)
        slurmd = Slurmd(
            config.slurmd_command, config.release_command, config.slurm_conf, self._processes, clock, config.run_dir / "slurmd.log"
        )
        outbox = Outbox()
        node = Node(identity, record, slurmd, clock, self._source.window_s, boot_id)
        jobs = Jobs(dirs, self._processes, clock, node.enrich, node.on_report, node.on_gone)
        link = Link(self._open_channel, node, outbox, clock, lambda: jobs.urgent, config.patience_s)
        health = make_health(config, clock, self._processes, boot_id)
        health.wire(Probe(config.nvml_library, TIER_S, clock, health), lambda: node.name, link.put)
        node.wire(jobs, link.put, health, Admission(health, DeepCheck(clock), clock).passed)
        limits = Limits(config.margin_s, config.kill_wait_s)
        fallback = Fallback(node, jobs, self._slurm, record, clock, limits, link.silence_s, config.patience_s)
        orphan = Orphan(clock, link.unheard_s, self._ping_slurm, jobs.any_left, config.orphan_shutdown_s, config.shutdown_command)
        if isinstance(self._source, AzureMetadata):
            self._source.is_empty = node.empty_for_good
        record.save()
        with served(config, clock, health, lambda: link.welcomed) as node.metrics_port:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(node.watch_jobs(), name="jobs")
                tasks.create_task(node.watch_notices(self._source, config.poll_s), name="notices")
                tasks.create_task(link.run(), name="link")
                tasks.create_task(fallback.run(), name="fallback")
                tasks.create_task(node.keep_slurmd(), name="slurmd")
                tasks.create_task(orphan.run(), name="orphan")
                tasks.create_task(health.run(), name="health")

    async def _ping_slurm(self) -> bool | None:
        """Return whether slurmctld answers; None where no slurm.conf says how to ask it: a configless machine's comes with its slurmd."""
        return await self._slurm.ping() if self._config.slurm_conf.is_file() else None

    async def _identity(self, record: Record) -> Identity:
        """Return who we are, from earlier in this boot or from the metadata service, which is asked until it answers."""
        known, fault, pause_s = record.identity, "", 0.2
        while known is None:
            try:
                known = await self._source.identity()
            except Temporary as error:
                if str(error) != fault:
                    fault = str(error)
                    log.warning("who am I? %s", fault)
                await self._clock.sleep(pause_s)
                pause_s = min(5.0, pause_s * 2)
        if known.cluster and known.cluster != self._config.cluster:
            raise ConfigError("agent.toml", [f"cluster is {self._config.cluster}, but this instance was launched for {known.cluster}"])
        record.identity = known
        return known


def make_health(config: AgentConfig, clock: Clock, processes: Processes, boot_id: str) -> HealthWatch:
    """Return what watches this node's health, with what is remembered of it."""
    memory = Memory(config.run_dir / "health.json", boot_id)
    return HealthWatch(
        clock,
        memory,
        Tenants(processes, Blame(processes).job_of),
        NodeChecks(clock, ThreadCalls(clock), config.watched_paths, config.checkpoint_mounts),
        Judging(clock, memory, VerdictFile(config.run_dir)),
        lambda expected: config.gpu_health and (bool(config.nvml_library) or expected > 0 or driver_present()),
        lambda after_seq, on_caught_up: KernelLog(config.kernel_log, clock, after_seq, on_caught_up),
        config.quick_check_s,
    )


@contextmanager
def served(config: AgentConfig, clock: Clock, health: HealthWatch, connected: Callable[[], bool]) -> Iterator[int]:
    """Serve `/metrics` meanwhile, if the settings say so; yield the port, 0: none."""
    if not config.metrics_listen:
        yield 0
        return
    from holdfast_nodeagent.exporter import serve  # an agent that serves nothing does not pay for it

    with closing(serve(config.metrics_listen, health.snapshot, connected, config.metrics_dcgm_names, clock.now)) as exporter:
        yield exporter.port


def allowed_uids(user: str) -> frozenset[int]:
    """Return whom the agent believes to be the controller: root and SlurmUser. Raises ConfigError where there is no such user."""
    try:
        return frozenset({0, pwd.getpwnam(user).pw_uid})
    except KeyError:
        raise ConfigError("agent.toml", [f"controller_user: there is no user {user!r} on this host"]) from None


async def notice_source(config: AgentConfig, clock: Clock) -> NoticeSource:
    """Return the notices of the cloud that this machine is of, by the settings, by what was found earlier in this boot, or by looking.

    Raises ConfigError and OSError.
    """
    cloud: str = config.cloud
    if cloud == "auto":
        known = Record(config.run_dir / "agent.json", read_boot_id(config.boot_id_path)).identity
        cloud = known.provider if known is not None else await detect(config.metadata_url, os.environ, clock)
    url = addresses(config.metadata_url, os.environ)[cloud]
    log.info("cloud %s, metadata service at %s", cloud, url)
    return open_source(cloud, url, clock)


async def main(config: AgentConfig) -> None:
    """Run the agent of this machine until SIGTERM or SIGINT. Raises ConfigError and OSError."""
    from holdfast_slurm.scontrol import ScontrolClient

    clock = SystemClock()
    authenticator = MungeAuthenticator(Munge(str(config.munge_socket)), clock, allowed_uids(config.controller_user))

    async def run() -> None:
        source = await notice_source(config, clock)
        slurm = ScontrolClient(slurm_conf=config.slurm_conf, bin_dir=config.bin_dir)
        try:
            await Agent(config, clock, lambda: agent_channel(config.controller, authenticator), slurm, source, Processes()).run()
        finally:
            source.close()

    running = asyncio.ensure_future(run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.cancel)
    try:
        with suppress(asyncio.CancelledError):
            await running
    finally:
        authenticator.close()
