"""A Compute Engine that says exactly what it is told to, for what the sandbox's cannot be made to say."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

PROJECT = "/compute/v1/projects/sandbox-1/"
ZONE = "us-central1-a"
ZONES = (ZONE, "us-central1-b", "us-east1-b", "europe-west4-a")
NOW = 1_700_000_000.0


class ScriptedGce:
    """An HTTP server that answers what it is told, and remembers what it was asked.

    An action is the end of the path, or `DELETE`. Answers are taken in order; the last one stays: (status, body, seconds of silence).
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answers: dict[str, list[tuple[int, str, float]]] = {}
        self.location = ""
        self.released = threading.Event()
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                status, text, silence_s = scripted._next(self.command, self.path, body, dict(self.headers))
                if silence_s:
                    scripted.released.wait(silence_s)
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    if scripted.location:
                        self.send_header("Location", scripted.location)
                    self.send_header("Content-Length", str(len(text.encode())))
                    self.end_headers()
                    self.wfile.write(text.encode())
                    self.wfile.flush()
                except OSError:
                    self.close_connection = True

            def do_GET(self) -> None:
                self.answer()

            def do_POST(self) -> None:
                self.answer()

            def do_DELETE(self) -> None:
                self.answer()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """Clients that hang up on us are what some tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def _next(self, method: str, path: str, body: str, headers: dict[str, str]) -> tuple[int, str, float]:
        parts = urlsplit(path)
        below = parts.path.removeprefix(PROJECT)
        asked = {
            "path": below,
            "query": dict(parse_qsl(parts.query)),
            "body": json.loads(body or "{}"),
            "headers": headers,
            "action": method if method == "DELETE" else below,
        }
        self.requests.append(asked)
        found = next((said for action, said in self.answers.items() if asked["action"].endswith(action)), None)
        if not found:
            return 404, json.dumps(error_json("notFound", f"{below} is not scripted", 404)), 0.0
        return found.pop(0) if len(found) > 1 else found[0]

    def say(self, action: str, body: Any, *, status: int = 200, silence_s: float = 0.0) -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        self.answers.setdefault(action, []).append((status, text, silence_s))

    def refuse(self, action: str, reason: str, status: int, message: str = "no") -> None:
        self.say(action, error_json(reason, message, status), status=status)

    def redirect(self, action: str, location: str, status: int) -> None:
        self.location = location
        self.say(action, "", status=status)

    def asked(self, action: str) -> list[dict[str, Any]]:
        return [each for each in self.requests if each["action"].endswith(action)]

    def reset(self) -> None:
        """Forget everything; what is silent may speak."""
        self.released.set()
        self.released = threading.Event()
        self.requests.clear()
        self.answers.clear()
        self.location = ""

    def stop(self) -> None:
        self.reset()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def error_json(reason: str, message: str, status: int) -> dict[str, Any]:
    said = {"message": message, "domain": "global", "reason": reason}
    return {"error": {"code": status, "message": message, "errors": [said]}}


def instance_json(number: int, *, status: str = "RUNNING", launch: str = "launch-1", zone: str = ZONE, **tags: str) -> dict[str, Any]:
    full = {"holdfast:cluster": "alpha", "holdfast:launch": launch} | tags
    return {
        "id": str(number),
        "name": f"hf-{number}",
        "zone": f"https://www.googleapis.com/compute/v1/projects/sandbox-1/zones/{zone}",
        "machineType": f"zones/{zone}/machineTypes/a2-highgpu-8g",
        "status": status,
        "scheduling": {"provisioningModel": "SPOT"},
        "labels": {"holdfast-cluster": "alpha", "holdfast-launch": launch},
        "metadata": {"items": [{"key": "holdfast-tags", "value": json.dumps(full)}]},
        "creationTimestamp": "2023-11-14T14:13:20.000-08:00",
    }


def listed_json(*instances: dict[str, Any], token: str = "", unreachable: tuple[str, ...] = (), why: str = "") -> dict[str, Any]:
    items: dict[str, Any] = {f"zones/{zone}": {"warning": {"code": "NO_RESULTS_ON_PAGE", "message": "none"}} for zone in ZONES}
    for each in instances:
        zone = "zones/" + each["zone"].rpartition("/")[2]
        items[zone] = {"instances": [*items.get(zone, {}).get("instances", []), each]}
    for scope in unreachable if why else ():
        items[scope] = {"warning": {"code": why, "message": f"{scope} does not answer"}}
    said: dict[str, Any] = {"items": items} | ({"nextPageToken": token} if token else {})
    return said if why else said | {"unreachables": list(unreachable)}


def operation_json(status: str = "DONE", *, made: int | None = None, errors: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    said: dict[str, Any] = {"id": "7", "name": "operation-1", "zone": f"https://x/zones/{ZONE}", "status": status, "operationGroupId": "g1"}
    if made is not None:
        count = {"createdVmCount": made, "deletedVmCount": 0, "targetVmCount": made}
        said["instancesBulkInsertOperationMetadata"] = {"perLocationStatus": {f"zones/{ZONE}": count}}
    if errors:
        said["error"] = {"errors": [{"code": code, "message": f"{code}!"} for code in errors]}
    return said | more


def operations_json(*operations: dict[str, Any]) -> dict[str, Any]:
    return {"items": {f"zones/{ZONE}": {"operations": list(operations)}}}


def preempted_json(number: int, at: str) -> dict[str, Any]:
    return operation_json(operationType="compute.instances.preempted", targetId=str(number), insertTime=at)
