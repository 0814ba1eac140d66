"""Recorded markets: both encodings, speed, start, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from holdfast_sandbox.cloud_config import CloudConfig, load
from holdfast_sandbox.market import Pool
from holdfast_sandbox.trace import build_market

V100 = {
    "instance": "p3.2xlarge",
    "step_s": 200,
    "meaning": "a key that only describes",
    "pools": {
        "us-east-1a": {
            "region": "us-east-1",
            "on_demand_usd_h": 3.06,
            "spot_usd_h_runs": [[2, 1.0], [1, 1.5]],
            "available": "0110",
        }
    },
}
H100 = {
    "instance": "a3-highgpu-1g",
    "step_s": 600,
    "pools": {
        "us-central1-a": {
            "region": "us-central1",
            "on_demand_usd_h": 10.3,
            "spot_usd_h": 2.37,
            "available": [16, 8, 0],
        },
        "us-central1-b": {"region": "us-central1", "on_demand_usd_h": 10.3, "spot_usd_h": 2.4, "available": [1]},
    },
}


def config_for(tmp_path: Path, trace: dict[str, Any], **settings: Any) -> CloudConfig:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(trace))
    config = {
        "state_dir": str(tmp_path / "s"),
        "trace": {"path": str(path), **settings},
        "instance_command": ["true"],
    }
    config_path = tmp_path / "config.json"
    config_path.write_text(json.dumps(config))
    return load(config_path)


def test_a_trace_of_zeros_and_ones(tmp_path: Path) -> None:
    market = build_market(config_for(tmp_path, V100, speed=100, instances_per_unit=3), 1000.0)
    pool = Pool("us-east-1a", "p3.2xlarge", "spot")
    assert [market.capacity(pool, 1000 + t) for t in (0, 2, 4, 6, 100)] == [0, 3, 3, 0, 0]
    assert [market.price_usd_h(pool, 1000 + t) for t in (0, 3.9, 4, 100)] == [1.0, 1.0, 1.5, 1.5]
    assert market.next_change(1000) == 1002
    assert market.price_usd_h(Pool("us-east-1a", "p3.2xlarge", "on_demand"), 1000) == 3.06


def test_a_trace_of_counts_under_another_instance_type(tmp_path: Path) -> None:
    chosen = {"instance_type": "sim1.small", "start_step": 1, "zones": ["us-central1-a"]}
    market = build_market(config_for(tmp_path, H100, **chosen), 0.0)
    pool = Pool("us-central1-a", "sim1.small", "spot")
    assert [market.capacity(pool, t) for t in (0, 600, 6000)] == [8, 0, 0]
    assert set(market.zones) == {"us-central1-a"}


@pytest.mark.parametrize(
    ("trace", "settings", "message"),
    [
        (H100 | {"instance": "a9-highgpu-1g"}, {}, "instance type a9-highgpu-1g is unknown"),
        (V100, {"zones": ["nowhere-1a"]}, "not in the trace"),
        (V100 | {"step_s": 0}, {}, "step_s"),
        (V100 | {"pools": {}}, {}, "pools"),
    ],
)
def test_a_bad_trace_is_refused(tmp_path: Path, trace: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_market(config_for(tmp_path, trace, **settings), 0.0)


@pytest.mark.parametrize(
    "pool",
    [
        {"available": "012", "spot_usd_h": 1.0},
        {"available": "", "spot_usd_h": 1.0},
        {"available": "1"},
        {"available": "1", "spot_usd_h": 1.0, "spot_usd_h_runs": [[1, 1.0]]},
        {"available": [-1], "spot_usd_h": 1.0},
    ],
)
def test_a_bad_zone_of_a_trace_is_refused(tmp_path: Path, pool: dict[str, Any]) -> None:
    trace = V100 | {"pools": {"us-east-1a": {"region": "us-east-1", "on_demand_usd_h": 1.0, **pool}}}
    with pytest.raises(ValueError, match=r"available|spot_usd_h|steps"):
        build_market(config_for(tmp_path, trace), 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zones": []}, "zones or a trace"),
        ({"instance_command": []}, "instance_command"),
        ({"no_such_key": 1}, "no_such_key"),
        ({"boot_delay_s": "1"}, "boot_delay_s"),
        ({"ip_prefix": "10.0"}, "ip_prefix"),
    ],
)
def test_a_bad_configuration_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    zone = {"name": "z1", "region": "r1", "capacity": {"sim1.small": 1}, "spot_price_usd_h": 1, "on_demand_usd_h": 2}
    path = tmp_path / "config.json"
    good = {"state_dir": "s", "zones": [zone], "instance_command": ["true"]}
    path.write_text(json.dumps(good))
    assert load(path).zones[0].capacity == {"sim1.small": 1}
    assert load(path).state_dir.is_absolute()
    path.write_text(json.dumps(good | change))
    with pytest.raises(ValueError, match=message):
        load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"capacity": {"p99.huge": 1}}, "unknown instance type p99.huge"),
        ({"spot_price_usd_h": {"sim1.large": 1.0}}, "no price for sim1.small"),
        ({"capacity": {"sim1.small": -1}}, "greater than or equal"),
        ({"name": "Z 1"}, "name"),
    ],
)
def test_a_bad_zone_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    zone = {"name": "z1", "region": "r1", "capacity": {"sim1.small": 1}, "spot_price_usd_h": 1, "on_demand_usd_h": 2}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"state_dir": "s", "zones": [zone | change], "instance_command": ["true"]}))
    with pytest.raises(ValueError, match=message):
        load(path)
