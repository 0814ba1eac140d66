"""A node's health for the tests of what is exported."""

from holdfast_common.health.catalogue import READINGS
from holdfast_common.health.model import Action, Finding, Sample
from holdfast_common.health.rules import default_rules
from holdfast_nodeagent.gpu.inventory import Gpu, Inventory
from holdfast_nodeagent.health.snapshot import GpuJob, Snapshot, TierTime, XidCount

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
