"""What the agent tells Prometheus: the golden text of eight H100 GPUs, and promtool's opinion of it."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from holdfast_common.exposition import Families, text
from holdfast_common.health.model import Sample
from holdfast_common.metrics import AGENT
from holdfast_nodeagent.dcgm import dcgm_families
from holdfast_nodeagent.exporter import families, fresh
from holdfast_nodeagent.health.snapshot import GpuJob, Snapshot
from snapshots import AT, h100s

GOLDEN = Path(__file__).parent / "golden"
PROMTOOL = Path(__file__).parents[2] / ".venv" / "prometheus" / "usr" / "bin" / "promtool"


def test_eight_gpus_are_told_as_they_always_were() -> None:
    """To renew the file: HOLDFAST_GOLDEN=1. A changed name breaks people's dashboards."""
    told = text(families(h100s(), True)).decode()
    path = GOLDEN / "agent.txt"
    if os.environ.get("HOLDFAST_GOLDEN") == "1":
        path.write_text(told)
    assert told == path.read_text()


def test_everything_in_the_table_is_told() -> None:
    assert {family.name for family in families(h100s(), True)} == {metric.name for metric in AGENT}


def test_jobs_are_labels_of_one_series_alone() -> None:
    """A label that changes with each job would multiply what Prometheus stores; that one is joined to the others."""
    of_jobs = {"job", "job_id", "user", "account", "partition"}
    assert {metric.name for metric in AGENT if of_jobs & set(metric.labels)} == {"holdfast_gpu_job_info"}
    told = {family.name for family in families(h100s(), True) for each in family.samples if of_jobs & each.labels.keys()}
    assert told == {"holdfast_gpu_job_info"}


def test_each_metric_is_told_as_what_the_table_calls_it() -> None:
    told = text(families(h100s(), True)).decode()
    assert {line for line in told.splitlines() if line.startswith("# TYPE ")} == {
        f"# TYPE {metric.name}{'_total' if metric.kind == 'counter' else ''} {metric.kind}" for metric in AGENT
    }


def test_what_a_gpu_does_not_support_has_no_series() -> None:
    told = text(families(h100s(), True)).decode()
    assert 'holdfast_gpu_temperature_celsius{gpu="3",node="n1",sensor="memory"' not in told
    assert 'holdfast_gpu_temperature_celsius{gpu="2",node="n1",sensor="memory"' in told


def test_a_rule_is_0_where_it_was_read_and_nothing_holds_and_2_where_it_asks_for_something() -> None:
    levels = {}
    for family in families(h100s(), True):
        if family.name == "holdfast_gpu_health":
            levels = {(sample.labels["gpu"], sample.labels["check"]): sample.value for sample in family.samples}
    assert levels[("3", "xid-79")] == 2
    assert levels[("2", "hot")] == 1, "a dry run asks for nothing"
    assert levels[("1", "hot")] == 0
    assert ("1", "xid-79") not in levels
    assert ("3", "hot-memory") not in levels, "it cannot be read"


@pytest.mark.skipif(not PROMTOOL.exists(), reason="scripts/setup could not unpack promtool")
@pytest.mark.parametrize("dcgm", [False, True])
def test_promtool_has_nothing_to_say(dcgm: bool) -> None:
    told = text(families(h100s(), True))
    found = subprocess.run([PROMTOOL, "check", "metrics"], input=told, capture_output=True, check=False)
    assert (found.returncode, found.stderr) == (0, b"")
    if dcgm:  # other people's names are not held against promtool's taste, but must be a text that it reads
        found = subprocess.run([PROMTOOL, "check", "metrics"], input=text(dcgm_families(h100s())), capture_output=True, check=False)
        assert b"error while linting" not in found.stderr


def test_dcgm_names_have_dcgms_units_and_labels() -> None:
    gib = float(1 << 30)
    uuid = "GPU-00000000"
    said = {"memory_total_bytes": 80 * gib, "memory_used_bytes": 16 * gib, "energy_joules": 5.0, "utilization_ratio": 0.5}
    snapshot = h100s()
    samples = dict(snapshot.samples) | {(name, uuid): Sample(AT, name, value, uuid) for name, value in said.items()}
    found = {
        (each.name, each.labels["gpu"]): each for family in dcgm_families(replace(snapshot, samples=samples)) for each in family.samples
    }
    assert found[("DCGM_FI_DEV_FB_FREE", "0")].value == 64 * 1024
    assert found[("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "0")].value == 5000
    assert found[("DCGM_FI_DEV_GPU_UTIL", "0")].value == 50
    assert found[("DCGM_FI_DEV_XID_ERRORS", "3")].value == 79
    assert found[("DCGM_FI_DEV_XID_ERRORS", "0")].labels == {
        "gpu": "0",
        "UUID": uuid,
        "pci_bus_id": "00000000:1B:00.0",
        "device": "nvidia0",
        "modelName": "NVIDIA H100 80GB HBM3",
        "Hostname": "n1",
    }


def test_a_node_without_gpus_tells_of_itself() -> None:
    told = text(families(Snapshot(node="n1"), False)).decode()
    assert 'holdfast_agent_connected{node="n1"} 0.0' in told
    assert "holdfast_gpu_up" not in told
    assert "holdfast_agent_last_poll" not in told, "never polled is not 1970"


def test_names_and_labels_come_from_the_table_alone() -> None:
    made = Families()
    with pytest.raises(KeyError):
        made.add("made_up", 1)
    with pytest.raises(ValueError, match="labels"):
        made.add("gpu_up", 1, {"node": "n1"})


def test_values_that_a_job_or_a_board_chose_cannot_break_the_text() -> None:
    odd = GpuJob("GPU-0", 1, 'a"b\\c\nd', "x", "y")
    told = text(families(Snapshot(node="n1", gpu_jobs=(odd,)), True)).decode()
    assert 'user="a\\"b\\\\c\\nd"' in told


def test_what_was_not_read_for_long_is_not_shown() -> None:
    snapshot = h100s()
    assert fresh(snapshot, AT + 25.0) == snapshot
    names = {name for name, _ in fresh(snapshot, AT + 25.5).samples}
    assert "gpus_visible" not in names
    assert {"power_watts", "pcie_replays", "disk_free_ratio"} <= names, "they are taken less often"
    assert fresh(snapshot, AT + 191.0).samples == {}
    told = text(families(fresh(snapshot, AT + 191.0), True)).decode()
    assert "holdfast_gpu_up{" not in told
    assert f'holdfast_agent_last_poll_timestamp_seconds{{node="n1"}} {AT / 1e9:.1f}e+09' in told, "that is what the alert looks at"
    assert 'holdfast_gpu_health{check="xid-79",gpu="3",node="n1",uuid="GPU-00000003"} 2.0' in told, "what was found holds on"
    assert fresh(snapshot, AT - 3600.0) == snapshot, "a clock that was set back makes nothing old"
