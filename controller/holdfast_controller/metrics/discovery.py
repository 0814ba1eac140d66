"""Where Prometheus finds the agents: its HTTP discovery, and the same as a file.

A machine is listed from its agent's first word until the cloud says that it has ended, or its end was ordered: one that is silent stays
listed, since that is what an alert is for.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast_controller.fleet import Fleet

MOST = 20_000


@dataclass(frozen=True, slots=True)
class Target:
    """An agent's metrics."""

    address: str
    port: int


class Targets:
    """Instance → where its agent serves metrics."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._known: dict[str, Target] = {}

    def note(self, instance_id: str, address: str, port: int) -> None:
        """An agent says where it serves; port 0: it does not."""
        self._known.pop(instance_id, None)
        if 0 < port <= 65535:
            self._known[instance_id] = Target(address, port)
        if len(self._known) > MOST:
            del self._known[next(iter(self._known))]

    def listed(self, fleet: Fleet) -> list[dict[str, Any]]:
        """Return what Prometheus' http_sd and file_sd want: one group for each machine that has a node's name."""
        found = []
        for instance_id, target in list(self._known.items()):
            record = fleet.instances.get(instance_id)
            if record is None or record.gone_at is not None or fleet.given_up(instance_id):
                if record is None or record.gone_at is not None:
                    del self._known[instance_id]
                continue
            address = record.instance.address or target.address
            node = fleet.nodes.get(record.node)
            if not address or node is None or node.instance_id != instance_id:
                continue
            host = f"[{address}]" if ":" in address else address
            pool = record.instance.pool
            labels = {"node": node.name, "cluster": self._cluster, "pool": pool, "provider": pool.partition("/")[0]}
            found.append({"targets": [f"{host}:{target.port}"], "labels": labels})
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
        partial = self._path.with_name(f".{self._path.name}.new")
        partial.write_bytes(content)
        os.chmod(partial, 0o644)
        os.replace(partial, self._path)
        self._written = content
