"""The slurm.conf fragment as text: what it says for which version, and which settings are refused."""

from dataclasses import replace
from pathlib import Path

import pytest
from holdfast_common.errors import ConfigError
from holdfast_slurm.conf import parse_version, render_gres_conf, render_slurm_conf, required_settings
from holdfast_slurm.conf_settings import HOOKS, NodeGroup, Setting, SlurmSettings
from hypothesis import given
from hypothesis import strategies as st

GROUPS = (
    NodeGroup("h100", 4, 192, 2_000_000, "gpu:h100:8", weight=10),
    NodeGroup("spot", 16, 4, 15_000, "gpu:1"),
    NodeGroup("cpu", 1, 8, 30_000),
)
OLD = SlurmSettings((22, 5, 8), Path("/etc/holdfast/hooks"), GROUPS)
NEW = replace(OLD, version=(25, 11, 2), cloud_dns=True, munge_socket=Path("/run/munge/munge.socket.2"))
GOLDEN = Path(__file__).parent / "golden"


def lines(settings: SlurmSettings) -> dict[str, str]:
    pairs = (line.split("=", 1) for line in render_slurm_conf(settings).splitlines() if line and not line.startswith("#"))
    return {key: value for key, value in pairs if key != "NodeName"}


@pytest.mark.parametrize(("settings", "name"), [(OLD, "slurm-22.05.conf"), (NEW, "slurm-25.11.conf")])
def test_fragment_is_as_agreed(settings: SlurmSettings, name: str) -> None:
    assert render_slurm_conf(settings) == (GOLDEN / name).read_text()


def test_configless_is_asked_for_with_its_reason() -> None:
    text = render_slurm_conf(replace(OLD, configless=True))
    assert lines(replace(OLD, configless=True))["SlurmctldParameters"].endswith(",enable_configless")
    assert "relative path" in text
    assert "configless" not in render_slurm_conf(OLD)


def test_gres_is_as_agreed() -> None:
    assert render_gres_conf(OLD) == (GOLDEN / "gres.conf").read_text()
    assert render_gres_conf(replace(OLD, node_groups=GROUPS[2:])) == ""
    assert "GresTypes" not in render_slurm_conf(replace(OLD, node_groups=GROUPS[2:]))


def test_every_setting_has_its_reason_above_it() -> None:
    before = ""
    for line in render_slurm_conf(NEW).splitlines():
        if line and not line.startswith("#"):
            assert before.startswith("# ") or before.startswith("NodeName="), line
        before = line


@pytest.mark.parametrize(
    ("version", "hidden_nodes", "requeue_delay"),
    [
        ((22, 5, 8), True, False),
        ((23, 2, 0), False, False),
        ((24, 11, 5), False, False),
        ((25, 11, 0), False, True),
        ((26, 5, 5), False, True),
    ],
)
def test_what_depends_on_the_version(version: tuple[int, int, int], hidden_nodes: bool, requeue_delay: bool) -> None:
    found = lines(replace(OLD, version=version))
    assert (found.get("PrivateData") == "cloud") is hidden_nodes
    assert ("requeue_delay=0" in found["SchedulerParameters"]) is requeue_delay
    assert ("cred_expire=" in found.get("AuthInfo", "")) is not requeue_delay


def test_nothing_ends_a_waiting_prolog_and_no_other_node_is_powered_down() -> None:
    found = lines(OLD)
    assert "PrologEpilogTimeout" not in found
    assert "SuspendTime" not in found
    assert "SuspendTime=300" in found["PartitionName"]
    assert {key: found[key] for key in HOOKS} == {key: f"/etc/holdfast/hooks/{name}" for key, name in HOOKS.items()}


@given(kill=st.integers(1, 300), message=st.integers(1, 120), suspend=st.integers(1, 600))
def test_suspend_timeout_outlasts_a_stale_kill(kill: int, message: int, suspend: int) -> None:
    def make() -> SlurmSettings:
        return replace(OLD, kill_wait_s=kill, message_timeout_s=message, suspend_timeout_s=suspend)

    if suspend < kill + message + 5:
        with pytest.raises(ConfigError, match="suspend_timeout_s"):
            make()
    else:
        assert lines(make())["SuspendTimeout"] == str(suspend)


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        SlurmSettings(
            (21, 8, 8),
            Path("hooks dir"),
            (NodeGroup("a b", 0, 1, 1), NodeGroup("x", 1, 1, 1, "gpu"), NodeGroup("x", 1, 1, 1)),
            partition="p\nSlurmUser=root",
            resume_timeout_s=0,
        )
    told = " ".join(caught.value.faults)
    for word in ("22.05", "hooks_dir", "'a b'", "count", "gpu:8", "same prefix", "SlurmUser", "resume_timeout_s"):
        assert word in told


@pytest.mark.parametrize(
    ("check", "want", "value", "holds"),
    [
        ("equal", "5", "5 sec", True),
        ("equal", "5", "30 sec", False),
        ("equal", "0", "0 nodes/min", True),
        ("equal", "1", "(null)", False),
        ("equal", "/etc/holdfast/hooks/resume", "/etc/holdfast/hooks/resume", True),
        ("equal", "/etc/holdfast/hooks/resume", "(null)", False),
        ("at_least", "300", "300 sec", True),
        ("at_least", "300", "299 sec", False),
        ("contains", "Alloc", "Alloc,Contain", True),
        ("contains", "a=1,b=2", "b=2,c=3,A=1", True),
        ("contains", "a=1", "a=10", False),
        ("unset_or_at_least", "600", "65534", True),
        ("unset_or_at_least", "600", "60 sec", False),
        ("unset_or_at_least", "600", "600 sec", True),
    ],
)
def test_a_demand_reads_what_scontrol_prints(check: str, want: str, value: str, holds: bool) -> None:
    assert Setting("Key", want, check, "because").holds(value) is holds  # type: ignore[arg-type]


def test_demands_are_those_of_the_fragment() -> None:
    told = {setting.key for setting in required_settings(NEW)} - {"PrologEpilogTimeout"}
    assert told == set(lines(NEW)) - {"PartitionName", "GresTypes"}


@pytest.mark.parametrize(
    ("text", "version"), [("slurm-wlm 22.05.8\n", (22, 5, 8)), ("slurm 25.11.0-0rc1", (25, 11, 0)), ("slurm 26.05.5", (26, 5, 5))]
)
def test_version_is_read(text: str, version: tuple[int, int, int]) -> None:
    assert parse_version(text) == version


def test_no_version_is_an_error() -> None:
    with pytest.raises(ValueError, match="no Slurm version"):
        parse_version("command not found")
