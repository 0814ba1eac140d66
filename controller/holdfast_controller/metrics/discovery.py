"""Where Prometheus finds the agents: its HTTP discovery, and the same as a file.

A machine is listed from its agent's first word until the cloud says that it ends, or its end was ordered: one that is silent stays
listed, since that is what an alert is for. All of it is in the journal, so that a controller that starts again lists the same.
"""

import json
from pathlib import Path
from typing import Any

from holdfast_common.files import replace_file

from holdfast_controller.fleet import Fleet


def listed(fleet: Fleet, cluster: str) -> list[dict[str, Any]]:
    """Return what Prometheus' http_sd and file_sd want: one group for each node whose machine's agent serves metrics."""
    found = []
    for node in fleet.nodes.values():
        record = fleet.instance_of(node)
        if record is None or record.agent is None or not record.agent.metrics_port or not record.alive or fleet.given_up(node.instance_id):
            continue
        address = record.instance.address or record.agent.address
        if not address:
            continue
        host = f"[{address}]" if ":" in address else address
        pool = record.instance.pool
        labels = {"node": node.name, "cluster": cluster, "pool": pool, "provider": pool.partition("/")[0]}
        found.append({"targets": [f"{host}:{record.agent.metrics_port}"], "labels": labels})
    return sorted(found, key=lambda group: str(group["labels"]))


def as_json(groups: list[dict[str, Any]]) -> bytes:
    """Return the groups as Prometheus reads them."""
    return json.dumps(groups, indent=1).encode() + b"\n"


class TargetsFile:
    """The same in a file, for `file_sd_configs`: replaced as a whole, whenever it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: bytes | None = None

    def write(self, groups: list[dict[str, Any]]) -> None:
        """Write them if they changed. Raises OSError."""
        content = as_json(groups)
        if content == self._written:
            return
        replace_file(self._path, content, 0o644, durable=False)
        self._written = content
