"""The names, units and labels of NVIDIA's dcgm-exporter (those of its releases up to 4.8.2), for dashboards that a site has already."""

from collections.abc import Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily, UnknownMetricFamily
from prometheus_client.core import Metric as Family

from holdfast_nodeagent.gpu.inventory import Gpu
from holdfast_nodeagent.health.snapshot import Snapshot

LABELS = ("gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname")
MIB = 1024.0 * 1024.0

_FIELDS: Mapping[str, tuple[str, float, str]] = {
    "DCGM_FI_DEV_GPU_TEMP": ("temperature_celsius", 1.0, "GPU temperature (in C)."),
    "DCGM_FI_DEV_MEMORY_TEMP": ("memory_temperature_celsius", 1.0, "Memory temperature (in C)."),
    "DCGM_FI_DEV_POWER_USAGE": ("power_watts", 1.0, "Power draw (in W)."),
    "DCGM_FI_DEV_GPU_UTIL": ("utilization_ratio", 100.0, "GPU utilization (in %)."),
    "DCGM_FI_DEV_FB_USED": ("memory_used_bytes", 1.0 / MIB, "Framebuffer memory used (in MiB)."),
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": ("row_remap_correctable", 1.0, "Remapped rows for correctable errors."),
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": ("row_remap_uncorrectable", 1.0, "Remapped rows for uncorrectable errors."),
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": ("row_remap_failed", 1.0, "Whether remapping of rows has failed."),
}
"""Gauge → our reading, the factor to DCGM's unit, its help."""
_COUNTERS: Mapping[str, tuple[str, float, str]] = {
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("energy_joules", 1000.0, "Total energy consumption since boot (in mJ)."),
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": ("pcie_replays", 1.0, "Total number of PCIe retries."),
}
"""Counters that do not end in `_total`, as dcgm-exporter writes them; the client library knows none, so that they have no type."""


def dcgm_families(snapshot: Snapshot) -> Iterable[Family]:
    """Return the series of one scrape."""
    made: list[Family] = []
    for fields, kind in ((_FIELDS, GaugeMetricFamily), (_COUNTERS, UnknownMetricFamily)):
        for name, (reading, factor, text) in fields.items():
            family = kind(name, text, labels=LABELS)
            for gpu in snapshot.inventory.gpus:
                sample = snapshot.samples.get((reading, gpu.uuid))
                if sample is not None and sample.value is not None:
                    family.add_metric(_labels(snapshot, gpu), sample.value * factor)
            made.append(family)
    made += [_free(snapshot), _last_xid(snapshot)]
    return [family for family in made if family.samples]


def _free(snapshot: Snapshot) -> Family:
    family = GaugeMetricFamily("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB).", labels=LABELS)
    for gpu in snapshot.inventory.gpus:
        total, used = (snapshot.samples.get((name, gpu.uuid)) for name in ("memory_total_bytes", "memory_used_bytes"))
        if total is not None and used is not None and total.value is not None and used.value is not None:
            family.add_metric(_labels(snapshot, gpu), (total.value - used.value) / MIB)
    return family


def _last_xid(snapshot: Snapshot) -> Family:
    family = GaugeMetricFamily("DCGM_FI_DEV_XID_ERRORS", "Value of the last XID error encountered.", labels=LABELS)
    for gpu in snapshot.inventory.gpus:
        seen = [(count.last_at, xid) for (uuid, xid), count in snapshot.xids.items() if uuid == gpu.uuid]
        family.add_metric(_labels(snapshot, gpu), float(max(seen)[1]) if seen else 0.0)
    return family


def _labels(snapshot: Snapshot, gpu: Gpu) -> list[str]:
    return [str(gpu.index), gpu.uuid, f"0000{gpu.pci.upper()}", f"nvidia{gpu.index}", gpu.model, snapshot.node]
