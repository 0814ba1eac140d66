"""The judge of this node: which rules hold, kept over the agent's restart, and told where that has changed."""

import logging
from collections.abc import Callable, Iterable

from holdfast_common.clock import Clock
from holdfast_common.errors import ConfigError
from holdfast_common.health.judge import Judge
from holdfast_common.health.model import Action, Finding, GpuEvent, Sample, worst
from holdfast_common.health.rules import Rules, default_rules, parse_rules
from holdfast_protos.v1 import agent_pb2 as pb

from holdfast_nodeagent.health.kept import Memory
from holdfast_nodeagent.health.messages import essence, health_message
from holdfast_nodeagent.health.snapshot import Snapshot
from holdfast_nodeagent.health.verdict_file import RENEW_S, VerdictFile

SAVE_S = 1.0
"""Between two times that what only repeats itself is kept."""
BOOT_S = 180.0
"""So long after the machine's boot, drivers are loaded, fabrics are made, stores are mounted and clocks are set …"""
COMES_LATE = frozenset(
    {"nvml_unavailable", "nvml_missed_heartbeats", "gpus_missing", "fabric_unhealthy", "checkpoint_store_missing", "clock_skew_seconds"}
)
"""… and these readings make no finding: a new machine would be given up for what is not there yet, and so would the next one. Meanwhile
they keep slurmd from being started (`objection`)."""

log = logging.getLogger(__name__)


class Judging:
    """Findings are told to the controller first, then to Slurm's hook, then kept."""

    def __init__(self, clock: Clock, memory: Memory, verdict_file: VerdictFile) -> None:
        self._clock = clock
        self._memory = memory
        self._verdict_file = verdict_file
        self._rules = _kept_rules(memory.kept.rules)
        self._judge = Judge(self._rules)
        if memory.kept.judge and not self._judge.restore(memory.kept.judge):
            log.error("what the judge kept is not valid: it starts afresh")
        self._deep_findings = memory.kept.found_deep()
        self._told: tuple[object, ...] = ()
        self._logged: frozenset[tuple[str, Action, bool]] = frozenset()
        self._written_at: float | None = None
        self._unsaved, self._saved_at = False, 0.0

    @property
    def rules(self) -> Rules:
        """By which it is judged."""
        return self._rules

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What holds now."""
        return (*self._deep_findings, *self._judge.findings(self._clock.now()))

    def objection(self, samples: Iterable[Sample]) -> str:
        """Return what speaks against a node that has no jobs yet, empty: nothing that is graver than a note.

        Beside the findings, that is what is so now and becomes a finding if it stays so: a rule that wants to see a GPU missing for five
        seconds must not let a job onto that node meanwhile.
        """
        gravest = worst(self.findings)
        if gravest is not None and gravest.action is not Action.NOTE:
            return f"{gravest.rule}: {gravest.text}"
        for sample in samples:
            for rule in self._rules.by_reading.get(sample.name, ()):
                at_once = rule.share is None and not rule.growth_over_s and not rule.dry_run and rule.action is not Action.NOTE
                if at_once and sample.value is not None and rule.holds(sample.value):
                    return f"{rule.name}: {sample.name} {sample.value:g}" + (f" ({sample.detail})" if sample.detail else "")
        return ""

    def take(self, samples: Iterable[Sample]) -> None:
        """Take readings."""
        booting = self._clock.monotonic() < BOOT_S  # a machine's clock counts from its boot
        for sample in samples:
            if not (booting and sample.name in COMES_LATE):
                self._judge.take(sample)

    def hear(self, event: GpuEvent) -> None:
        """Take an event."""
        self._judge.hear(event)

    def use(self, message: pb.HealthRules) -> bool:
        """Judge by other rules from now on. Those that are not valid are refused; returns whether they are other ones."""
        try:
            rules = parse_rules(message.toml, "the controller's rules") if message.toml else default_rules()
        except ConfigError as error:
            log.error("the controller's health rules are refused: %s", "; ".join(error.faults)[:1000])
            return False
        if rules.revision == self._rules.revision:
            return False
        log.info("health rules %s (were %s)", rules.revision, self._rules.revision)
        self._rules = rules
        self._memory.kept.rules = message.toml
        self._judge.use(rules)
        return True

    def resolve(self, rule: str, gpu: str) -> None:
        """Forget what a rule (`*`: every one) has found on a GPU (empty: on all). A deep check that failed is then due again."""
        log.info("health: %.64s on %.64s is resolved", rule, gpu or "all")
        self._judge.resolve(rule, gpu)
        left = tuple(each for each in self._deep_findings if rule not in ("*", each.rule) or gpu not in ("", each.gpu))
        if left != self._deep_findings:
            self.found_deep("", left)

    def found_deep(self, result: str, findings: tuple[Finding, ...]) -> None:
        """Take what came of the deep check."""
        self._deep_findings = findings
        self._memory.kept.set_deep(result, findings)

    def tell(self, snapshot: Snapshot, say: Callable[[str, pb.AgentMessage], None], *, again: bool) -> None:
        """Tell how the node is where that has changed, or `again`."""
        now_so = essence(snapshot, self._rules.revision)
        if now_so == self._told and not again:
            return
        say("health", health_message(snapshot, self._rules.revision))
        if now_so == self._told:
            return
        self._told = now_so
        self._log(snapshot.findings)
        if snapshot.ready or snapshot.findings:
            self._write_verdict(snapshot.findings)
        self.save()

    def renew(self, snapshot: Snapshot, within_s: float) -> None:
        """Write the word for Slurm's hook anew, if it would be older than it may be `within_s` from now; keep what was not kept yet."""
        if self._unsaved:
            self.save()
        due_s = RENEW_S - within_s
        if snapshot.ready and (self._written_at is None or self._clock.monotonic() - self._written_at >= due_s):
            self._write_verdict(snapshot.findings)

    def save_soon(self) -> None:
        """Keep it, within some seconds: what changes the verdict is kept by `tell`, and a storm of its like must not be written each time.

        The kernel's messages are kept with the number of the last one: those that were not are read again.
        """
        self._unsaved = True
        if self._clock.monotonic() - self._saved_at >= SAVE_S:
            self.save()

    def save(self) -> None:
        """Keep it."""
        self._unsaved, self._saved_at = False, self._clock.monotonic()
        self._memory.kept.judge = self._judge.saved()
        self._memory.save()

    def _write_verdict(self, findings: tuple[Finding, ...]) -> None:
        self._written_at = self._clock.monotonic()
        self._verdict_file.write(findings, self._clock.now())

    def _log(self, findings: tuple[Finding, ...]) -> None:
        now_so = {(finding.key, finding.action, finding.dry_run): finding.text for finding in findings}
        for (key, action, dry_run), text in now_so.items():
            if (key, action, dry_run) not in self._logged:
                log.warning("health: %s (%s%s): %s", key, action, ", dry run" if dry_run else "", text)
        for key, action, _ in self._logged - now_so.keys():
            log.info("health: %s (%s) is over", key, action)
        self._logged = frozenset(now_so)


def _kept_rules(toml: str) -> Rules:
    if not toml:
        return default_rules()
    try:
        return parse_rules(toml, "the kept rules")
    except ConfigError as error:
        log.error("the kept health rules are not valid any more, the default ones hold: %s", "; ".join(error.faults)[:1000])
        return default_rules()
