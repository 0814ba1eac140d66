"""Fakes of Google's and Azure's metadata services, for tests: they can misbehave, hold answers back, and note what was asked."""

import asyncio
import base64
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from holdfast_nodeagent.fakes import FakeMetadata, http_answer
from holdfast_nodeagent.notices.azure import EVENTS, INSTANCE

ROOT = "/computeMetadata/v1/instance/"
FLAVOR = "Metadata-Flavor: Google\r\n"
LAUNCH = {"holdfast": {"v": 1, "cluster": "lab", "launch_id": "l-1", "launch_token": "secret"}}
VM_ID = "02aab8a4-74ef-476e-8182-f6d2ba4166a6"
AT, AT_TEXT = 1649715418.0, "Mon, 11 Apr 2022 22:16:58 GMT"


class FakeGoogle(FakeMetadata):
    """Google's service: values with an etag, answered at once or, where it `waits`, when the value has changed."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = False
        self.etags = True
        self.changed = asyncio.Event()
        self.held = 0
        self.values = {
            "id": b"4242424242424242424",
            "zone": b"projects/12/zones/us-central1-a",
            "machine-type": b"projects/12/machineTypes/a3-highgpu-8g",
            "network-interfaces/0/ip": b"10.0.0.7",
            "scheduling/preemptible": b"TRUE",
            "attributes/user-data": b"#cloud-config\n#holdfast " + json.dumps(LAUNCH).encode() + b"\n",
            "preempted": b"FALSE",
            "maintenance-event": b"NONE",
        }

    def set(self, name: str, value: bytes) -> None:
        """Change a value, and answer those who wait for that."""
        self.values[name] = value
        self.changed.set()

    def asked(self, name: str) -> list[str]:
        """Return the requests for a value."""
        return [path for path in self.requests if path.startswith(f"GET {ROOT}{name}")]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            target = head.split(" ")[1]
            self.requests.append(f"GET {target}")
            assert "\r\nMetadata-Flavor: Google\r\n" in head
            name, query = urlsplit(target).path.removeprefix(ROOT), parse_qs(urlsplit(target).query)
            raw = self.raw.get(name)
            if callable(raw):
                await raw(writer)
            elif raw is not None:
                writer.write(raw)
            else:
                await self._hold(name, query)
                writer.write(self._value(name))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _hold(self, name: str, query: dict[str, list[str]]) -> None:
        if not self.waits or query.get("wait_for_change") != ["true"]:
            return
        self.held += 1
        while query["last_etag"] == [self.etag(name)]:
            self.changed.clear()
            await self.changed.wait()

    def etag(self, name: str) -> str:
        """Return the mark of a value."""
        return f"e-{self.values[name][:20].decode()}&"

    def _value(self, name: str) -> bytes:
        if name not in self.values:
            return http_answer(404, b"", FLAVOR)
        return http_answer(200, self.values[name], FLAVOR + (f"ETag: {self.etag(name)}\r\n" if self.etags else ""))


def event(kind: str = "Preempt", **more: Any) -> dict[str, Any]:
    """Return a scheduled event of the VM `vm1`."""
    return {
        "EventId": f"E-{kind}",
        "EventType": kind,
        "ResourceType": "VirtualMachine",
        "Resources": ["vm1"],
        "EventStatus": "Scheduled",
        "NotBefore": AT_TEXT,
        "Description": "",
        "EventSource": "Platform",
        "DurationInSeconds": -1,
        **more,
    }


def text(*events: Any, incarnation: Any = 2) -> bytes:
    """Return a document of scheduled events."""
    return json.dumps({"DocumentIncarnation": incarnation, "Events": list(events)}).encode()


def instance(**compute: Any) -> dict[str, Any]:
    """Return the document that says what the VM `vm1` is."""
    user_data = base64.b64encode(b"#cloud-config\n#holdfast " + json.dumps(LAUNCH).encode()).decode()
    about = {"vmId": VM_ID, "name": "vm1", "location": "eastus", "zone": "1", "vmSize": "Standard_ND96isr_H100_v5", "priority": "Spot"}
    address = {"ipAddress": [{"privateIpAddress": "10.0.0.7", "publicIpAddress": ""}]}
    return {"compute": {**about, "userData": user_data, **compute}, "network": {"interface": [{"ipv4": address}]}}


class FakeAzure(FakeMetadata):
    """Azure's service: one document for each path, and a note of what was posted."""

    def __init__(self) -> None:
        super().__init__()
        self.values = {EVENTS: text(incarnation=1), INSTANCE: json.dumps(instance()).encode()}
        self.posted: list[list[str]] = []
        self.post_status = 200

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, path, _ = head.split("\r\n")[0].split(" ")
            assert "\r\nMetadata: true\r\n" in head
            self.requests.append(f"{method} {path}")
            raw = self.raw.get(path)
            if method == "POST":
                length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
                requests = json.loads(await reader.readexactly(length))["StartRequests"]
                self.posted.append([each["EventId"] for each in requests])
                writer.write(http_answer(self.post_status))
            elif callable(raw):
                await raw(writer)
            else:
                writer.write(raw if raw is not None else http_answer(200, self.values[path]))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def announce(self, *events: Any, incarnation: int) -> None:
        """Set the document of scheduled events."""
        self.values[EVENTS] = text(*events, incarnation=incarnation)

    def asked(self) -> int:
        """Return how often events were asked for."""
        return self.requests.count(f"GET {EVENTS}")
