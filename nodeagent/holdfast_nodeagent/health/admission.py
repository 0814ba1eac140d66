"""What a machine must pass before slurmd is started on it, and so before it gets its first job."""

import logging
from typing import Protocol

from holdfast_common.clock import Clock
from holdfast_common.health.model import Finding

from holdfast_nodeagent.health.deep_check import DeepCheck
from holdfast_nodeagent.health.watch import PASSED

RETRY_S = 10.0
"""Between two checks of a node that has not passed: what was wrong may pass by itself, or an admin says so."""
PATIENCE_S = 300.0
"""A node that cannot be judged for this long, and of which no rule says anything, gets its jobs: unknown is not dead. What comes late after
a boot (judging.BOOT_S) has been a finding for a minute by then."""

log = logging.getLogger(__name__)


class Checked(Protocol):
    """The node's health: `HealthWatch`."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What holds now."""

    @property
    def deep_check_level(self) -> int:
        """Of the deep check that is still to be run; 0: none."""

    async def quick_check(self, *, anew: bool = False) -> str:
        """Return `passed`, or what is wrong."""

    def set_quick_check(self, result: str) -> None:
        """Say what came of the quick check."""

    def set_deep_check(self, result: str, findings: tuple[Finding, ...]) -> None:
        """Say what came of the deep check."""


class Admission:
    """The quick check, and the deep one where the policy wants that."""

    def __init__(self, health: Checked, deep: DeepCheck, clock: Clock) -> None:
        self._health = health
        self._deep = deep
        self._clock = clock

    async def passed(self) -> None:
        """Return once the node may get jobs. A fault of ours does not keep it from that."""
        try:
            await self._quick()
            while (level := self._health.deep_check_level) and not await self._deeply(level):
                await self._quick()
        except Exception:
            log.exception("fault in the check before slurmd's start: it is started")

    async def _quick(self) -> None:
        began, anew = self._clock.monotonic(), False
        while (reason := await self._health.quick_check(anew=anew)) != PASSED:
            if not self._stands() and self._clock.monotonic() - began >= PATIENCE_S:
                log.warning("slurmd is started although the node could not be judged: %s", reason)
                self._health.set_quick_check(PASSED)
                return
            if not anew:
                log.error("slurmd is not started: %s", reason)
            anew = True
            await self._clock.sleep(RETRY_S)

    async def _deeply(self, level: int) -> bool:
        """Run the deep check; one that fails stands until an admin resolves it, and is run again then."""
        log.info("deep check of level %d", level)
        result, findings = await self._deep.run(level)
        self._health.set_deep_check(result, findings)
        if not any(finding.action.rank > 0 for finding in findings):
            return True
        log.error("slurmd is not started: deep check: %s", result)
        return False

    def _stands(self) -> bool:
        return any(finding.action.rank > 0 and not finding.dry_run for finding in self._health.findings)
