import json
from pathlib import Path
from typing import Any

import pytest
from holdfast_common.errors import ConfigError
from holdfast_common.policy import Policy, parse_policy, pool_name
from hypothesis import given
from hypothesis import strategies as st

GOLDEN = Path(__file__).parent / "golden"
TEXT = (GOLDEN / "policy.toml").read_text()


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_policy(text)
    assert caught.value.where == "policy"
    return caught.value.faults


def changed(*replacements: tuple[str, str]) -> str:
    text = TEXT
    for old, new in replacements:
        assert text.count(old) >= 1, old
        text = text.replace(old, new, 1)
    return text


def test_the_golden_policy_means_what_it_meant() -> None:
    assert parse_policy(TEXT).model_dump(mode="json") == json.loads((GOLDEN / "policy.json").read_text())


def test_a_short_policy_has_the_documented_defaults() -> None:
    small = parse_policy(TEXT).partitions["small"]
    assert (small.order, small.ondemand, small.ondemand_after_s) == ("listed", "never", None)
    assert (small.checkpoint.signal, small.checkpoint.margin_s, small.checkpoint.kill_wait_s) == ("", 2.0, 5.0)
    assert (small.requeue.max_attempts, small.requeue.crash_loop_s, small.requeue.crash_loop_count) == (100, 30.0, 5)
    launch = small.launch
    assert (launch.registration_timeout_s, launch.refusal_backoff_s, launch.refusal_memory_s, launch.orphan_grace_s) == (300, 30, 1800, 300)
    health = small.health
    assert (health.act, health.evacuate_s, health.keep_sick_s, health.avoid_pool_s, health.deep_check_level) == (True, 600, 0, 600, 0)


def test_look_ups() -> None:
    policy = parse_policy(TEXT)
    assert policy.group_of("spot-8") == "gpu"
    assert policy.group_of("spot-9") is None
    assert policy.group_of("small-1") is None
    assert policy.partition_of("small-01") == "small"
    assert policy.partition_of("later") is None
    assert policy.partition_of("nobody") is None
    assert [pool.name for pool in policy.pools_for_node("spot-1")] == [
        "aws/us-west-2/us-west-2-lax-1a/p5.48xlarge/spot",
        "aws/us-east-1/us-east-1a/p5.48xlarge/spot",
        "aws/us-east-1/us-east-1a/p5.48xlarge/on_demand",
    ]
    assert policy.pools_for_node("later") == policy.partition_pools("nosuch") == ()
    assert policy.nodes == (*(f"spot-{number}" for number in range(1, 9)), "small-01", "small-02", "one")
    assert policy.partitions["spot"].ondemand_after_s == 300.0
    assert pool_name("p", "r", "z", "t", "spot") == "p/r/z/t/spot"


def test_the_revision_follows_the_meaning_only() -> None:
    revision = parse_policy(TEXT).revision
    head, *tables = TEXT.split("\n\n")
    assert parse_policy("\n\n".join([head, *reversed(tables)]).replace("2_000_000", "2000000  # MB")).revision == revision
    assert parse_policy(changed(("60.0", "61.0"))).revision != revision
    assert parse_policy(changed(('["b", "a", "dear"]', '["a", "b", "dear"]'))).revision != revision
    assert len(revision) == 12


def test_every_fault_is_told_at_once_with_its_path() -> None:
    text = changed(
        ("version = 1", "version = 2"),
        ('provider = "aws"', 'provider = "awz"'),
        ('market = "spot"', 'market = "spott"'),
        ("price_cap_usd_h = 60.0", "price_cap_usd_h = 0"),
        ('zone = "us-west-2-lax-1a"', 'zone = "us-east-1b"'),
        ("gpus = 8", 'gpuz = "8"'),
        ("cpus = 192", 'cpus = "192"'),
        ('nodes = "small-[01-02],one"', 'nodes = "small-[2-1]"'),
        ('nodes = "later"', 'nodes = "spot-[8-9]"'),
        ('pools = ["b", "a", "dear"]', 'pools = ["b", "deer", "b", 3]'),
        ('order = "price"', 'order = "prize"'),
        ("when_refused(300)", "when_late"),
        ("B:USR1", "B:USR3"),
        ("margin_s = 2.5", "margin_s = nan"),
        ("max_attempts = 100", "max_attempts = 0"),
        ('node_groups = ["small"]', 'node_groups = ["gpu", "smal"]\nbudget = 3'),
    )
    assert sorted(faults(text)) == sorted(
        [
            "version: 2 is not allowed: 1",
            "pools.a.provider: 'awz' is not allowed: 'aws', 'gcp', 'azure' or 'fake'; did you mean 'aws'?",
            "pools.a.market: 'spott' is not allowed: 'spot' or 'on_demand'; did you mean 'spot'?",
            "pools.a.price_cap_usd_h: 0 is not allowed: should be greater than 0",
            "pools.b.zone: 'us-east-1b' is not in region 'us-west-2'",
            "node_groups.gpu.gpuz: unknown key; did you mean 'gpus'? (known: cpus, gpu_model, gpus, memory_mb, nodes)",
            "node_groups.gpu.cpus: '192' is not allowed: should be a valid integer",
            "node_groups.small.nodes: 'small-[2-1]' is not allowed: not a host list: the range '2-1' runs backwards",
            "node_groups.unused.nodes: 'spot-8' is in node_groups.gpu already",
            "partitions.spot.pools[1]: there is no 'deer'; did you mean 'dear'?",
            "partitions.spot.pools[2]: 'b' is named twice",
            "partitions.spot.pools[3]: must be a text in quotes",
            "partitions.spot.order: 'prize' is not allowed: 'listed', 'price' or 'scored'; did you mean 'price'?",
            "partitions.spot.ondemand: 'when_late' is not allowed: 'never' or 'when_refused(SECONDS)'",
            "partitions.spot.checkpoint.signal: 'B:USR3' is no signal such as 'USR1' or 'B:USR1'; did you mean 'USR2'?",
            "partitions.spot.checkpoint.margin_s: nan is not allowed: should be a finite number",
            "partitions.spot.requeue.max_attempts: 0 is not allowed: should be greater than or equal to 1",
            "partitions.small.node_groups: 'gpu' belongs to partition 'spot' already; a group has one partition",
            "partitions.small.node_groups[1]: there is no 'smal'; did you mean 'small'?",
            "partitions.small.budget: unknown key (known: checkpoint, health, launch, node_groups, ondemand, order, pools, requeue)",
        ]
    )


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('pools = ["a"]', "pools = []", "partitions.small.pools: at least one entry is needed"),
        ('pools = ["a"]', "", "partitions.small.pools is missing"),
        ('ondemand = "when_refused(300)"', "", "'dear' is on-demand, which partitions.spot.ondemand = 'never' forbids"),
        ('["b", "a", "dear"]', '["b", "a"]', "'when_refused(300)' has no effect without an on-demand pool"),
        ('market = "on_demand"', 'market = "spot"', "pools.dear is the same pool as pools.a: aws/us-east-1/us-east-1a/p5.48xlarge/spot"),
        ("[pools.b]", '[pools."b c"]', "pools.'b c': 'b c' is not allowed: write 1 to 64 letters"),
        ('"B:USR1"', '"KILL"', "cannot be caught by a job"),
        ('zone = "us-east-1a"', 'zone = "us-east-1a/x"', "pools.a.zone: 'us-east-1a/x' is not allowed"),
        ("[node_groups.unused]", "[node_groupz.unused]", "node_groupz: unknown key; did you mean 'node_groups'?"),
        ("kill_wait_s = 5", "kill_wait_s = true", "kill_wait_s: True is not allowed"),
        ('nodes = "later"', 'nodes = ""', "node_groups.unused.nodes: '' names no node"),
        ("act = false", "act = 0", "partitions.spot.health.act: 0 is not allowed"),
        ("evacuate_s = 120", "evacuate_s = 0", "partitions.spot.health.evacuate_s: 0 is not allowed"),
        ("deep_check_level = 2", "deep_check_level = 5", "partitions.spot.health.deep_check_level: 5 is not allowed"),
        ("keep_sick_s = 3600", "keep_sick = 3600", "partitions.spot.health.keep_sick: unknown key; did you mean 'keep_sick_s'?"),
    ],
)
def test_each_fault_has_its_sentence(old: str, new: str, fault: str) -> None:
    found = faults(changed((old, new)))
    assert any(fault in each for each in found), found


@pytest.mark.parametrize(
    "text", ["", "x", "version = ", "a = " + "[" * 5000, "a = " + "1" * 5000, "a" * 300_000, "pools = 3", "version = 1\n" * 2]
)
def test_what_is_no_policy_is_refused_in_words(text: str) -> None:
    assert all(fault and "Traceback" not in fault for fault in faults(text))


@given(st.integers(0, len(TEXT) - 1), st.integers(0, 40), st.text(alphabet="[]{}=\"',.\n #0aé-", max_size=8))
def test_a_damaged_policy_is_read_or_refused_never_more(at: int, cut: int, put: str) -> None:
    text = TEXT[:at] + put + TEXT[at + cut :]
    try:
        policy: Policy | None = parse_policy(text)
    except ConfigError as error:
        policy, found = None, error.faults
    assert policy is not None or all(isinstance(fault, str) and fault for fault in found)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["spot", "a", "gpu", "when_refused(3)", "n[1-9]"])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "pools", "nodes", "node_groups", "zone", "ondemand"]), inner, max_size=4)
    ),
)


@given(st.dictionaries(st.sampled_from(["version", "pools", "node_groups", "partitions"]), VALUES))
def test_cross_checks_survive_any_shape(data: dict[str, Any]) -> None:
    from holdfast_common.policy_checks import cross_faults

    assert all(isinstance(fault, str) for fault in cross_faults(data))


def test_a_policy_cannot_be_changed_in_place() -> None:
    policy = parse_policy(TEXT)
    with pytest.raises(ValueError, match="frozen"):
        policy.partitions["spot"].order = "listed"
