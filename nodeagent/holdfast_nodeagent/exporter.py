"""The agent's `/metrics`: the newest snapshot of the node's health as Prometheus' series.

What is unsupported has no series, and what has not been read for long has none any more: a temperature of before the driver hung would look
like one of now.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from holdfast_common.exposition import CONTENT_TYPE, Families, text
from holdfast_common.health.catalogue import CLOCK_REASONS, READINGS, TIER_S
from holdfast_common.health.model import Action
from holdfast_common.metrics_server import ANSWER_S, MetricsServer, in_loop

from holdfast_nodeagent import __version__
from holdfast_nodeagent.dcgm import dcgm_families
from holdfast_nodeagent.gpu.inventory import Gpu
from holdfast_nodeagent.health.snapshot import Snapshot

MISSED_ROUNDS, GRACE_S = 3.0, 10.0
"""A reading is shown until so many rounds of its tier, and so many seconds, have passed without another."""

Labels = dict[str, str]

log = logging.getLogger(__name__)

NODE = {
    "disk_free_ratio": "node_disk_free_ratio",
    "disk_free_bytes": "node_disk_free_bytes",
    "read_only_filesystems": "node_read_only_filesystems",
    "memory_available_ratio": "node_memory_available_ratio",
    "memory_pressure_ratio": "node_memory_pressure_ratio",
    "clock_skew_seconds": "node_clock_skew_seconds",
    "checkpoint_store_missing": "node_checkpoint_store_missing",
    "gpus_visible": "gpus_visible",
}
"""Reading of the node → metric."""
PLAIN: Mapping[str, tuple[str, Labels]] = {
    "up": ("gpu_up", {}),
    "recovery_action": ("gpu_recovery_action", {}),
    "ecc_uncorrectable_volatile": ("gpu_ecc_errors", {"type": "uncorrectable", "counter": "volatile"}),
    "ecc_uncorrectable_aggregate": ("gpu_ecc_errors", {"type": "uncorrectable", "counter": "aggregate"}),
    "ecc_corrected_volatile": ("gpu_ecc_errors", {"type": "corrected", "counter": "volatile"}),
    "ecc_corrected_aggregate": ("gpu_ecc_errors", {"type": "corrected", "counter": "aggregate"}),
    "row_remap_pending": ("gpu_row_remap_pending", {}),
    "row_remap_failed": ("gpu_row_remap_failure", {}),
    "row_remap_uncorrectable": ("gpu_remapped_rows", {"cause": "uncorrectable"}),
    "row_remap_correctable": ("gpu_remapped_rows", {"cause": "correctable"}),
    "retired_pages": ("gpu_retired_pages", {}),
    "temperature_celsius": ("gpu_temperature_celsius", {"sensor": "gpu"}),
    "memory_temperature_celsius": ("gpu_temperature_celsius", {"sensor": "memory"}),
    "thermal_margin_celsius": ("gpu_thermal_margin_celsius", {}),
    "power_watts": ("gpu_power_watts", {}),
    "energy_joules": ("gpu_energy_joules", {}),
    "utilization_ratio": ("gpu_utilization_ratio", {}),
    "memory_used_bytes": ("gpu_memory_used_bytes", {}),
    "memory_total_bytes": ("gpu_memory_total_bytes", {}),
    "pcie_replays": ("gpu_pcie_replays", {}),
    "pcie_width": ("gpu_pcie_link_width", {"which": "current"}),
    "pcie_width_max": ("gpu_pcie_link_width", {"which": "max"}),
    "pcie_gen": ("gpu_pcie_link_gen", {"which": "current"}),
    "pcie_gen_max": ("gpu_pcie_link_gen", {"which": "max"}),
    "nvlink_crc_errors": ("gpu_nvlink_errors", {"type": "crc"}),
    "nvlink_replay_errors": ("gpu_nvlink_errors", {"type": "replay"}),
    "nvlink_recovery_errors": ("gpu_nvlink_errors", {"type": "recovery"}),
    "nvlinks_active": ("gpu_nvlinks_active", {}),
    "fabric_unhealthy": ("gpu_fabric_unhealthy", {}),
    **{f"clock_{reason}": ("gpu_clock_event_reason_active", {"reason": reason}) for reason in CLOCK_REASONS},
}
"""Reading of a GPU → metric and further labels."""


def fresh(snapshot: Snapshot, now: float) -> Snapshot:
    """Return it with the readings only that were taken lately."""
    oldest = {name: now - MISSED_ROUNDS * TIER_S[reading.tier] - GRACE_S for name, reading in READINGS.items()}
    return replace(snapshot, samples={key: sample for key, sample in snapshot.samples.items() if sample.at >= oldest.get(sample.name, now)})


def families(snapshot: Snapshot, connected: bool) -> Families:
    """Return the series of one scrape."""
    made = Families()
    node = {"node": snapshot.node}
    made.add("agent_build_info", 1, {**node, "version": __version__})
    made.add("agent_connected", connected, node)
    made.add("agent_ready", snapshot.ready, node)
    if snapshot.polled_at:
        made.add("agent_last_poll_timestamp_seconds", snapshot.polled_at, node)
    made.add("agent_nvml_probe_stalls", snapshot.stalls, node)
    made.add("agent_nvml_restarts", snapshot.restarts, node)
    for tier, took in sorted(snapshot.tiers.items()):
        made.histogram("agent_nvml_call_seconds", took.buckets, took.count, took.sum_s, {**node, "tier": tier})
    if snapshot.gpus_expected is not None:
        made.add("gpus_expected", snapshot.gpus_expected, node)
    _node_readings(made, snapshot, node)
    labels = {gpu.uuid: {**node, "gpu": str(gpu.index), "uuid": gpu.uuid} for gpu in snapshot.inventory.gpus}
    for gpu in snapshot.inventory.gpus:
        _gpu_readings(made, snapshot, gpu, labels[gpu.uuid])
    _findings(made, snapshot, node, labels)
    _xids(made, snapshot, node, labels)
    for job in snapshot.gpu_jobs:
        who = {"uuid": job.uuid, "job_id": str(job.job_id), "user": job.user, "account": job.account, "partition": job.partition}
        made.add("gpu_job_info", 1, {**node, **who})
    return made


def _node_readings(made: Families, snapshot: Snapshot, node: Labels) -> None:
    for reading, metric in NODE.items():
        sample = snapshot.samples.get((reading, ""))
        if sample is not None and sample.state == "ok" and sample.value is not None:
            made.add(metric, sample.value, node)


def _gpu_readings(made: Families, snapshot: Snapshot, gpu: Gpu, labels: Labels) -> None:
    what = {"model": gpu.model, "pci_bus_id": gpu.pci, "serial": gpu.serial, "driver": snapshot.inventory.driver, "vbios": gpu.vbios}
    made.add("gpu_info", 1, {**labels, **what})
    for reading, (metric, more) in PLAIN.items():
        sample = snapshot.samples.get((reading, gpu.uuid))
        if sample is not None and sample.state == "ok" and sample.value is not None:
            made.add(metric, sample.value, {**labels, **more})


def _findings(made: Families, snapshot: Snapshot, node: Labels, labels: Mapping[str, Labels]) -> None:
    """Every finding; and for each rule on a GPU's reading 0 where that was read and nothing holds, as alerts want to see it end."""
    levels = {
        (rule.name, uuid): 0.0
        for rule in snapshot.rules
        for uuid in labels
        if READINGS[rule.reading].scope == "gpu" and _is_read(snapshot, rule.reading, uuid)
    }
    for finding in snapshot.findings:
        said = {"uuid": finding.gpu, "rule": finding.rule, "action": str(finding.action), "dry_run": str(finding.dry_run).lower()}
        made.add("node_finding", 1, {**node, **said})
        if finding.gpu in labels:
            levels[(finding.rule, finding.gpu)] = 1.0 if finding.dry_run or finding.action is Action.NOTE else 2.0
    for (rule, uuid), level in sorted(levels.items()):
        made.add("gpu_health", level, {**labels[uuid], "check": rule})


def _is_read(snapshot: Snapshot, reading: str, uuid: str) -> bool:
    sample = snapshot.samples.get((reading, uuid))
    return sample is not None and sample.state == "ok"


def _xids(made: Families, snapshot: Snapshot, node: Labels, labels: Mapping[str, Labels]) -> None:
    for (uuid, xid), seen in sorted(snapshot.xids.items()):
        of = {**labels.get(uuid, {**node, "gpu": "", "uuid": uuid}), "xid": str(xid)}
        made.add("gpu_xid_errors", seen.count, of)
        made.add("gpu_xid_last_timestamp_seconds", seen.last_at, of)


class Exporter:
    """Serves one agent's metrics."""

    def __init__(self, server: MetricsServer | None) -> None:
        self._server = server

    @property
    def port(self) -> int:
        """Where it listens; 0: nowhere."""
        return self._server.port if self._server is not None else 0

    def close(self) -> None:
        """Stop."""
        if self._server is not None:
            self._server.close()


def serve(
    listen: str,
    snapshot: Callable[[], Snapshot],
    connected: Callable[[], bool],
    dcgm_names: bool,
    now: Callable[[], float],
    answer_s: float = ANSWER_S,
) -> Exporter:
    """Serve `/metrics` at `listen` (host:port; empty: not at all). A port that is taken is logged, and the agent goes on without.

    Call it from the agent's loop: that is where `snapshot` is asked, and the text is made in the request's own thread. Where that loop
    hangs, the answer is 503 after `answer_s`. `now` gives Unix seconds.
    """
    if not listen:
        return Exporter(None)
    loop = asyncio.get_running_loop()

    def asked() -> tuple[Snapshot, bool]:
        return in_loop(loop, lambda: (fresh(snapshot(), now()), connected()), answer_s)

    def healthy() -> tuple[str, bytes]:
        asked()
        return "text/plain", b"ok\n"

    def page() -> tuple[str, bytes]:
        newest, welcomed = asked()
        return CONTENT_TYPE, text(families(newest, welcomed), dcgm_families(newest) if dcgm_names else ())

    try:
        return Exporter(MetricsServer(listen, {"/metrics": page, "/-/healthy": healthy}))
    except OSError as error:
        log.error("no metrics: cannot listen on %s: %s", listen, error)
        return Exporter(None)
