"""The evidence of a good run, recorded by ./demo (only the journal's kinds that are looked at are kept)."""

from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_sandbox.demo.evidence import Evidence, Reclaim, ReclaimKind, read_evidence
from holdfast_sandbox.history.model import JobRun

RECORDED = Path(__file__).parent / "recorded" / "evidence.json"


@pytest.fixture
def evidence() -> Evidence:
    return read_evidence(RECORDED)


@pytest.fixture
def reclaim_of(evidence: Evidence) -> Callable[[ReclaimKind], Reclaim]:
    return lambda kind: next(reclaim for reclaim in evidence.reclaims if reclaim.kind == kind)


@pytest.fixture
def single(evidence: Evidence) -> JobRun:
    return evidence.jobs["single"]
