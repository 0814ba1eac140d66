"""One whole pass of reconcile at many nodes: a look at the cloud's list, one at its reclaims, one at Slurm, and what follows from them.

The controller's own watchers, provider, scontrol client and reactor, in this process so that their CPU time can be told apart, on the fleet
of the sandbox's controller (a copy of its journal) and beside it on the same cloud and slurmctld. Commands have no effect here.
"""

import asyncio
import os
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from holdfast_common.clock import SystemClock
from holdfast_controller.commands import Command
from holdfast_controller.config import load_config
from holdfast_controller.events import Event
from holdfast_controller.journal import Journal
from holdfast_controller.policies import PolicyStore
from holdfast_controller.providers.aws import AwsProvider
from holdfast_controller.reactor import Reactor
from holdfast_controller.reclaims import ReclaimWatcher
from holdfast_controller.reconcile import CloudWatcher, SlurmWatcher
from holdfast_sandbox.cluster import Sandbox
from holdfast_slurm.scontrol import ScontrolClient
from pydantic import SecretStr

NEVER_S = 3600.0


@dataclass(frozen=True, slots=True)
class Pass:
    """CPU seconds of this process, all threads, by part; and of the scontrol and squeue that it started."""

    cloud_s: float
    reclaims_s: float
    slurm_s: float
    commands_s: float

    @property
    def own_s(self) -> float:
        """What the controller itself takes."""
        return self.cloud_s + self.reclaims_s + self.slurm_s


class _Nothing:
    """Effects that are never over: what was decided is not decided again."""

    async def run(self, command: Command, *, resumed: bool) -> tuple[Event, ...]:
        return ()


def measure(sandbox: Sandbox, directory: Path, passes: int) -> list[Pass]:
    """Return so many passes, after one that only learns what has happened since. Raises OSError, ConfigError, ProviderError."""
    directory.mkdir()
    copy = directory / "journal.sqlite"
    with closing(sqlite3.connect(sandbox.layout.controller_state / "journal.sqlite")) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return asyncio.run(_measure(sandbox, copy, passes))


async def _measure(sandbox: Sandbox, copy: Path, passes: int) -> list[Pass]:
    config, clock = load_config(sandbox.layout.controller_config), SystemClock()
    policies = PolicyStore(Path(config.policy), config.providers.names)
    journal = Journal(copy)
    fleet = await journal.open(frozenset(policies.plans().by_node))
    policies.manage(fleet)
    assert config.providers.aws is not None
    keys = {"access_key_id": "sandbox", "secret_access_key": SecretStr("sandbox")}
    provider = AwsProvider(config.providers.aws.with_cluster(config.cluster).model_copy(update=keys))
    slurm = ScontrolClient(Path(config.slurm.bin_dir), Path(config.slurm.conf), config.slurm.timeout_s)
    reactor = Reactor(journal, fleet, policies.plans, _Nothing(), clock)
    cloud = CloudWatcher(provider, reactor, clock, busy_s=NEVER_S, idle_s=NEVER_S)
    reclaims = ReclaimWatcher(provider, reactor, clock, busy_s=NEVER_S, idle_s=NEVER_S)
    watcher = SlurmWatcher(slurm, reactor, clock, busy_s=NEVER_S, idle_s=NEVER_S)
    running = asyncio.create_task(reactor.run())
    try:
        found = []
        for _ in range(passes + 1):
            moments, before = [time.process_time()], os.times()
            for look in (cloud.look, reclaims.look, watcher.look):
                await look()
                moments.append(time.process_time())
            after = os.times()
            children = after.children_user + after.children_system - before.children_user - before.children_system
            found.append(Pass(*(end - begin for begin, end in pairwise(moments)), children))
        return found[1:]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await provider.close()
        await journal.close()
