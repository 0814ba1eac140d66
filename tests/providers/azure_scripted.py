"""A Resource Manager that answers what it is told, and what its answers are made of."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bed_azure import GROUP, REGION, SUBNET, SUBSCRIPTION, TYPE
from holdfast_controller.providers.azure_wire import set_name

COMPUTE = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.Compute"
KINDS = (
    ("operation", "GET", r".*/operations/[^/]+"),
    ("put_set", "PUT", r".*/virtualMachineScaleSets/[^/]+"),
    ("get_set", "GET", r".*/virtualMachineScaleSets/[^/]+"),
    ("sets", "GET", r".*/virtualMachineScaleSets"),
    ("delete_set", "DELETE", r".*/virtualMachineScaleSets/[^/]+"),
    ("delete_machines", "POST", r".*/virtualMachineScaleSets/[^/]+/delete"),
    ("machine", "GET", r".*/virtualMachines/[^/]+"),
    ("delete_machine", "DELETE", r".*/virtualMachines/[^/]+"),
    ("states", "GET", r"/subscriptions/[^/]+/providers/Microsoft.Compute/virtualMachines"),
    ("machines", "GET", r".*/virtualMachines"),
    ("cards", "GET", r".*/networkInterfaces"),
    ("sizes", "GET", r".*/skus"),
    ("scores", "POST", r".*/placementScores/spot/generate"),
)
Answer = tuple[int, str, dict[str, str], float]


class ScriptedArm:
    """Answers are taken in order; the last one stays. What is not scripted is an empty list, or not found."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: dict[str, list[Answer]] = {}
        self.released = threading.Event()
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def handle_any(self) -> None:
                status, text, headers, silence_s = scripted._take(self)
                if silence_s:
                    scripted.released.wait(silence_s)
                try:
                    self.send_response(status)
                    for name, value in {"Content-Type": "application/json", **headers}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(text.encode())))
                    self.end_headers()
                    self.wfile.write(text.encode())
                    self.wfile.flush()
                except OSError:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        for method in ("GET", "PUT", "POST", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.handle_any)

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """Clients that hang up on us are what some tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def _take(self, handler: BaseHTTPRequestHandler) -> Answer:
        split = urlsplit(handler.path)
        query = {key: values[0] for key, values in parse_qs(split.query).items()}
        content = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        kind = next((kind for kind, method, path in KINDS if method == handler.command and re.fullmatch(path, split.path)), "other")
        kind = "machines_of" if kind == "machines" and "$filter" in query else kind
        self.requests.append((kind, split.path, query, json.loads(content) if content else None))
        self.headers.append(dict(handler.headers))
        answers = self.answers.get(kind)
        if not answers:
            listing = kind in ("sets", "states", "machines", "machines_of", "cards", "sizes")
            return (200, '{"value": []}', {}, 0.0) if listing else (404, error("ResourceNotFound"), {}, 0.0)
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def say(self, kind: str, body: Any, *, status: int = 200, silence_s: float = 0.0, **headers: str) -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.setdefault(kind, []).append((status, text, names, silence_s))

    def lists(self, kind: str, *items: Any, **more: Any) -> None:
        self.say(kind, {"value": list(items), **more})

    def refuse(self, kind: str, code: str, *, status: int = 409, message: str = "no", **headers: str) -> None:
        self.say(kind, error(code, message), status=status, **headers)

    def accepts(self, name: str) -> None:
        """The creation of a set, with an operation to follow."""
        link = f"{self.url}/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/locations/{REGION}/operations/1?api-version=2026-04-01"
        self.say("put_set", scale_set(name, state="Creating"), status=201, Azure_AsyncOperation=link, Retry_After="0")

    def asked(self, kind: str) -> list[tuple[str, dict[str, str], Any]]:
        return [(path, query, body) for found, path, query, body in self.requests if found == kind]

    def stop(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def error(code: str, message: str = "no") -> str:
    return json.dumps({"error": {"code": code, "message": message}})


def ident(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def machine(
    number: int,
    state: str = "Succeeded",
    *,
    power: str = "",
    launch: str = "launch-1",
    cluster: str = "alpha",
    tags: dict[str, str] | None = None,
    failed: str = "",
    created: str = "2023-11-14T22:00:00Z",
    **more: Any,
) -> dict[str, Any]:
    """A spot machine of a launch's set, named vm<number>."""
    statuses = [{"code": f"PowerState/{power}"}] if power else []
    statuses += [{"code": f"ProvisioningState/failed/{failed}", "message": "none left"}] if failed else []
    properties: dict[str, Any] = {
        "vmId": ident(number),
        "provisioningState": state,
        "hardwareProfile": {"vmSize": TYPE},
        "priority": "Spot",
        "timeCreated": created,
        "virtualMachineScaleSet": {"id": f"{COMPUTE}/virtualMachineScaleSets/{set_name(cluster, launch).upper()}"},
    }
    if statuses:
        properties["instanceView"] = {"statuses": statuses}
    own = {"holdfast:cluster": cluster, "holdfast:launch": launch} if tags is None else tags
    return {
        "id": f"{COMPUTE}/virtualMachines/vm{number}",
        "name": f"vm{number}",
        "location": "East US",
        "zones": ["1"],
        "tags": own,
        "properties": properties | more,
    }


def scale_set(
    name: str,
    *,
    state: str = "Succeeded",
    capacity: int = 0,
    tags: dict[str, str] | None = None,
    created: str = "2023-11-14T22:00:00Z",
) -> dict[str, Any]:
    return {
        "id": f"{COMPUTE}/virtualMachineScaleSets/{name}",
        "name": name,
        "location": REGION,
        "tags": {"holdfast:cluster": "alpha", "holdfast:launch": "launch-1"} if tags is None else tags,
        "sku": {"name": TYPE, "tier": "Standard", "capacity": capacity},
        "properties": {"provisioningState": state, "timeCreated": created},
    }


def card(number: int, address: str) -> dict[str, Any]:
    """The network interface of a machine."""
    settings = [{"name": "primary", "properties": {"privateIPAddress": address, "subnet": {"id": SUBNET}}}]
    owner = {"id": f"{COMPUTE}/virtualMachines/VM{number}"}
    return {
        "id": f"{COMPUTE}/networkInterfaces/nic{number}",
        "name": f"nic{number}",
        "properties": {"virtualMachine": owner, "ipConfigurations": settings},
    }
