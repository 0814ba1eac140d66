"""What docs/administration.md says of choosing pools, of calls and of notices is what the code does, number by number."""

import pytest
from doc_pages import ROOT, rows
from holdfast_controller.capacity import (
    BLOCK_S,
    FRESH_HOURS,
    FRESH_PER_H,
    HALF_LIFE_S,
    OBSERVED_HALF_LIFE_S,
    PASSING_S,
    SCARCE_PER_H,
    expected_usd_h,
)
from holdfast_controller.cloud_effects import TRIES
from holdfast_controller.decide.orders import MAX_OTHERS
from holdfast_controller.decide.placement import SCARCE
from holdfast_controller.decide.reclaim import RESTS_S
from holdfast_controller.market import OFFERS_EVERY_S, PRICES_EVERY_S, SCORES_EVERY_S
from holdfast_controller.providers.aws_fleet_wire import COUNT_MAX as FLEET_MAX
from holdfast_controller.providers.aws_scores import LEAST_TYPES
from holdfast_controller.providers.aws_wire import CALL_MAX as EC2_CALL_MAX
from holdfast_controller.providers.aws_wire import NOTICE_S
from holdfast_controller.providers.azure_calls import RATES
from holdfast_controller.providers.azure_config import AzureConfig
from holdfast_controller.providers.azure_offers import SCORES
from holdfast_controller.providers.azure_wire import COUNT_MAX as SET_MAX
from holdfast_controller.providers.base import FaultKind
from holdfast_controller.providers.gcp_calls import RATE as GCE_RATE
from holdfast_controller.providers.gcp_config import GcpConfig
from holdfast_controller.providers.gcp_operations import SOFT_OFF_S
from holdfast_controller.providers.gcp_wire import CALL_MAX as GCE_CALL_MAX
from holdfast_controller.reclaims import AGENT_FIRST_S
from holdfast_nodeagent.config import AgentConfig
from holdfast_nodeagent.notices import aws, azure, gcp

ADMINISTRATION = ROOT / "docs" / "administration.md"
PAGE = ADMINISTRATION.read_text()
WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}


@pytest.mark.parametrize(
    "said",
    [
        f"after {HALF_LIFE_S / 60:g} minutes it counts half, after an hour a quarter",
        f"(reclaims seen + told * {FRESH_HOURS:g}) / (instance-hours seen + {FRESH_HOURS:g})",
        f"or {FRESH_PER_H:g} where it gives none",
        f"| {BLOCK_S[FaultKind.QUOTA]:g} s, or until enough instances have gone |",
        f"a missing right (`auth`) | {BLOCK_S[FaultKind.CONFIG]:g} s |",
        f"| as long as the cloud says, at most {PASSING_S:g} s | the same launch is tried {WORDS[TRIES]} times first",
        f"over up to {MAX_OTHERS + 1} pools",
        f"RunInstances; calls of at most {EC2_CALL_MAX} |",
        f"bulkInsert in the zone; calls of at most {GCE_CALL_MAX:,} |",
        f"one flexible scale set of at most {SET_MAX:,} machines",
        f"Not for more than {FLEET_MAX:,} instances, nor for a capacity block",
        f"Google's {GCE_RATE.capacity:g} at once and {GCE_RATE.refill_per_s:g} a second",
        f"Azure's {RATES['creating'].capacity:g} at once and {RATES['creating'].refill_per_s:g} a second for what writes, "
        f"{RATES['reading'].capacity:g} and {RATES['reading'].refill_per_s:g} for what reads",
        f"(High, Medium, Low as {SCORES['high']:g}, {SCORES['medium']:g}, {SCORES['low']:g})",
        f"placement score, of {WORDS[LEAST_TYPES]} instance types or more",
        f"within {AGENT_FIRST_S:g} seconds",
        f"switched off for {WORDS[int(RESTS_S / 60)]} minutes",
        f"{WORDS[round(1 / AgentConfig.model_fields['poll_s'].default)]} times a second (`poll_s`)",
    ],
)
def test_a_number_is_that_of_the_code(said: str) -> None:
    assert said in PAGE


def test_numbers_that_stand_there_as_words() -> None:
    assert (SCARCE, SCARCE_PER_H) == (0.5, 1.0), "one half; the hazard is raised by the doubt itself"
    assert OBSERVED_HALF_LIFE_S == OFFERS_EVERY_S == 86_400.0, "a day"
    assert BLOCK_S[FaultKind.CONFIG] == BLOCK_S[FaultKind.AUTH] == 600.0, "troubleshooting: ten minutes"
    assert (PRICES_EVERY_S, SCORES_EVERY_S) == (60.0, 3600.0), "once a minute, once an hour"
    assert GcpConfig.model_fields["price_refresh_s"].default == 3600.0
    assert RATES["deleting"] == RATES["creating"]
    assert azure.POLL_S == 1.0, "once a second"
    assert aws.SLOW_EVERY == 5, "at each fifth look"


def test_the_formula_is_that_of_the_code() -> None:
    assert "cost   = price / max(1/20, 1 - nodes * hazard * setback_s / 3600)" in PAGE
    assert expected_usd_h(2.0, 0.5, 4, 600.0) == pytest.approx(2.0 / (1 - 4 * 0.5 * 600 / 3600))
    assert expected_usd_h(2.0, 10.0, 16, 600.0) == pytest.approx(2.0 / (1 / 20))


def test_how_long_ahead_a_notice_comes() -> None:
    ahead = {what: (when, kind.strip("`")) for _, what, when, kind in rows(ADMINISTRATION, "notices")}
    assert ahead["interruption of a spot instance"] == (f"{NOTICE_S:g} s", "preempt")
    assert aws.AwsMetadata.window_s == NOTICE_S
    when, kind = ahead["`preempted`: a Spot VM is taken back"]
    assert f"({GcpConfig.model_fields['preemption_notice_s'].default} s), and {SOFT_OFF_S:g} s more" in when
    assert SOFT_OFF_S == gcp.SOFT_OFF_S
    assert kind == "preempt"
    assert ahead["`maintenance-event`: the VM is ended for its host"] == (
        f"{gcp.GPU_LEAD_S / 3600:g} hour for machine types that have GPUs, else {gcp.MIGRATION_LEAD_S:g} s",
        "maintenance",
    )
    assert ahead["Preempt: a spot machine is evicted"] == (f"{azure.AzureMetadata.window_s:g} s", "preempt")
    terminate = f"({AzureConfig.model_fields['terminate_notice_minutes'].default} min)"
    assert terminate in ahead["Terminate: somebody deletes the machine"][0]
    for event, (notice, _) in azure._KINDS.items():
        assert [kind for what, (_, kind) in ahead.items() if event in what] == [notice]
