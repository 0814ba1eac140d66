"""The node's health as the controller is told of it."""

from holdfast_common.health.model import Finding, Sample
from holdfast_protos.v1 import agent_pb2 as pb

from holdfast_nodeagent.health.snapshot import Snapshot

MAX_FINDINGS = 256
MAX_TEXT = 1024
MAX_JOBS = 100
"""The newest of those that a rule blames."""


def health_message(snapshot: Snapshot, rules_revision: str) -> pb.AgentMessage:
    """Return all of it. Of more findings than a message holds, the gravest are told."""
    gravest = sorted(snapshot.findings, key=lambda finding: (finding.dry_run, -finding.action.rank, finding.since, finding.key))
    return pb.AgentMessage(
        health=pb.Health(
            ready=snapshot.ready,
            findings=[_finding(finding) for finding in gravest[:MAX_FINDINGS]],
            gpus_visible=len(snapshot.inventory.gpus),
            driver=snapshot.inventory.driver,
            rules_revision=rules_revision,
            readings=[_reading(sample) for _, sample in sorted(snapshot.samples.items())],
            quick_check=snapshot.quick_check[:MAX_TEXT],
            deep_check=snapshot.deep_check[:MAX_TEXT],
        )
    )


def essence(snapshot: Snapshot, rules_revision: str) -> tuple[object, ...]:
    """Return what must be told when it changes. Figures in a finding's text move with every reading, and are told with the next change."""
    findings = tuple((each.key, each.action, each.since, each.dry_run, each.strikes, each.job_ids) for each in snapshot.findings)
    state = (snapshot.ready, len(snapshot.inventory.gpus), snapshot.inventory.driver, snapshot.quick_check, snapshot.deep_check)
    return (findings, state, rules_revision)


def _finding(finding: Finding) -> pb.HealthFinding:
    return pb.HealthFinding(
        rule=finding.rule,
        gpu=finding.gpu,
        action=finding.action.value,
        since=finding.since,
        text=finding.text[:MAX_TEXT],
        advice=finding.advice[:MAX_TEXT],
        dry_run=finding.dry_run,
        strikes=max(0, finding.strikes),
        job_ids=finding.job_ids[-MAX_JOBS:],
    )


def _reading(sample: Sample) -> pb.HealthReading:
    return pb.HealthReading(
        name=sample.name, gpu=sample.gpu, state=sample.state, value=sample.value or 0.0, detail=sample.detail[:MAX_TEXT]
    )
