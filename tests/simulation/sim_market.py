"""A recorded spot market under the cloud in memory: capacity and prices as recorded; a zone that shrinks takes machines back."""

from collections.abc import Iterator
from pathlib import Path

import holdfast_sandbox
from holdfast_controller.config import Timing
from holdfast_controller.providers import fake_machines
from holdfast_sandbox.trace import TraceFile, TracePool, read_trace
from holdfast_slurm.fake import FakeSettings
from sim_world import World

TRACES = {"h100": "h100_gcp_13zones_600s.json", "v100": "v100_aws_9zones_195s.json"}
SLOW = Timing(watch_busy_s=1.0, watch_idle_s=15.0, cloud_poll_s=60.0, cloud_poll_busy_s=10.0, agent_heartbeat_s=30.0, agent_lost_s=120.0)
"""A day has to pass in seconds."""
BOOT_S, NOTICE_S = 120.0, 30.0


def trace_of(name: str) -> TraceFile:
    """Return a recording by its short name."""
    return read_trace(Path(holdfast_sandbox.__file__).parent / "traces" / TRACES[name])


def pool_of(zone: str, pool: TracePool) -> str:
    """Return the full name of a zone's pool."""
    return f"fake/{pool.region}/{zone}/gpu/spot"


def policy_of(trace: TraceFile, order: str) -> str:
    """Return a policy with one pool for each zone, in the recording's order."""
    tables = [
        f'[pools.{zone}]\nprovider = "fake"\nregion = "{pool.region}"\nzone = "{zone}"\ninstance_type = "gpu"\nmarket = "spot"\n'
        for zone, pool in trace.pools.items()
    ]
    names = ", ".join(f'"{zone}"' for zone in trace.pools)
    requeue = "requeue = { max_attempts = 10000, crash_loop_count = 1000, never_launched_s = 600 }"
    group = '[node_groups.gpu]\nnodes = "n[1-NODES]"\n'
    rest = f'{group}[partitions.spot]\nnode_groups = ["gpu"]\npools = [{names}]\norder = "{order}"\n{requeue}\n'
    return "version = 1\n" + "\n".join(tables) + rest


class TracedMarket:
    """A world whose zones follow a recording from one of its steps on; one recorded unit is worth `per_unit` instances."""

    def __init__(self, path: Path, name: str, *, nodes: int, order: str = "scored", start_step: int = 0, per_unit: int = 1) -> None:
        self.trace = trace_of(name)
        cloud = fake_machines.Timing(boot_s=BOOT_S, shutdown_s=20.0)
        slurm = FakeSettings(suspend_timeout_s=60.0, resume_timeout_s=900.0, slurmd_timeout_s=300.0, min_job_age_s=300.0, age=True)
        self.world = World(path, nodes=nodes, policy=policy_of(self.trace, order), timing=SLOW, slurm=slurm, cloud=cloud)
        self._start, self._per_unit = start_step, per_unit
        self._step = 0
        self.reclaimed = 0
        self._apply()

    def capacity(self, pool: TracePool, step: int) -> int:
        """How many instances a zone can hold in a step."""
        counts = pool.counts()
        return counts[min(self._start + step, len(counts) - 1)] * self._per_unit

    def possible_s(self, nodes: int, hours: float) -> float:
        """For how long some zone had room for so many at once, seconds: no policy could run a gang for longer."""
        steps = int(hours * 3600 / self.trace.step_s)
        fits = [any(self.capacity(pool, step) >= nodes for pool in self.trace.pools.values()) for step in range(steps)]
        return sum(fits) * self.trace.step_s

    def hours(self, hours: float) -> Iterator[int]:
        """Let the time pass, step by step."""
        for _ in range(int(hours * 3600 / self.trace.step_s)):
            self.world.wait(self.trace.step_s)
            self._step += 1
            self._apply()
            yield self._step

    def endless(self) -> None:
        """Every zone has room from now on."""
        for pool in self.world.provider.pools.values():
            pool.capacity = 1000

    def _apply(self) -> None:
        for zone, recorded in self.trace.pools.items():
            name = pool_of(zone, recorded)
            pool = self.world.provider.pools[name]
            pool.capacity = self.capacity(recorded, self._step)
            prices = recorded.prices()
            pool.price_usd_h = prices[min(self._start + self._step, len(prices) - 1)]
            pool.on_demand_usd_h = recorded.on_demand_usd_h
            self._take_back(name, pool.capacity)

    def _take_back(self, name: str, capacity: int) -> None:
        here = [machine for machine in self.world.room.living() if machine.cloud.pool == name and machine.cloud.terminated is None]
        staying = [machine for machine in here if machine.cloud.reclaimed is None]
        for machine in list(reversed(staying))[: max(0, len(staying) - capacity)]:
            self.reclaimed += 1

            def take(machine=machine) -> None:
                self.world.provider.reclaim([machine.iid], NOTICE_S)
                machine.notice(NOTICE_S)

            self.world.slurm_call(take)
