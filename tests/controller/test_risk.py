"""Who is told how often its node is lost, and when."""

import time

import pytest
from holdfast_controller import capacity, risk
from holdfast_controller import events as e
from holdfast_controller.plan import Plans
from holdfast_controller.providers.base import Instance, Quote
from holdfast_controller.risk import AGAIN_S, MOST_AT_ONCE, Told, changed, due, hazard_per_h, market

NOW = 1_800_000_000.0
SPOT, ON_DEMAND = "aws/r1/a/g1/spot", "aws/r1/a/g1/on_demand"


@pytest.fixture
def fleet(world):
    for number, pool in enumerate((SPOT, ON_DEMAND, "")):
        world.apply(e.InstanceChanged(NOW, Instance(f"i-{number}", "L1", pool, "running", launched=NOW)))
    return world.fleet


def test_a_spot_machines_hazard_is_its_pools(fleet):
    plans = Plans(quotes={SPOT: Quote(preemptions_per_h=0.05)})
    told = hazard_per_h(fleet, plans, "i-0", NOW)
    assert told == capacity.hazard_per_h(fleet.pools.get(SPOT), plans.quotes[SPOT], NOW, 1, 1)
    assert 0.04 < told <= 0.05
    capacity.refuse(fleet.pools, SPOT, NOW, "no", 1)
    assert hazard_per_h(fleet, plans, "i-0", NOW) == pytest.approx(told + 1.0, rel=0.05)


def test_an_on_demand_machine_has_a_small_one_and_an_unknown_one_none(fleet):
    assert hazard_per_h(fleet, Plans(), "i-1", NOW) == risk.ON_DEMAND_PER_H
    assert hazard_per_h(fleet, Plans(), "i-2", NOW) is None, "its pool is not known"
    assert hazard_per_h(fleet, Plans(), "i-9", NOW) is None, "nobody knows it"
    assert [market(fleet, f"i-{number}") for number in range(4)] == ["spot", "on_demand", None, None]


def test_what_is_worth_a_message():
    assert changed(0.2, 0.26)
    assert changed(0.26, 0.2)
    assert not changed(0.2, 0.24)
    assert changed(0.0, 0.2)
    assert not changed(0.0, 1e-5)


def test_who_is_told():
    hazards = {"changed": 0.5, "older": 0.4, "new": 0.2, "same": 0.21, "lately": 9.0, "unknown": None}
    told = {
        "changed": Told(0.2, 0.0),
        "older": Told(0.2, -5.0),
        "new": None,
        "same": Told(0.2, 0.0),
        "lately": Told(0.2, 1.0),
        "unknown": None,
    }
    assert due(told, hazards.get, AGAIN_S) == [("new", 0.2), ("older", 0.4), ("changed", 0.5)], "the longest untold first"


def test_of_a_thousand_so_many_at_once_and_each_in_its_turn():
    told: dict[str, Told | None] = {f"i-{number}": None for number in range(1000)}
    now, looks, asked = 1000.0, 0, 0

    def hazard(_: str) -> float:
        nonlocal asked
        asked += 1
        return 0.2

    while news := due(told, hazard, now):
        assert len(news) <= MOST_AT_ONCE
        for instance_id, hazard_now in news:
            assert told[instance_id] is None, "nobody is told twice while others wait"
            told[instance_id] = Told(hazard_now, now)
        looks, now = looks + 1, now + risk.LOOK_S
    assert looks == 1000 / MOST_AT_ONCE
    assert None not in told.values()


def test_a_look_at_a_thousand_is_cheap(world):
    for number in range(1000):
        world.apply(e.InstanceChanged(NOW, Instance(f"i-{number}", "L1", SPOT, "running", launched=NOW)))
    told = {f"i-{number}": Told(0.0, 0.0) for number in range(1000)}
    began = time.process_time()
    assert len(due(told, lambda instance_id: hazard_per_h(world.fleet, Plans(), instance_id, NOW), 1000.0)) == MOST_AT_ONCE
    took_s = time.process_time() - began
    print(f"a look at 1,000 agents: {took_s * 1e3:.1f} ms")
    assert took_s < 0.1
