"""The machines of the cloud and their lives: launched, booted, warned, taken back, killed, gone."""

import asyncio
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress

from holdfast_sandbox.cloud_config import CloudConfig
from holdfast_sandbox.faults import Faults
from holdfast_sandbox.instance import MachineProcess
from holdfast_sandbox.machine import LaunchSpec, Machine
from holdfast_sandbox.market import Market, Pool, Quote
from holdfast_sandbox.record import Record

SPOT_TERMINATION = "Server.SpotInstanceTermination"
USER_SHUTDOWN = "Client.UserInitiatedShutdown"


class Datacenter:
    """All instances. Every method runs on the event loop's thread; none blocks."""

    def __init__(self, config: CloudConfig, market: Market, record: Record, now: Callable[[], float]) -> None:
        self.config = config
        self.market = market
        self.record = record
        self.faults = Faults()
        self.now = now
        self.metadata_base_url = ""  # known once the server listens
        self.machines: dict[str, Machine] = {}
        self.listeners: list[Callable[[str, Machine], None]] = []  # told what happens to machines, see `tell`
        self._lives: set[asyncio.Task[None]] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._market_changed = asyncio.Event()
        self._followed = now()  # up to when market changes are recorded

    def quote(self, pool: Pool, wanted: int, max_price_usd_h: float | None, elsewhere: int = 0) -> Quote:
        """How many the cloud would launch there now, refusals on demand and the account's spot limit included.

        `elsewhere` counts the instances that the same request is about to launch in other pools.
        """
        refusal = self.faults.refuse(pool)
        if refusal is not None:
            return refusal
        quote = self.market.quote(pool, wanted, self.now(), max_price_usd_h)
        if pool.market == "spot":
            running = sum(machine.alive and machine.pool.market == "spot" for machine in self.machines.values())
            room = max(0, self.config.spot_instance_limit - running - elsewhere)
            if room < quote.count:
                return Quote(room, "MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
        return quote

    def launch(self, pool: Pool, count: int, spec: LaunchSpec, client_token: str, named: Mapping[str, str] | None = None) -> list[Machine]:
        """Start `count` machines whose capacity was quoted just now; raises ValueError where it was not.

        `named` holds their ids and names on clouds that are not EC2.
        """
        now = self.now()
        ids = list(named) if named is not None else [f"i-{secrets.token_hex(9)[:17]}" for _ in range(count)]
        self.market.hold(pool, ids, now)
        reservation = f"r-{secrets.token_hex(9)[:17]}"
        machines = []
        for instance_id in ids:
            ordinal = len(self.machines)
            machine = Machine(
                instance_id=instance_id,
                ordinal=ordinal,
                reservation_id=reservation,
                pool=pool,
                region=self.market.zones[pool.zone].region,
                spec=spec,
                tags=dict(spec.tags),
                ip=self._address(ordinal),
                client_token=client_token,
                spot_request_id=f"sir-{secrets.token_hex(4)}" if pool.market == "spot" else None,
                price_at_launch_usd_h=self.market.price_usd_h(pool, now),
                requested=now,
                provider=self.market.zones[pool.zone].provider,
                name=named[instance_id] if named is not None else "",
            )
            self.machines[instance_id] = machine
            machines.append(machine)
            self.record.write(
                "requested",
                instance_id=instance_id,
                zone=pool.zone,
                instance_type=pool.instance_type,
                lifecycle=pool.market,
                provider=machine.provider,
                client_token=client_token,
                price_usd_h=machine.price_at_launch_usd_h,
                tags=machine.tags,
                ip=machine.ip,
            )
            self.tell("pending", machine)
            life = asyncio.get_running_loop().create_task(self._live(machine))
            self._lives.add(life)
            life.add_done_callback(self._lives.discard)
        return machines

    def tell(self, what: str, machine: Machine) -> None:
        """Tell who listens that a machine has a new state, or had a `notice` or a `rebalance` recommendation."""
        for listener in self.listeners:
            listener(what, machine)

    def _address(self, ordinal: int) -> str:
        host = ordinal % (256 * 254)
        return f"{self.config.ip_prefix}.{host // 254}.{host % 254 + 1}"

    async def _live(self, machine: Machine) -> None:
        fault = self.faults.boot_fault(machine.pool.zone)
        late_s = fault.seconds or 0.0 if fault else 0.0
        with suppress(TimeoutError):
            await asyncio.wait_for(machine.stop.wait(), self.config.boot_delay_s + late_s)
        if not machine.stop.is_set():
            machine.running = self.now()
            if machine.state == "pending":
                machine.state = "running"
                self.tell("running", machine)
            self.record.write("running", instance_id=machine.instance_id, zone=machine.pool.zone)
            if fault is None or fault.seconds is not None:
                await self._run(machine)
            else:
                await machine.stop.wait()
        self._end(machine)

    async def _run(self, machine: Machine) -> None:
        directory = self.config.state_dir / "instances" / machine.instance_id
        env = {
            **os.environ,
            **self.config.instance_env,
            "HOLDFAST_SANDBOX_INSTANCE_ID": machine.instance_id,
            "HOLDFAST_SANDBOX_INSTANCE_IP": machine.ip,
            "HOLDFAST_SANDBOX_INSTANCE_DIR": str(directory),
            "HOLDFAST_SANDBOX_METADATA_URL": f"{self.metadata_base_url}/{machine.instance_id}",
        }
        try:
            directory.mkdir(parents=True, exist_ok=True)
            machine.process = await MachineProcess.start(self.config.instance_command, env, directory)
        except OSError as error:
            machine.end_with("Server.InternalError", f"instance_command could not be started: {error}")
            return
        if machine.stop.is_set():  # it was killed while it was being started
            machine.process.kill()
        status = await machine.process.wait()
        if not machine.stop.is_set():  # the status of a killed machine is unshare's own and says nothing
            machine.exit_status = status

    def _end(self, machine: Machine) -> None:
        machine.end_with("Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown: Instance initiated shutdown")
        timer = self._timers.pop(machine.instance_id, None)
        if timer is not None:
            timer.cancel()
        machine.gone = self.now()
        machine.state = "terminated"
        machine.touch()
        self.tell("terminated", machine)
        self.market.release(machine.pool, machine.instance_id)
        self.record.write(
            "terminated",
            instance_id=machine.instance_id,
            zone=machine.pool.zone,
            reason=machine.reason_code,
            exit_status=machine.exit_status,
            cost_usd=self.cost_usd(machine),
        )

    def cost_usd(self, machine: Machine) -> float:
        """What the instance has cost so far, from running to gone, at the prices that held."""
        if machine.running is None:
            return 0.0
        end = self.now() if machine.gone is None else machine.gone
        return self.market.cost_usd(machine.pool, machine.running, end)

    def terminate(self, machine: Machine) -> None:
        """The user's TerminateInstances: shutting-down now, gone after the shutdown delay."""
        if machine.state in ("shutting-down", "terminated"):
            return
        machine.end_with(USER_SHUTDOWN, f"{USER_SHUTDOWN}: User initiated shutdown")
        machine.state = "shutting-down"
        machine.terminating = self.now()
        self.tell("shutting-down", machine)
        self.record.write("terminating", instance_id=machine.instance_id, reason=machine.reason_code)
        asyncio.get_running_loop().call_later(self.config.shutdown_delay_s, self._stop, machine)

    def reclaim(self, machine: Machine, notice_s: float) -> float:
        """Give notice that the machine is taken away in `notice_s` seconds, and do so then. Returns that time.

        A second notice can only bring the end forward.
        """
        deadline = self.now() + notice_s
        if machine.deadline is not None and machine.deadline <= deadline:
            return machine.deadline
        timer = self._timers.pop(machine.instance_id, None)
        if timer is not None:
            timer.cancel()
        machine.notice, machine.deadline = self.now(), deadline
        machine.touch()
        self.record.write("notice", instance_id=machine.instance_id, deadline=deadline, tags=machine.tags)
        self.tell("notice", machine)
        self._timers[machine.instance_id] = asyncio.get_running_loop().call_later(notice_s, self.kill, machine, SPOT_TERMINATION)
        return deadline

    def cancel_reclaim(self, machine: Machine) -> bool:
        """Withdraw a notice; False where there was none."""
        timer = self._timers.pop(machine.instance_id, None)
        if timer is None:
            return False
        timer.cancel()
        machine.notice = machine.deadline = None
        machine.touch()
        self.record.write("notice_cancelled", instance_id=machine.instance_id)
        return True

    def kill(self, machine: Machine, reason_code: str) -> None:
        """The machine vanishes at this moment, as in a power cut."""
        if machine.alive:
            machine.end_with(reason_code, f"{reason_code}: instance termination")
            self.record.write("killed", instance_id=machine.instance_id, reason=machine.reason_code)
            self._stop(machine)

    def _stop(self, machine: Machine) -> None:
        machine.stop.set()
        if machine.process is not None:
            machine.process.kill()

    def enforce(self) -> None:
        """Take back what the market no longer has room or the right price for, with the usual notice."""
        now = self.now()
        doomed = {
            machine.instance_id
            for machine in self.machines.values()
            if machine.alive and (machine.deadline is not None or machine.state == "shutting-down")
        }
        victims = self.market.overdrawn(now, doomed)
        for machine in self.machines.values():
            if machine.instance_id not in doomed and self._outbid(machine, now):
                victims.append(machine.instance_id)
        for instance_id in dict.fromkeys(victims):
            self.reclaim(self.machines[instance_id], self.config.notice_s)

    def _outbid(self, machine: Machine, now: float) -> bool:
        ceiling = machine.spec.max_price_usd_h
        if not machine.alive or machine.pool.market != "spot" or ceiling is None:
            return False
        return self.market.price_usd_h(machine.pool, now) > ceiling

    def set_pool(self, pool: Pool, capacity: int | None, price_usd_h: float | None) -> None:
        """Change a pool's capacity or price from now on; raises KeyError for one that does not exist."""
        state = self.market.pools[pool]
        self._catch_up()
        for name, line, value in (
            ("capacity", state.capacity, capacity),
            ("price_usd_h", state.price_usd_h, price_usd_h),
        ):
            if value is not None:
                line.set_from(self._followed, value)
                self._record_change(pool, name, value, self._followed)
        self._market_changed.set()
        self.enforce()

    async def follow_market(self) -> None:
        """Record every change of the recorded market as it comes, and enforce it. Runs until cancelled."""
        while True:
            change = self.market.next_change(self._followed)
            self._market_changed.clear()
            with suppress(TimeoutError):
                timeout = None if change is None else max(0.0, change - self.now())
                await asyncio.wait_for(self._market_changed.wait(), timeout)
            self._catch_up()
            self.enforce()

    def _catch_up(self) -> None:
        """Record what changed by itself since the last look."""
        now = self.now()
        for pool, state in self.market.pools.items():
            for name, line in (("capacity", state.capacity), ("price_usd_h", state.price_usd_h)):
                for moment, value in line.between(self._followed, now):
                    if moment > self._followed:
                        self._record_change(pool, name, value, moment)
        self._followed = max(self._followed, now)

    def _record_change(self, pool: Pool, name: str, value: float, moment: float) -> None:
        place = {"zone": pool.zone, "instance_type": pool.instance_type, "lifecycle": pool.market}
        self.record.write("market", **place, **{name: value}, at=moment)

    async def close(self) -> None:
        """Kill every machine and wait until all are gone."""
        for machine in list(self.machines.values()):
            self.kill(machine, "Server.CloudShutdown")
        if self._lives:
            await asyncio.wait(self._lives)
