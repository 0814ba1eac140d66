"""What the agent is measured against: a plain exporter, as one writes it with nvidia-ml-py and prometheus-client in an afternoon.

It reads the same of each GPU, every 15 s, in one process, and serves it as gauges. It judges nothing, and hangs with the driver.
Usage: python -m bench.health_plain PORT-FILE (LD_LIBRARY_PATH says which libnvidia-ml.so.1)
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import prometheus_client as prometheus
import pynvml

EVERY_S = 15.0
_REASONS = {"hw_slowdown": 0x8, "sw_thermal": 0x20, "hw_thermal": 0x40, "hw_power_brake": 0x80}
_REMAPS = ("remap_corrected", "remap_uncorrected", "remap_pending", "remap_failed")

Values = Mapping[str, float]


def _as(name: str) -> Callable[[Any], Values]:
    return lambda value: {name: value}


_CALLS: Sequence[tuple[str, Sequence[Any], Callable[[Any], Values]]] = (
    ("Temperature", [0], _as("temperature")),
    ("MarginTemperature", [], _as("margin")),
    ("PowerUsage", [], _as("power_milliwatts")),
    ("TotalEnergyConsumption", [], _as("energy_millijoules")),
    ("UtilizationRates", [], lambda rates: {"utilization": rates.gpu}),
    ("MemoryInfo", [], lambda memory: {"memory_used": memory.used, "memory_total": memory.total}),
    *(("TotalEccErrors", [kind, counter], _as(f"ecc_{kind}_{counter}")) for kind in (0, 1) for counter in (0, 1)),
    ("RemappedRows", [], lambda rows: dict(zip(_REMAPS, rows, strict=True))),
    ("CurrentClocksEventReasons", [], lambda reasons: {name: float(reasons & bit != 0) for name, bit in _REASONS.items()}),
    *((name, [], _as(name)) for name in ("PcieReplayCounter", "CurrPcieLinkWidth", "MaxPcieLinkWidth", "CurrPcieLinkGeneration")),
    *((name, [], _as(name)) for name in ("MaxPcieLinkGeneration", "PersistenceMode")),
    ("FieldValues", [[82, 160, 161, 162, 230]], lambda fields: {f"field_{each.fieldId}": each.value.ullVal for each in fields}),
    *(("NvLinkState", [link], _as(f"nvlink_{link}")) for link in range(18)),
    ("ComputeRunningProcesses", [], lambda processes: {"processes": len(processes)}),
)


def _read(handle: Any) -> Iterator[tuple[str, float]]:
    for name, arguments, values in _CALLS:
        try:
            yield from values(getattr(pynvml, f"nvmlDeviceGet{name}")(handle, *arguments)).items()
        except pynvml.NVMLError:
            continue


def main(port_file: Path) -> None:
    """Serve until killed."""
    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
    gauges: dict[str, prometheus.Gauge] = {}
    server, _ = prometheus.start_http_server(0, "127.0.0.1")
    told = False
    while True:
        for index, (handle, uuid) in enumerate(zip(handles, uuids, strict=True)):
            for name, value in _read(handle):
                if name not in gauges:
                    gauges[name] = prometheus.Gauge(f"plain_{name}", name, ["gpu", "uuid"])
                gauges[name].labels(str(index), uuid).set(value)
        if not told:
            port_file.write_text(str(server.server_port), encoding="ascii")
            told = True
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
