"""The composition root: the only place where concrete classes meet."""

import asyncio
import fcntl
import os
import pwd
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import structlog
from holdfast_common.auth import MungeAuthenticator
from holdfast_common.channel import check_bind, new_server, serve_unix
from holdfast_common.clock import Clock, SystemClock
from holdfast_common.errors import ConfigError, HoldfastError
from holdfast_common.munge import Munge
from holdfast_common.rpc_auth import ServerAuth
from holdfast_protos.v1 import admin_pb2_grpc, agent_pb2_grpc, hook_pb2_grpc
from holdfast_slurm.client import Slurm
from holdfast_slurm.scontrol import ScontrolClient

from holdfast_controller import risk
from holdfast_controller.admin import AdminService
from holdfast_controller.agents import AgentHub
from holdfast_controller.bootstrap import prepare
from holdfast_controller.bootstrap_config import Cloud
from holdfast_controller.clock_steps import SteadyClock
from holdfast_controller.cloud_effects import CloudEffects
from holdfast_controller.config import ControllerConfig
from holdfast_controller.config_clouds import azure_config, gcp_config
from holdfast_controller.effects import ControllerEffects, LateEffects
from holdfast_controller.fleet import Fleet
from holdfast_controller.health_rules import HealthRulesStore
from holdfast_controller.hooks import HookService
from holdfast_controller.journal import Journal
from holdfast_controller.market import MarketWatcher
from holdfast_controller.metrics.service import MetricsService
from holdfast_controller.policies import PolicyStore
from holdfast_controller.pools import offer_of
from holdfast_controller.providers.base import Provider
from holdfast_controller.reactor import Reactor
from holdfast_controller.reclaims import ReclaimWatcher
from holdfast_controller.reconcile import CloudWatcher, SlurmWatcher, watch_first_listing
from holdfast_controller.tokens import load_secret, make_token, user_data

BUSY_TICK_S, IDLE_TICK_S = 0.1, 0.5

log = structlog.get_logger()


async def run(config: ControllerConfig) -> None:
    """Run the controller until SIGTERM or SIGINT. Raises ConfigError where it cannot begin."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        controller = await Controller.start(config, SystemClock(), stack)
        tasks = [asyncio.create_task(task) for task in controller.loops()]
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait({*tasks, stopped}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                task.result()  # a loop that ended has failed: systemd starts us again, and the journal knows where we were
        finally:
            for task in (*tasks, stopped):
                task.cancel()
            await asyncio.gather(*tasks, stopped, return_exceptions=True)


class Controller:
    """The wired parts."""

    def __init__(
        self,
        reactor: Reactor,
        hub: AgentHub,
        slurm: SlurmWatcher,
        clouds: dict[str, CloudWatcher],
        reclaims: list[ReclaimWatcher],
        market: MarketWatcher,
        metrics: MetricsService,
        clock: Clock,
    ) -> None:
        self.reactor = reactor
        self.market = market
        self.metrics = metrics
        self.hub = hub
        self.slurm = slurm
        self.clouds = clouds
        self.reclaims = reclaims
        self.clock = clock
        self.file_sd = ""
        """Where the agents' metrics are listed as a file; empty: nowhere."""

    def loops(self) -> list["asyncio._CoroutineLike[None]"]:
        """Return what runs for ever."""
        return [
            self.reactor.run(),
            self.reactor.tick(BUSY_TICK_S, IDLE_TICK_S),
            self.slurm.run(),
            self.hub.watch(),
            self.hub.watch_hazards(),
            self.market.watch_prices(),
            self.market.watch_offers(),
            self.metrics.run(self.file_sd),
            self._listing(),
            *(cloud.run() for cloud in self.clouds.values()),
            *(watcher.run() for watcher in self.reclaims),
        ]

    async def _listing(self) -> None:
        await watch_first_listing(self.clouds, self.reactor, self.clock)
        await asyncio.Event().wait()

    @classmethod
    async def start(cls, config: ControllerConfig, clock: Clock, stack: AsyncExitStack) -> "Controller":
        """Open the journal, connect the parts, and serve. What was opened is closed by `stack`."""
        state = _state_dir(config)
        stack.callback(os.close, _lock(state))
        secret = load_secret(state / "secret")
        policies = PolicyStore(Path(config.policy), config.providers.names, config.providers.bounds)
        journal = Journal(state / "journal.sqlite")
        fleet = await journal.open(frozenset(policies.plans().by_node))
        stack.push_async_callback(journal.close)
        policies.manage(fleet)
        providers = make_providers(config)
        for provider in providers.values():
            stack.push_async_callback(provider.close)
        slurm = ScontrolClient(Path(config.slurm.bin_dir), Path(config.slurm.conf), config.slurm.timeout_s)
        controller = wire(config, clock, fleet, journal, policies, providers, slurm, secret)
        controller.hub.rules = HealthRulesStore(config.health_rules)
        await _serve(config, controller, policies, journal, slurm, clock, stack)
        log.info("the controller is up", cluster=config.cluster, nodes=len(fleet.nodes), jobs=len(fleet.jobs))
        return controller


def _state_dir(config: ControllerConfig) -> Path:
    state = Path(config.state_dir)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    return state


def _lock(state: Path) -> int:
    """Keep a second controller away from the journal. Raises ConfigError."""
    lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise ConfigError(str(state), ["another controller uses this state directory"]) from error
    return lock


def wire(
    config: ControllerConfig,
    wall: Clock,
    fleet: Fleet,
    journal: Journal,
    policies: PolicyStore,
    providers: dict[str, Provider],
    slurm: Slurm,
    secret: bytes,
) -> Controller:
    """Connect the parts around an open journal and its fleet: the same in production and in the simulation."""
    timing = config.timing
    clock = SteadyClock(wall)
    clouds: dict[str, CloudWatcher] = {}
    reclaims: list[ReclaimWatcher] = []

    def poll_clouds() -> None:
        for cloud in clouds.values():
            cloud.nudge()

    def agent_lost() -> None:
        poll_clouds()
        for each in reclaims:
            each.nudge()

    effects = LateEffects()
    reactor = Reactor(journal, fleet, policies.plans, effects, clock, clock.resync)
    watcher = SlurmWatcher(slurm, reactor, clock, busy_s=timing.watch_busy_s, idle_s=timing.watch_idle_s)
    reactor.on_busy = watcher.nudge
    hub = AgentHub(
        reactor,
        secret,
        config.cluster,
        clock,
        lost_s=timing.agent_lost_s,
        heartbeat_s=timing.agent_heartbeat_s,
        on_lost=agent_lost,
        on_left=watcher.nudge,
    )
    hub.plan = lambda node: policies.plans().by_node.get(node)  # noqa: PLW0108 - the plans change with the policy
    hub.offer = lambda instance_id: offer_of(fleet, policies.plans(), instance_id)
    hub.hazard = lambda instance_id: risk.hazard_per_h(fleet, policies.plans(), instance_id, clock.now())
    for name, provider in providers.items():
        clouds[name] = CloudWatcher(provider, reactor, clock, busy_s=timing.cloud_poll_busy_s, idle_s=timing.cloud_poll_s)
        reclaims.append(ReclaimWatcher(provider, reactor, clock, busy_s=timing.cloud_poll_busy_s, idle_s=timing.cloud_poll_s))
    cloud_effects = CloudEffects(
        providers,
        policies.plans,
        user_data_of(config, secret),
        clock,
        max_in_flight={name: bounds.in_flight for name, bounds in config.providers.bounds.items()},
        poll_soon=poll_clouds,
    )
    effects.inner = ControllerEffects(slurm, cloud_effects, hub, clock, bound=fleet.holder)
    metrics = MetricsService(reactor, hub, policies.plans, clock, config.cluster)
    return Controller(reactor, hub, watcher, clouds, reclaims, MarketWatcher(providers, policies, clock), metrics, clock)


def user_data_of(config: ControllerConfig, secret: bytes) -> Callable[[str, str], str]:
    """Return how the user data of a launch is made, of cloud and launch id. Raises ConfigError where the settings make none that fits."""
    if config.nodes is None:
        return lambda _, launch_id: user_data(config.cluster, secret, launch_id)
    made = prepare(config.nodes, config.providers.names, config.cluster, config.slurm.user)
    return lambda cloud, launch_id: made.user_data(cast(Cloud, cloud), launch_id, make_token(secret, launch_id))


def make_providers(config: ControllerConfig) -> dict[str, Provider]:
    """Return the clouds that the settings name. Their client libraries are imported when first used."""
    providers: dict[str, Provider] = {}
    if config.providers.aws is not None:
        from holdfast_controller.providers.aws import AwsProvider

        providers["aws"] = AwsProvider(config.providers.aws.with_cluster(config.cluster))
    if config.providers.gcp is not None:
        from holdfast_controller.providers.gcp import GcpProvider

        providers["gcp"] = GcpProvider(gcp_config(config.providers.gcp, config.cluster))
    if config.providers.azure is not None:
        from holdfast_controller.providers.azure import AzureProvider

        providers["azure"] = AzureProvider(azure_config(config.providers.azure, config.cluster))
    return providers


async def _serve(
    config: ControllerConfig,
    controller: Controller,
    policies: PolicyStore,
    journal: Journal,
    slurm: Slurm,
    clock: Clock,
    stack: AsyncExitStack,
) -> None:
    check_bind(config.listen.tcp, config.listen.allow_remote_without_tls)
    slurm_uid = _uid(config.slurm.user)
    munge = MungeAuthenticator(Munge(config.auth.munge_socket), clock, frozenset({0, slurm_uid}))
    stack.callback(munge.close)
    tcp = new_server([ServerAuth(munge)])
    agent_pb2_grpc.add_AgentServiceServicer_to_server(controller.hub, tcp)
    if tcp.add_insecure_port(config.listen.tcp) == 0:
        raise ConfigError("listen.tcp", [f"cannot listen on {config.listen.tcp}: is it in use?"])
    local = new_server()
    hooks = HookService(controller.reactor, controller.slurm, controller.clock)
    hook_pb2_grpc.add_HookServiceServicer_to_server(hooks, local)
    admin = AdminService(
        controller.reactor,
        controller.hub,
        policies,
        journal,
        controller.clock,
        market=controller.market,
        cluster=config.cluster,
        reconfigure=lambda: hooks.reconfigure(slurm),
    )
    admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, local)
    socket = await serve_unix(local, Path(config.listen.socket), config.listen.group, owner_uid=slurm_uid if os.geteuid() == 0 else None)
    stack.callback(socket.close)
    stack.push_async_callback(local.stop, 0.2)
    if config.metrics.listen:
        controller.metrics.serve(config.metrics.listen)
        stack.callback(controller.metrics.close)
    controller.file_sd = config.metrics.file_sd
    await tcp.start()
    stack.push_async_callback(tcp.stop, 0.2)


def _uid(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError as error:
        raise ConfigError("slurm.user", [f"there is no user {user!r} on this host"]) from error


def main(config: ControllerConfig) -> int:
    """Run; return the exit code."""
    try:
        asyncio.run(run(config))
    except HoldfastError as error:
        log.error(str(error))
        return 2 if isinstance(error, ConfigError) else 1
    return 0
