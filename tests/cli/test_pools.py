"""`holdfast pools` and `pools discover`: prices, refusals, quotas and shapes, for people and for machines."""

import tomllib

import pytest
from holdfast_controller import events as e
from holdfast_controller.commands import Launch
from holdfast_controller.providers.base import Fault, FaultKind, Market, Offer
from holdfast_controller.providers.fake_faults import refusal

POOL = "fake/r1/r1a/g1/spot"
H100 = Offer("fake", "r1", "g1", ("r1a", "r1b"), "H100", 8, 81_920, 192, 2_097_152)
L4 = Offer("fake", "r1", "small", ("r1a",), "L4", 1, 24_576, 4, 16_384, (Market.ON_DEMAND,))


async def refuse(stage, kind: FaultKind, code: str, number: int = 1) -> None:
    """A launch of one node that failed."""
    command = Launch(f"launch:hf-{number}", "why", f"hf-{number}", POOL, ("spot-1",), 7, minimum=1)
    await stage.record(e.CommandIssued(stage.now, 100 + number, command))
    await stage.record(e.LaunchEnded(stage.now, command.launch_id, POOL, (), (Fault(kind, code, "no", retry_s=3600.0),)))


async def test_a_pool_of_which_nothing_is_known(stage) -> None:
    (pool,) = (await stage.cli("pools", "--json")).document["pools"]
    assert (pool["name"], pool["full_name"], pool["partitions"], pool["state"]) == ("a", POOL, ["spot"], "ready")
    assert (pool["price_usd_h"], pool["score"], pool["quota"], pool["gpus"], pool["refused_at"]) == (None, None, None, None, None)
    assert pool["hazard_per_h"] > 0


async def test_live_asks_the_clouds(stage) -> None:
    (pool,) = (await stage.cli("pools", "--live", "--json")).document["pools"]
    assert (pool["price_usd_h"], pool["on_demand_usd_h"], pool["score"]) == (2.5, 9.0, 1.0)
    stage.cloud.inject(refusal(FaultKind.THROTTLE, 5.0).on("quotes"))
    shown = await stage.cli("pools", "--live")
    assert shown.code == 0
    assert "2.50" in shown.out, "the last price stands"
    assert "No answer from fake: throttle" in shown.err


async def test_a_refusal_is_shown_and_why_the_pool_is_not_asked(stage) -> None:
    await refuse(stage, FaultKind.CAPACITY, "InsufficientInstanceCapacity")
    (pool,) = (await stage.cli("pools", "--json")).document["pools"]
    assert (pool["refusals"], pool["last_fault"]) == (1, "capacity: InsufficientInstanceCapacity")
    assert 0.5 < pool["doubt"] <= 1.0
    shown = await stage.cli("pools")
    assert "1 (" in shown.out
    assert "POOL" in shown.out


async def test_a_quota_is_shown_as_it_was_met_and_is_no_refusal(stage) -> None:
    await refuse(stage, FaultKind.QUOTA, "VcpuLimitExceeded")
    (pool,) = (await stage.cli("pools", "--json")).document["pools"]
    assert (pool["quota"], pool["refusals"]) == (0, 0)
    assert pool["state"].startswith("quota: VcpuLimitExceeded, the account had 0")


async def test_unknown_names_and_markets_are_told(stage) -> None:
    wrong = await stage.cli("pools", "discover", "--market", "sopt")
    assert (wrong.code, "there is no market 'sopt'" in wrong.err) == (2, True)


async def test_discover_filters_by_model_and_number(stage) -> None:
    stage.cloud.sold = (L4, H100)
    (offer,) = (await stage.cli("pools", "discover", "--gpu", "h100", "--min-gpus", "8", "--json")).document["offers"]
    assert (offer["instance_type"], offer["gpus"], offer["zones"], offer["gpu_memory_mb"]) == ("g1", 8, ["r1a", "r1b"], 81_920)
    table = await stage.cli("pools", "discover")
    assert "8 x H100" in table.out
    assert "small" not in table.out, "it is not sold on the spot market"
    on_demand = await stage.cli("pools", "discover", "--market", "on_demand")
    assert "small" in on_demand.out


async def test_discover_writes_tables_for_the_policy(stage) -> None:
    stage.cloud.sold = (H100,)
    written = await stage.cli("pools", "discover", "--toml")
    pools = tomllib.loads(written.out)["pools"]
    assert [pool["zone"] for pool in pools.values()] == ["r1a", "r1b"]
    whole = stage.policy.read_text() + "\n" + written.out.replace('zone = "r1a"', 'zone = "r1c"')
    stage.policies.check(whole)


async def test_discover_without_any_answer_fails(stage) -> None:
    stage.cloud.inject(refusal(FaultKind.AUTH).on("offers"))
    failed = await stage.cli("pools", "discover")
    assert failed.code == 1
    assert "No answer from fake: auth" in failed.err


@pytest.mark.parametrize("arguments", [("pools", "--help"), ("pools", "discover", "--help")])
async def test_help_teaches_by_example(stage, arguments) -> None:
    shown = await stage.cli(*arguments)
    assert "Examples:" in shown.out
    assert "holdfast pools discover" in shown.out


async def test_shapes_that_are_known_bar_pools_that_do_not_fit(stage) -> None:
    stage.policies.set(stage.policies.text.replace('nodes = "spot-[1-3]"', 'nodes = "spot-[1-3]"\ngpus = 4'), stage.fleet)
    stage.cloud.sold = (H100,)
    await stage.cli("pools", "discover")
    (pool,) = (await stage.cli("pools", "--json")).document["pools"]
    assert (pool["state"], pool["gpus"], pool["gpu_model"]) == ("g1 has 8 GPUs and not 4", 8, "H100")
