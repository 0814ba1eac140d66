"""The agent's `/metrics`: golden text of eight H100 GPUs, promtool's opinion, and a server that nobody can hang."""

import asyncio
import os
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from holdfast_common.exposition import Families, text
from holdfast_common.health.catalogue import READINGS
from holdfast_common.health.model import Action, Finding, Sample
from holdfast_common.health.rules import default_rules
from holdfast_common.metrics import AGENT
from holdfast_nodeagent.dcgm import dcgm_families
from holdfast_nodeagent.exporter import families, serve
from holdfast_nodeagent.gpu.inventory import Gpu, Inventory
from holdfast_nodeagent.health.snapshot import GpuJob, Snapshot, TierTime, XidCount

GOLDEN = Path(__file__).parent / "golden"
PROMTOOL = Path(__file__).parents[2] / ".venv" / "prometheus" / "usr" / "bin" / "promtool"
AT = 1_700_000_000.0


def h100s() -> Snapshot:
    """Eight GPUs of which everything has been read; GPU 3 has had an XID 79, and its memory temperature cannot be read."""
    gpus = tuple(
        Gpu(i, f"GPU-{i:08d}", f"0000:{0x1B + i:02x}:00.0", "NVIDIA H100 80GB HBM3", f"165000000000{i}", "96.00.99.00.01") for i in range(8)
    )
    samples = {}
    for place, reading in enumerate(READINGS.values()):
        for gpu in gpus if reading.scope == "gpu" else ():
            value = 1.0 if reading.name == "up" else 0.0 if reading.unit == "1" else float(place)
            samples[(reading.name, gpu.uuid)] = Sample(AT, reading.name, value, gpu.uuid)
        if reading.scope == "node":
            samples[(reading.name, "")] = Sample(AT, reading.name, 8.0 if reading.name == "gpus_visible" else 0.5)
    hot = "memory_temperature_celsius"
    samples[(hot, gpus[3].uuid)] = Sample(AT, hot, None, gpus[3].uuid, "unsupported")
    lost = Finding("xid-79", Action.REPLACE, AT, gpus[3].uuid, "XID 79")
    tried = Finding("hot", Action.NOTE, AT, gpus[2].uuid, "91 °C", dry_run=True)
    return Snapshot(
        node="n1",
        ready=True,
        polled_at=AT,
        inventory=Inventory("570.124.06", "12.570.124.06", gpus),
        gpus_expected=8,
        samples=samples,
        findings=(lost, tried),
        rules=default_rules().reading,
        xids={(gpus[3].uuid, 79): XidCount(1, AT)},
        gpu_jobs=(GpuJob(gpus[0].uuid, 12, "ada", "vision", "spot"),),
        tiers={"fast": TierTime(3, 0.006, (0, 0, 2, 3, 3, 3, 3))},
        stalls=1,
        restarts=2,
    )


def test_eight_gpus_are_told_as_they_always_were() -> None:
    """To renew the file: HOLDFAST_GOLDEN=1. A changed name breaks people's dashboards."""
    told = text(families(h100s(), True)).decode()
    path = GOLDEN / "agent.txt"
    if os.environ.get("HOLDFAST_GOLDEN") == "1":
        path.write_text(told)
    assert told == path.read_text()


def test_everything_in_the_table_is_told() -> None:
    assert {family.name for family in families(h100s(), True)} == {metric.name for metric in AGENT}


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


async def fetched(port: int, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    def get() -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""

    return await asyncio.to_thread(get)


async def test_it_is_served_and_only_that() -> None:
    exporter = serve("127.0.0.1:0", h100s, lambda: True, False)
    try:
        status, told = await fetched(exporter.port)
        assert (status, told) == (200, (GOLDEN / "agent.txt").read_text())
        assert (await fetched(exporter.port, "/etc/passwd"))[0] == 404
        assert (await fetched(exporter.port, "/metrics", "POST"))[0] == 405
        assert await fetched(exporter.port, "/-/healthy") == (200, "ok\n")
    finally:
        exporter.close()


async def test_a_taken_port_is_said_and_the_agent_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        exporter = serve(f"127.0.0.1:{taken.getsockname()[1]}", h100s, lambda: True, False)
    assert exporter.port == 0
    assert "cannot listen" in caplog.text
    exporter.close()


async def test_a_fault_in_one_scrape_is_that_scrapes() -> None:
    broken = True

    def snapshot() -> Snapshot:
        if broken:
            raise RuntimeError("no")
        return h100s()

    exporter = serve("127.0.0.1:0", snapshot, lambda: True, False)
    try:
        assert (await fetched(exporter.port))[0] == 503
        broken = False
        assert (await fetched(exporter.port))[0] == 200
    finally:
        exporter.close()


async def test_callers_that_ask_nothing_do_not_keep_others_from_asking() -> None:
    exporter = serve("127.0.0.1:0", h100s, lambda: True, False)
    idle = [socket.create_connection(("127.0.0.1", exporter.port)) for _ in range(3)]
    try:
        assert (await fetched(exporter.port))[0] == 200
        before = threading.active_count()
        more = [socket.create_connection(("127.0.0.1", exporter.port)) for _ in range(40)]
        for _ in range(100):
            await asyncio.sleep(0.01)
            if threading.active_count() > before:
                break
        assert threading.active_count() <= before + 8, "so many are answered at a time, and no more"
        idle += more
    finally:
        for each in idle:
            each.close()
        exporter.close()
