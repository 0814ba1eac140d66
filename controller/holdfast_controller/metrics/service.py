"""Wires tally, ledger and collector to the reactor, and serves `/metrics` and `/sd`."""

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from holdfast_common.clock import Clock
from holdfast_common.errors import ConfigError
from holdfast_common.exposition import CONTENT_TYPE, Families, text
from holdfast_common.metrics_server import ANSWER_S, MetricsServer, in_loop

from holdfast_controller.agents import AgentHub
from holdfast_controller.metrics.collector import families
from holdfast_controller.metrics.counts import Counts
from holdfast_controller.metrics.discovery import TargetsFile, as_json, listed
from holdfast_controller.metrics.goodput import Goodput, Progress
from holdfast_controller.metrics.ledger import Ledger
from holdfast_controller.metrics.tally import Tally
from holdfast_controller.plan import Plans
from holdfast_controller.reactor import Reactor

ACCRUE_S = 5.0

log = structlog.get_logger()


class MetricsService:
    """The controller's metrics from its start on."""

    def __init__(self, reactor: Reactor, hub: AgentHub, plans: Callable[[], Plans], clock: Clock, cluster: str) -> None:
        self._reactor = reactor
        self._hub = hub
        self._plans = plans
        self._clock = clock
        self._cluster = cluster
        self.counts = Counts()
        self._goodput = Goodput(self.counts, self._progress)
        self._ledger = Ledger(self.counts)
        self._tally = Tally(self.counts, self._goodput)
        self._tally.begin(reactor.fleet)
        self._server: MetricsServer | None = None
        reactor.listeners.append(lambda event: self._tally.take(event, reactor.fleet))

    @property
    def port(self) -> int:
        """Where it is served; 0: nowhere."""
        return self._server.port if self._server is not None else 0

    def families(self) -> Families:
        """Return the series of one scrape."""
        self._accrue()
        deciding = self._reactor.deciding
        return families(self._reactor.fleet, self._plans(), self.counts, self._tally, deciding=deciding, now=self._clock.now())

    def targets(self) -> list[dict[str, Any]]:
        """Return where Prometheus finds the agents."""
        return listed(self._reactor.fleet, self._cluster)

    def serve(self, listen: str, answer_s: float = ANSWER_S) -> None:
        """Serve at `listen` (host:port), from the loop that calls this; 503 where that hangs. Raises ConfigError for a taken port."""
        loop = asyncio.get_running_loop()
        pages = {
            "/metrics": lambda: (CONTENT_TYPE, text(in_loop(loop, self.families, answer_s))),
            "/sd": lambda: ("application/json", as_json(in_loop(loop, self.targets, answer_s))),
            "/-/healthy": lambda: ("text/plain", in_loop(loop, lambda: b"ok\n", answer_s)),
        }
        try:
            self._server = MetricsServer(listen, pages)
        except OSError as error:
            raise ConfigError("metrics.listen", [f"cannot listen on {listen}: {error.strerror or error}"]) from error

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.close()

    async def run(self, file_sd: str) -> None:
        """Count the passing of time, and keep the file of targets, for ever."""
        targets = TargetsFile(Path(file_sd)) if file_sd else None
        fault = ""
        while True:
            self._accrue()
            try:
                if targets is not None:
                    targets.write(self.targets())
                    fault = ""
            except OSError as error:
                if str(error) != fault:
                    fault = str(error)
                    log.error("the file of Prometheus' targets cannot be written", path=file_sd, error=fault)
            await self._clock.sleep(ACCRUE_S)

    def _accrue(self) -> None:
        fleet, plans, now = self._reactor.fleet, self._plans(), self._clock.monotonic()
        self._ledger.accrue(fleet, plans, now)
        self._goodput.accrue(fleet, plans, now)

    def _progress(self, job_id: int) -> Progress | None:
        said = self._hub.progress.get(job_id)
        if said is None:
            return None
        step_s = said.step_s if math.isfinite(said.step_s) and said.step_s > 0 else 0.0
        return Progress(said.attempt, said.step, said.saved_step, step_s)
