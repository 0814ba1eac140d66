"""Every metric that Holdfast exports: name, type, labels and meaning, in one table. Exporters take theirs from here and from nowhere else.

Names follow prometheus.io/docs/practices/naming: the prefix `holdfast_`, base units, `_total` for counters. GPU series carry no job: a
label that changes with each job multiplies what Prometheus stores; `holdfast_gpu_job_info` joins them
(`* on(node, uuid) group_left(job_id)`).
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["gauge", "counter", "histogram"]

GPU = ("node", "gpu", "uuid")
"""The labels of a GPU's series: the Slurm node, the GPU's index as NVML counts, its uuid."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family."""

    name: str
    """Without `_total`, which a counter's samples end in."""
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    buckets_s: tuple[float, ...] = ()
    """Of a histogram: upper bounds in seconds, without infinity."""


SHORT_S = (0.00001, 0.0001, 0.001, 0.01, 0.1, 1.0, 5.0)
"""Calls into a driver."""
WAITS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""What a preemption is made of: leads, saves, requeues, starts."""


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"holdfast_{name}", "gauge", text, labels)


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"holdfast_{name}", "counter", text, labels)


def _histogram(name: str, text: str, *labels: str, buckets_s: tuple[float, ...] = WAITS_S) -> Metric:
    return Metric(f"holdfast_{name}", "histogram", text, labels, buckets_s)


AGENT = (
    _gauge("agent_build_info", "1, with the agent's version", "node", "version"),
    _gauge("agent_last_poll_timestamp_seconds", "when the GPUs' readings were last taken", "node"),
    _histogram("agent_nvml_call_seconds", "how long one round of readings of a tier took", "node", "tier", buckets_s=SHORT_S),
    _counter("agent_nvml_probe_stalls", "heartbeats that the NVML process missed", "node"),
    _counter("agent_nvml_restarts", "starts of the NVML process after its first", "node"),
    _gauge("agent_connected", "1 while the controller has welcomed the agent", "node"),
    _gauge("agent_ready", "1 once everything has been read since the agent's start", "node"),
    _gauge("node_finding", "1 for each rule that holds (dry_run: true, false)", "node", "uuid", "rule", "action", "dry_run"),
    _gauge("node_disk_free_ratio", "free share of the fullest watched file system", "node"),
    _gauge("node_disk_free_bytes", "free bytes of the watched file system that has fewest", "node"),
    _gauge("node_read_only_filesystems", "watched file systems that are read-only", "node"),
    _gauge("node_memory_available_ratio", "share of the memory that is available", "node"),
    _gauge("node_memory_pressure_ratio", "share of the last minute in which all tasks waited for memory", "node"),
    _gauge("node_clock_skew_seconds", "how far the node's clock is from the controller's", "node"),
    _gauge("node_checkpoint_store_missing", "mounts of the checkpoint store that are missing or do not answer", "node"),
    _gauge("gpus_expected", "GPUs that the node should have", "node"),
    _gauge("gpus_visible", "GPUs that NVML lists and reaches", "node"),
    _gauge("gpu_up", "1 while the GPU answers", *GPU),
    _gauge("gpu_info", "1, with what the GPU is", *GPU, "model", "pci_bus_id", "serial", "driver", "vbios"),
    _gauge("gpu_job_info", "1 for each job that uses the GPU", "node", "uuid", "job_id", "user", "account", "partition"),
    _gauge(
        "gpu_health", "by rule (`check`): 0 it does not hold, 1 it holds and is noted, or is a dry run, 2 it asks for action", *GPU, "check"
    ),
    _gauge("gpu_recovery_action", "the driver's own verdict: 0 none, 1 reset, 2 reboot, …", *GPU),
    _counter("gpu_xid_errors", "XIDs by number", *GPU, "xid"),
    _gauge("gpu_xid_last_timestamp_seconds", "when the XID last came", *GPU, "xid"),
    _gauge("gpu_ecc_errors", "ECC errors (type: corrected, uncorrectable; counter: volatile, aggregate)", *GPU, "type", "counter"),
    _gauge("gpu_row_remap_pending", "1: a row is remapped at the next reset", *GPU),
    _gauge("gpu_row_remap_failure", "1: no spare row is left", *GPU),
    _gauge("gpu_remapped_rows", "remapped rows (cause: correctable, uncorrectable)", *GPU, "cause"),
    _gauge("gpu_retired_pages", "retired pages (before Ampere)", *GPU),
    _gauge("gpu_temperature_celsius", "temperature (sensor: gpu, memory)", *GPU, "sensor"),
    _gauge("gpu_thermal_margin_celsius", "how far below the slow-down temperature the GPU is", *GPU),
    _gauge("gpu_power_watts", "power drawn", *GPU),
    _counter("gpu_energy_joules", "energy drawn since the driver was loaded", *GPU),
    _gauge("gpu_clock_event_reason_active", "1 while the clocks are held down for the reason", *GPU, "reason"),
    _counter("gpu_pcie_replays", "PCIe replays since the driver was loaded", *GPU),
    _gauge("gpu_pcie_link_width", "PCIe lanes (which: current, max)", *GPU, "which"),
    _gauge("gpu_pcie_link_gen", "PCIe generation (which: current, max)", *GPU, "which"),
    _counter("gpu_nvlink_errors", "NVLink errors, all links (type: crc, replay, recovery)", *GPU, "type"),
    _gauge("gpu_nvlinks_active", "NVLinks that are up", *GPU),
    _gauge("gpu_fabric_unhealthy", "1: registered with a fabric, and not complete or not healthy", *GPU),
    _gauge("gpu_utilization_ratio", "share of the time in which a kernel ran", *GPU),
    _gauge("gpu_memory_used_bytes", "memory in use", *GPU),
    _gauge("gpu_memory_total_bytes", "memory", *GPU),
)
"""What a node's agent serves."""

CONTROLLER = (
    _gauge("controller_build_info", "1, with the controller's version", "version"),
    _gauge("controller_reconciled", "1 once Slurm and every cloud have been looked at since the start"),
    _gauge("controller_last_look_timestamp_seconds", "when Slurm last answered a look"),
    _gauge("nodes", "managed nodes by Holdfast's phase", "phase"),
    _gauge("jobs", "jobs on managed partitions by Holdfast's phase", "phase"),
    _gauge("node_intentional_down", "1 for a node that is going away, or was given up, on purpose: no cause for an alert", "node"),
    _gauge("node_drain_info", "1 for each node that is drained: by whom, and for what sort of reason", "node", "reason_class", "owner"),
    _gauge("node_agent_connected", "1 while the agent of a node with a machine is connected to the controller", "node"),
    _gauge("node_health_action", "gravest finding of the node: 0 none, 1 note, 2 drain, 3 evacuate, 4 replace", "node"),
    _counter("preemption_notices", "notices that nodes were given", "provider", "kind"),
    _gauge("preemption_deadline_timestamp_seconds", "when the node may be gone", "node"),
    _histogram("preemption_lead_seconds", "from the notice to its deadline", "provider"),
    _counter("preemption_unnoticed", "machines that were taken without a notice", "provider"),
    _counter(
        "evacuations",
        "attempts that had to leave: saved, deadline_missed (it could have been), unsaved (it cannot, or had no notice), ended, withdrawn",
        "cause",
        "outcome",
    ),
    _histogram("checkpoint_duration_seconds", "from telling a job to its being saved", "cause"),
    _histogram("requeue_duration_seconds", "from a notice to the requeue", "cause"),
    _histogram("resume_duration_seconds", "from a requeue to the job's next start", "cause"),
    _counter("requeues", "requeues of jobs that had to leave (cause: a notice's kind, or `loss` without one)", "cause"),
    _counter("steps_lost", "steps that an interruption cost, by the jobs' own word", "cause"),
    _counter("job_gpu_seconds", "GPU-seconds that jobs held: useful, lost (to be done again) or checkpoint (waiting to leave)", "kind"),
    _counter("gpu_seconds_lost", "GPU-seconds that must be done again", "cause"),
    _counter("machines_replaced_for_health", "machines that were given up because they were sick", "rule"),
    _counter("launches", "instances that a pool gave", "pool", "market"),
    _counter(
        "launch_faults", "launches that failed, by sort: capacity (a refusal), quota, throttle, config, auth, transient", "pool", "kind"
    ),
    _gauge("pool_instances", "instances that live", "pool", "market"),
    _gauge("pool_price_usd_per_hour", "newest price", "pool", "market"),
    _gauge("pool_on_demand_usd_per_hour", "what on-demand costs there", "pool"),
    _gauge("pool_hazard_per_hour", "what Holdfast reckons with: losses per instance-hour", "pool"),
    _gauge("pool_doubt_ratio", "how likely a launch is refused now", "pool"),
    _counter("cost_usd", "what instances have cost since the controller's start, by the price at their launch", "market"),
    _counter("unpriced_instance_seconds", "time of instances whose price nobody told: not in the cost", "market"),
    _counter("on_demand_cost_usd", "what the same hours would have cost on demand"),
)
"""What the controller serves. Counters begin at 0 with each start of it, which Prometheus' `rate` and `increase` know."""

METRICS: dict[str, Metric] = {metric.name: metric for metric in (*AGENT, *CONTROLLER)}
"""By name, without `_total`."""
